"""The whole state of a run, to a checkpoint and back: weights, moving average, optimizer, step, and figures so far."""

import json
import shutil
import sys
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from common.console import plain_number
from common.errors import UserError
from common.files import is_folder, write_atomically
from data.class_folders import same_names
from data.dataset import changed_parts
from engine.checkpoints import best_weights, store
from engine.runtime import agreement, sharding
from engine.runtime.sharing import from_one
from options.resumed import near_runs
from tasks.metric_sums import SAMPLES, MetricSums, over_processes

if TYPE_CHECKING:
    from engine.run import Run

# Options that may differ between a run and its resumption, as they do not change what is computed.
FREE_OPTIONS = frozenset(
    {
        "dataset",  # its images are compared, wherever they lie
        "data_dir",
        "epochs",
        "patience",
        "workers",
        "cpu",
        "compile",
        "recipe",
        "list_models",
        "list_datasets",
        "pretrained",
    }
    | {"output_dir", "run_name", "track", "log_every", "resume", "checkpoint_every", "keep", "max_time", "verbose"}
    | {"seeds", "sweep", "ensemble", "member_of"}
)


def save(run: "Run") -> None:
    """Write a checkpoint of the step reached; to be called by all processes.

    Raises:
        UserError: the disk is full or not writable; older checkpoints stay.
        RuntimeError: the processes' weights differ, so that there is no one state to save.
    """
    run.finite_guard.raise_if_nonfinite()
    agreement.check_equal_weights(run.plain_model, run.accelerator)
    metrics = over_processes(run.metrics, run.accelerator)
    tensors = {
        "model": sharding.gather(run.plain_model.state_dict(), run.accelerator),
        "optimizer": sharding.gather(store.optimizer_tensors(run.optimizer), run.accelerator),
    }
    if run.accelerator.is_main_process:
        if run.ema is not None:
            tensors["ema"] = run.ema.model.state_dict()
        scaler = run.accelerator.scaler
        state = {
            "step": run.step,
            "history": run.history,
            "totals": metrics,
            "seconds": run.seconds + time.perf_counter() - run.clock,
            "best_from": run.best_from,
            "class_names": run.data.class_names,
            "data": run.fingerprints["train"],  # all that versions before `fingerprints` knew
            "fingerprints": run.fingerprints,
            "options": vars(run.args),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        place = run.folder / "checkpoints" / f"step-{run.step}"
        try:
            store.save(place, tensors, state, run.args.keep)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot save {place}: {error}; make room, then go on with --resume auto") from error
    run.accelerator.wait_for_everyone()


def resume(run: "Run") -> Path | None:
    """Put the run where its checkpoint left off, or leave it at its start where `auto` finds none.

    Returns:
        The checkpoint's folder, or None.

    Raises:
        UserError: no intact checkpoint, or one of another model, other classes or other options.
    """
    found = _find_on_all(run)
    if found is None:
        near = near_runs(run.folder)
        run.progress.say(f"no checkpoint in {run.folder}: starting afresh{f' (there is {near[0]})' if near else ''}")
        return None
    place, tensors, state, complaints = found
    for complaint in complaints:
        if run.accelerator.is_main_process:
            print(f"warning: {complaint}; falling back to {place}", file=sys.stderr, flush=True)
    _check_same_run(run, place, state)
    store.load_weights(run.plain_model, tensors["model"], str(place))
    store.load_optimizer(run.optimizer, tensors["optimizer"])
    if run.ema is not None:
        store.load_weights(run.ema.model, tensors["ema"], str(place))
    if run.accelerator.scaler is not None and state["scaler"]:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.step, run.history, run.seconds = state["step"], state["history"], state["seconds"]
    run.best_from = state["best_from"]
    if run.accelerator.is_main_process:  # one process goes on with the sum over all
        run.metrics = _as_sums(state["totals"], run.metrics)
    run.progress.say(f"resuming {place} at step {run.step} of {run.plan.total_steps}")
    if state["options"]["epochs"] != run.args.epochs:
        _remove_later(run)
    return place


def _as_sums(saved: dict[str, float] | list[float], like: MetricSums) -> MetricSums:
    """Sums of metrics on their device, from a checkpoint; those of earlier versions had no names."""
    named = saved if isinstance(saved, dict) else dict(zip(("loss", "accuracy", SAMPLES), saved, strict=True))
    return {name: torch.full_like(zero, named.get(name, 0.0)) for name, zero in like.items()}


def _remove_later(run: "Run") -> None:
    """Remove the run's checkpoints of later steps, which other --epochs, and so other learning rates, had led to."""
    own = store.list_checkpoints(run.folder / "checkpoints")
    later = [folder for folder in own if store.step_of(folder) > run.step]
    if later and run.accelerator.is_main_process:
        run.progress.say(f"removing {', '.join(folder.name for folder in later)}: they are of other --epochs")
        for folder in later:
            shutil.rmtree(folder)
    run.accelerator.wait_for_everyone()


def is_reported(run: "Run") -> bool:
    """Whether the run is done and its folder holds the report on it; the main process looks, for all.

    Where it goes on instead, or is to be reported, what an earlier end of it had left is removed.
    """
    needed = [run.folder / name for name in run.task.report_parts()]
    reported = False
    if run.accelerator.is_main_process:
        reported = run.done and all(path.exists() for path in needed) and _holds_the_best(run)
        for name in () if reported else ("test.json", *run.task.report_files):
            (run.folder / name).unlink(missing_ok=True)
    return broadcast_object_list([reported])[0]


def _holds_the_best(run: "Run") -> bool:
    """Whether the folder has figures up to the step reached, and in best.pth the weights of the best epoch in them.

    A checkpoint that was saved in the last evaluation knows less than train.json.
    """
    try:
        trained = json.loads((run.folder / "train.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    best, last = trained["epochs"][trained["best_epoch"] - 1], trained["epochs"][-1]
    return last["step"] == run.step and _step_of(run.folder / "best.pth") == best["step"]


def recover_best(run: "Run", place: Path) -> None:
    """See to it that best.pth, which is no part of a checkpoint, holds the epoch that the resumed history calls best.

    It does not when it was deleted, when the run goes on in another folder than that of the checkpoint `place`, or
    when an epoch after `place` had replaced it. Where it cannot be had, the best is looked for from here on.
    """
    if not run.history:
        return
    step = run.history[run.best_epoch() - 1]["step"]
    own, of_checkpoint = run.folder / "best.pth", place.parent.parent / "best.pth"
    found = False
    if run.accelerator.is_main_process:
        found = _step_of(own) == step
        if not found and _step_of(of_checkpoint) == step:
            write_atomically(own, lambda copy: shutil.copyfile(of_checkpoint, copy))
            found = True
    if broadcast_object_list([found])[0] or _fetch_best(own, of_checkpoint, step):
        return
    at_end_of_epoch = run.step == run.history[-1]["step"]
    run.best_from = len(run.history) + (not at_end_of_epoch)
    if run.accelerator.is_main_process:
        print(f"warning: {own} does not hold the best epoch so far: from here on, starting anew", file=sys.stderr)
    if at_end_of_epoch:
        run.keep_weights()


def _fetch_best(own: Path, there: Path, step: int) -> bool:
    """Give the main process the best.pth of that step that another process finds `there`, on its own disk."""
    have = gather_object([_step_of(there) == step])
    if True not in have:
        return False
    content = from_one(there.read_bytes, have.index(True))
    if PartialState().is_main_process:
        write_atomically(own, lambda copy: copy.write_bytes(content))
    return True


def _step_of(path: Path) -> int | None:
    """The step whose weights a best.pth holds; None where it cannot be read."""
    try:
        return best_weights.load(path)["step"]
    except UserError:
        return None


def _find_on_all(run: "Run") -> tuple | None:
    """What `_find` finds, the same on all processes, whose machines may have disks of their own.

    Where not all see the same, the process with the newest checkpoint sends it to the others.
    """
    seen = gather_object([_newest_manifest(run)])
    if all(manifest == seen[0] for manifest in seen):
        return _find(run)
    steps = [-1 if manifest is None else manifest[0] for manifest in seen]
    return from_one(lambda: _find(run), steps.index(max(steps)))


def _newest_manifest(run: "Run") -> tuple[int, str] | None:
    """(step, manifest) of the newest checkpoint that --resume may mean, intact or not, as this process sees it."""
    asked = run.folder if run.args.resume == "auto" else Path(run.args.resume)
    inside = store.list_checkpoints(asked / "checkpoints")
    for folder in inside if is_folder(asked / "checkpoints") else [asked]:
        try:
            text = (folder / store.MANIFEST).read_text(encoding="utf-8")
            return json.loads(text)["step"], text
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _find(run: "Run") -> tuple | None:
    """(folder, tensors, state, complaints about newer ones) of the checkpoint that --resume asks for."""
    if run.args.resume == "auto":
        if run.args.run_name is None:
            raise UserError("--resume auto needs the --run-name of the run to go on with")
        return store.newest_intact(run.folder / "checkpoints")
    place = Path(run.args.resume)
    if is_folder(place / "checkpoints"):  # a run's folder
        found = store.newest_intact(place / "checkpoints")
        if found is None:
            raise UserError(f"--resume {place}: no checkpoint in {place / 'checkpoints'}")
        return found
    try:
        return place, *store.load(place), []
    except store.Damaged as error:
        raise UserError(f"--resume {run.args.resume}: {error}") from error


def _check_same_run(run: "Run", place: Path, state: dict) -> None:
    before, dataset = state["options"], run.args.dataset
    changed = changed_parts(state.get("fingerprints") or {"train": state["data"]}, run.fingerprints)
    if before["dataset"] != dataset and (changed or not same_names(state["class_names"], run.data.class_names)):
        raise UserError(
            f"{place} was trained on other images than those of --dataset {dataset}: give --dataset "
            f"{quote(before['dataset'])} again, or start a new run"
        )
    if before.get("mixed_precision") == "auto":  # as earlier versions recorded it, whatever it came to
        before = before | {"mixed_precision": run.args.mixed_precision}
    differing = [
        f"--{name.replace('_', '-')} was {plain_number(before.get(name))} and is {plain_number(value)}"
        for name, value in vars(run.args).items()
        if name not in FREE_OPTIONS and before.get(name, value) != value  # an option may be younger than the run
    ]
    if differing:
        raise UserError(f"{place} cannot go on with other options: {'; '.join(differing)}; give them as they were")
    if not same_names(state["class_names"], run.data.class_names):
        raise UserError(f"{place} was trained on other classes than those of --dataset {dataset}")
    if changed:
        raise UserError(
            f"{place} is of a run on other images: the {changed} images of --dataset {dataset} have changed since; "
            "bring them back, or start a new run"
        )
    if run.args.epochs < before["epochs"]:  # more is allowed: a run that is done can be trained on
        raise UserError(f"{place} is of a run of --epochs {before['epochs']}: give that many, or more")
