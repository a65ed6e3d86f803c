"""The start of a run, new or resumed: its folder, its parts put together, its first words on the screen."""

import json
import math
import time
import weakref
from pathlib import Path

from accelerate.utils import broadcast_object_list

from common import console
from data.workers import count_workers
from engine.build import build_sampler
from engine.checkpoints import resume
from engine.finite_guard import FiniteGuard
from engine.output import run_dir, run_log, trackers
from engine.output.progress import Progress
from engine.run import Parts, Run, is_done
from engine.runtime import agreement, hardware, peers
from engine.runtime.accelerator import describe
from engine.runtime.sharing import from_one
from engine.runtime.signals import StopRequest
from engine.train_state import TrainState
from models import summary
from models.layers import sync_batch_norm
from options.resumed import near_runs
from options.training import SYNC_BN_BELOW


def start_run(parts: Parts, facts: dict, stop: StopRequest) -> Run:
    """Resume if asked to, make the folder, start trackers and clock.

    Args:
        parts: built from options.
        facts: about the model, from `models/summary.py`.
        stop: from here on it waits for the loop, which saves before it obeys.

    Raises:
        UserError: the folder cannot be written, what is in it does not go with the options, or the shared memory is
            too small.
    """
    args, accelerator, plan = parts.args, parts.accelerator, parts.plan
    agreement.send_no_buffers(parts.model)
    trackers.check_installed(args.track)
    folder = _same_on_all(run_dir.choose_folder(args, parts.data.name))
    may_exist = bool(args.resume or not args.run_name)
    from_one(lambda: run_dir.check_folder(folder, facts["parameters"], may_exist, args.keep))
    progress = Progress(accelerator.is_main_process, args.epochs, plan.steps_per_epoch, args.batch_size)
    state, fingerprints = TrainState(parts.task.zero_metrics()), parts.data.fingerprints()
    found = None if args.resume is None else _restore(parts, state, folder, fingerprints, progress)
    places = None if found is None else found.state.get("places")
    sampler = build_sampler(args, parts.data, parts.task, plan, accelerator, state.step, places)
    workers = count_workers(
        args.workers,
        live=parts.data.live or args.stream,
        batch_bytes=sampler.images_at_once * (math.prod(parts.data.shape) + 24),  # and label, id and epoch of each
        processes_here=hardware.local_processes(),
    )
    folder, claim = _take(folder, parts)
    run = Run(
        **vars(parts),
        state=state,
        folder=folder,
        fingerprints=fingerprints,
        sampler=sampler,
        workers=workers,
        finite_guard=FiniteGuard(accelerator, parts.optimizer, sampler.ids_at),
        progress=progress,
        stop=stop,
        trackers=[],
        log_every=args.log_every,
        reported=found is not None and _is_reported(parts, state, folder),
    )
    run.release = weakref.finalize(run, run_dir.release, claim)
    if found is not None:
        peers.say_how_to_go_on(run.to_go_on())
    if not run.reported:
        run_log.open_log(folder, accelerator)
    if found is not None and not run.reported:
        _recover_best(run, found.folder)
    run.begin_epoch()
    accelerator.wait_for_everyone()
    _introduce(run, facts)
    _begin(run)
    return run


def _restore(
    parts: Parts, state: TrainState, folder: Path, fingerprints: dict[str, str], progress: Progress
) -> resume.Found | None:
    """Put model, average, optimizer and state where the checkpoint that --resume asks for left off, if there is one."""
    args, accelerator = parts.args, parts.accelerator
    found = resume.find(args.resume, args.run_name, folder)
    if found is None:
        near = near_runs(folder)
        progress.say(f"no checkpoint in {folder}: starting afresh{f' (there is {near[0]})' if near else ''}")
        return None
    resume.check_same_run(found, args, parts.data, fingerprints)
    resume.load(found, parts.unwrapped_model, parts.optimizer, parts.ema_model, accelerator)
    state.load_state_dict(found.state, accelerator.is_main_process)
    progress.say(f"resuming {found.folder} at step {state.step} of {parts.plan.total_steps}")
    if len(found.state.get("places", [])) not in (0, accelerator.num_processes):
        progress.say(
            "warning: the number of processes has changed: the stream goes on at the start of the pass under way"
        )
    if found.state["options"]["epochs"] != args.epochs:
        if accelerator.is_main_process:
            removed = resume.remove_later(folder, state.step)  # other learning rates had led to them
            if removed:
                progress.say(f"removing {', '.join(removed)}: they are of other --epochs")
        accelerator.wait_for_everyone()
    return found


