"""A run's whole state, to a checkpoint and back: weights, moving average, optimizer, and what `TrainState` holds."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import Tensor, nn

from common import console
from common.console import plain_number
from common.errors import UserError
from common.files import is_folder, write_atomically
from data.class_folders import same_names
from data.dataset import DataSplits, changed_parts
from engine.checkpoints import best_weights, store
from engine.runtime import sharding
from engine.runtime.sharing import from_one
from options.groups import OPTIONS, TrainOptions


class Found(NamedTuple):
    """A checkpoint: its folder, its tensors by file, its state, and why newer ones were passed over."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict
    complaints: list[str]


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: nn.Module | None,
    accelerator: Accelerator,
    state: dict,
    keep: int,
) -> None:
    """Write a checkpoint into `folder`; to be called by all processes.

    Args:
        folder: new, in the run's checkpoints/.
        model, ema: unwrapped.
        state: plain values.
        keep: checkpoints that are kept, the newest ones.

    Raises:
        UserError: the disk is full or not writable; older checkpoints stay.
    """
    tensors = {
        "model": sharding.gather(model.state_dict(), accelerator),
        "optimizer": sharding.gather(store.optimizer_tensors(optimizer), accelerator),
    }
    if ema is not None:
        tensors["ema"] = sharding.gather(ema.state_dict(), accelerator)
    if accelerator.is_main_process:
        scaler = accelerator.scaler
        try:
            store.save(folder, tensors, {**state, "scaler": scaler.state_dict() if scaler is not None else None}, keep)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot save {folder}: {error}; make room, then go on with --resume auto") from error
    accelerator.wait_for_everyone()


def load(
    found: Found, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None, accelerator: Accelerator
) -> None:
    """Put the tensors of a checkpoint where `save` had them from.

    Raises:
        UserError: it is of another model.
    """
    store.load_weights(model, found.tensors["model"], str(found.folder))
    store.load_optimizer(optimizer, found.tensors["optimizer"])
    if ema is not None:
        store.load_weights(ema, found.tensors["ema"], str(found.folder))
    if accelerator.scaler is not None and found.state["scaler"]:
        accelerator.scaler.load_state_dict(found.state["scaler"])


def find(asked: str, run_name: str | None, folder: Path) -> Found | None:
    """The checkpoint that --resume asks for, the same on all processes, whose machines may have disks of their own.

    Where not all see the same, the process with the newest checkpoint sends it to the others.

    Args:
        asked: "auto" for the newest intact one of the run in `folder`, a run's folder, or a checkpoint.
        run_name: of the run; "auto" needs one.
        folder: where the run goes on.

    Raises:
        UserError: there is none, or it is damaged.
    """
    seen = gather_object([_newest_manifest(folder if asked == "auto" else Path(asked))])
    if all(manifest == seen[0] for manifest in seen):
        found = _find(asked, run_name, folder)
    else:
        steps = [-1 if manifest is None else manifest[0] for manifest in seen]
        found = from_one(lambda: _find(asked, run_name, folder), steps.index(max(steps)))
    if found is not None and PartialState().is_main_process:
        for complaint in found.complaints:
            console.note(f"warning: {complaint}; falling back to {found.folder}")
    return found


def _find(asked: str, run_name: str | None, folder: Path) -> Found | None:
    if asked == "auto":
        if run_name is None:
            raise UserError("--resume auto needs the --run-name of the run to go on with")
        newest = store.newest_intact(folder / "checkpoints")
        return None if newest is None else Found(*newest)
    path = Path(asked)
    if is_folder(path / "checkpoints"):  # a run's folder
        newest = store.newest_intact(path / "checkpoints")
        if newest is None:
            raise UserError(f"--resume {path}: no checkpoint in {path / 'checkpoints'}")
        return Found(*newest)
    try:
        return Found(path, *store.load(path), [])
    except store.Damaged as error:
        raise UserError(f"--resume {asked}: {error}") from error