def _take(folder: Path, parts: Parts) -> tuple[Path, int | None]:
    """The run's folder, which has another name where it is taken, and what keeps other runs out of it."""
    claim = None
    if parts.accelerator.is_main_process:
        folder = folder if parts.args.run_name else run_dir.make_new(folder)
        claim = run_dir.claim(folder)
    return _same_on_all(folder), claim


def _begin(run: Run) -> None:
    """Start the clock, and do what the run was stopped before: the evaluation of an epoch whose steps are done."""
    state = run.state
    run.stop.patient = True
    state.clock = time.perf_counter()
    if state.step == (len(state.history) + 1) * run.plan.steps_per_epoch and not run.reported:
        run.validate()
    if not run.done:
        run.progress.begin(state.step)


def _same_on_all(folder: Path) -> Path:
    """The main process's folder, on every process."""
    return Path(broadcast_object_list([str(folder)])[0])


def _is_reported(parts: Parts, state: TrainState, folder: Path) -> bool:
    """Whether the run is done and its folder holds the report on it; the main process looks, for all.

    Where it goes on instead, or is to be reported, what an earlier end of it had left is removed.
    """
    reported, task = False, parts.task
    if parts.accelerator.is_main_process:
        reported = is_done(parts, state) and resume.is_reported(folder, task.report_parts(), state.step)
        if reported and parts.args.calibrate:  # may be asked for when all else is done
            reported = "temperature" in json.loads((folder / "test.json").read_text(encoding="utf-8"))
        for name in () if reported else ("test.json", "test.csv", "report.html", *task.report_files):
            (folder / name).unlink(missing_ok=True)
    return broadcast_object_list([reported])[0]


def _recover_best(run: Run, checkpoint: Path) -> None:
    """Have best.pth hold the epoch that the resumed history calls best; where it cannot be had, look for it anew."""
    state = run.state
    if not state.history or resume.recover_best(run.folder, checkpoint, state.history[run.best_epoch - 1]["step"]):
        return
    at_end_of_epoch = state.step == state.history[-1]["step"]
    state.best_from = len(state.history) + (not at_end_of_epoch)
    if run.accelerator.is_main_process:
        own = run.folder / "best.pth"
        console.note(f"warning: {own} does not hold the best epoch so far: from here on, starting anew")
    if at_end_of_epoch:
        run.keep_weights()


def _introduce(run: Run, facts: dict) -> None:
    """Say what is trained on what and where; write the same into the folder, and start the trackers there."""
    args, accelerator = run.args, run.accelerator
    lines = [describe(accelerator)]
    if accelerator.num_processes > 1:
        by_default = f"on by default below {SYNC_BN_BELOW} images a process; --no-sync-bn turns it off"
        why = "--sync-bn" if args.sync_bn else by_default
        lines += filter(None, [sync_batch_norm.in_words(run.unwrapped_model, why)])
    run.progress.say(summary.as_text(facts, args.model, args.verbose))
    images = [run.data.in_words(), *run.data.remarks, *_of_another_size(run)]
    run.progress.say("\n".join([*images, *lines, f"{run.folder}/\n"]))
    if accelerator.is_main_process and not run.reported:
        run_dir.describe_run(run.folder, args, accelerator, facts)
        resumed_at = None if args.resume is None else run.state.step
        run.trackers = trackers.start_trackers(args.track, run.folder, vars(args), resumed_at)


def _of_another_size(run: Run) -> list[str]:
    """A line where the model is to see the images larger or smaller than they are, which changes a step's time."""
    (height, width, _), seen = run.data.shape, run.task.input_shape[1:]
    if (height, width) == seen:
        return []
    return [f"images of {height}x{width} are resized to {seen[0]}x{seen[1]} for the model: --input-size sets that size"]