def _newest_manifest(asked: Path) -> tuple[int, str] | None:
    """(step, manifest) of the newest checkpoint in a run's folder, or of this one, intact or not, if there is any."""
    inside = store.list_checkpoints(asked / "checkpoints")
    for folder in inside if is_folder(asked / "checkpoints") else [asked]:
        try:
            text = (folder / store.MANIFEST).read_text(encoding="utf-8")
            return json.loads(text)["step"], text
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def check_same_run(found: Found, args: TrainOptions, data: DataSplits, fingerprints: dict[str, str]) -> None:
    """Raise UserError unless a checkpoint is of a run of these options on these images."""
    folder, state = found.folder, found.state
    before, dataset = state["options"], args.dataset
    changed = changed_parts(state.get("fingerprints") or {"train": state["data"]}, fingerprints)
    if before["dataset"] != dataset and (changed or not same_names(state["class_names"], data.class_names)):
        raise UserError(
            f"{folder} was trained on other images than those of --dataset {dataset}: give --dataset "
            f"{quote(before['dataset'])} again, or start a new run"
        )
    if before.get("mixed_precision") == "auto":  # as earlier versions recorded it, whatever it came to
        before = before | {"mixed_precision": args.mixed_precision}
    differing = [
        f"{OPTIONS[name].flag} was {plain_number(before.get(name))} and is {plain_number(value)}"
        for name, value in vars(args).items()
        if OPTIONS[name].must_match and before.get(name, value) != value  # an option may be younger than the run
    ]
    if differing:
        raise UserError(f"{folder} cannot go on with other options: {'; '.join(differing)}; give them as they were")
    if not same_names(state["class_names"], data.class_names):
        raise UserError(f"{folder} was trained on other classes than those of --dataset {dataset}")
    if changed:
        raise UserError(
            f"{folder} is of a run on other images: the {changed} images of --dataset {dataset} have changed since; "
            "bring them back, or start a new run"
        )
    if args.epochs < before["epochs"]:  # more is allowed: a run that is done can be trained on
        raise UserError(f"{folder} is of a run of --epochs {before['epochs']}: give that many, or more")


def remove_later(folder: Path, step: int) -> list[str]:
    """Remove the checkpoints in a run's `folder` that are of later steps; returns their names."""
    later = [
        checkpoint for checkpoint in store.list_checkpoints(folder / "checkpoints") if store.step_of(checkpoint) > step
    ]
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    return [checkpoint.name for checkpoint in later]


def is_reported(folder: Path, parts: Sequence[str], step: int) -> bool:
    """Whether a run's `folder` holds the whole report on it at `step`, its last.

    That is: these files, metrics up to that step, and in best.pth the weights of the best epoch in them. A checkpoint
    that was saved in the last evaluation knows less than train.json.
    """
    if not all((folder / name).exists() for name in parts):
        return False
    try:
        trained = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    best, last = trained["epochs"][trained["best_epoch"] - 1], trained["epochs"][-1]
    return last["step"] == step and _step_of(folder / "best.pth") == best["step"]


def recover_best(folder: Path, checkpoint: Path, step: int) -> bool:
    """Have best.pth, which is no part of a checkpoint, hold the weights of `step` again; to be called by all processes.

    It does not when it was deleted, when the run goes on in another `folder` than that of its `checkpoint`, or when a
    later epoch had replaced it.

    Returns:
        Whether it does; if not, these weights cannot be had.
    """
    own, of_checkpoint = folder / "best.pth", checkpoint.parent.parent / "best.pth"
    found = False
    if PartialState().is_main_process:
        found = _step_of(own) == step
        if not found and _step_of(of_checkpoint) == step:
            write_atomically(own, lambda copy: shutil.copyfile(of_checkpoint, copy))
            found = True
    return broadcast_object_list([found])[0] or _fetch_best(own, of_checkpoint, step)


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
