"""Trackers: Accelerate's own, for TensorBoard and Weights & Biases, on the main process only."""

import contextlib
import importlib.util
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from torch import nn

from common import console
from common.errors import UserError
from common.files import write_atomically
from options.groups import OPTIONS
from options.schema import Role

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]

# How the names begin of what the end of a run adds to TensorBoard; "end/" in runs of earlier versions.
OF_THE_END = ("_hparams_/", "test/", "total/", "end/")


def check_installed(names: str) -> None:
    """Raise UserError when a tracker's package is missing. `names`: the text of --track."""
    for name in _wanted(names):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--track {name}: the package is not installed; run 'pip install {name}' or leave it out")


def start_trackers(names: str, folder: Path, options: dict, resumed_at: int | None) -> list[GeneralTracker]:
    """Start the trackers of a run; their files go into the run's folder.

    Args:
        names: the text of --track.
        folder: of the run.
        options: of the run, for the trackers that show them.
        resumed_at: the step that a resumed run goes on from: what was logged after it will be logged again, so
            TensorBoard is told to forget it, and the end of the run where it had one. None for a new run.
    """
    trackers: list[GeneralTracker] = []
    for name in _wanted(names):
        if name == "tensorboard":
            if resumed_at is not None:
                _forget_end(folder)
            tracker = TensorBoardTracker(
                folder.name, str(folder.parent), purge_step=None if resumed_at is None else resumed_at + 1
            )
        else:
            os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))  # else its logs go to ~/.cache
            tracker = WandBTracker("sameloop", name=folder.name, dir=str(folder), config=options)
        tracker.start()
        trackers.append(tracker)
    return trackers


def log(trackers: list[GeneralTracker], values: dict[str, float | None], step: int) -> None:
    """Log metrics at an optimizer step; those that are None are left out."""
    known = {name: value for name, value in values.items() if value is not None}
    for tracker in trackers:
        tracker.log(known, step=step)


def log_pictures(trackers: list[GeneralTracker], pictures: dict[str, np.ndarray], step: int) -> None:
    """Show pictures, uint8 (H, W, 3), under their names."""
    for name, pixels in pictures.items():
        for tracker in trackers:
            extra = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: pixels[None]}, step=step, **extra)


def log_end(trackers: list[GeneralTracker], options: dict, metrics: dict[str, float | None], step: int) -> None:
    """Log the last metrics of a run, and, for TensorBoard's page HPARAMS, the options that gave them.

    Args:
        trackers: of the run.
        options: all of the run's.
        metrics: under names that begin with one of `OF_THE_END`; those that are None are left out.
        step: the last.
    """
    log(trackers, metrics, step)
    for tracker in _tensorboards(trackers):
        from torch.utils.tensorboard.summary import hparams  # a moment, for those who look there

        # Without the first, a table of contents: TensorBoard would take one run's for all of them, and hide a
        # --model-arg that this run was not given.
        _, start, end = hparams(hyper_parameters(options), {})
        for summary in (start, end):
            tracker.writer.file_writer.add_summary(summary)


def hyper_parameters(options: dict) -> dict[str, str | bool | int | float]:
    """The options that say what a run does and that were given or have a default; --model-arg by its keys."""
    flat = {name: value for name, value in options.items() if OPTIONS[name].role is Role.RESULT and name != "model_arg"}
    flat |= {f"model_arg.{key}": value for key, value in options["model_arg"].items()}
    plain = (str, bool, int, float)
    return {
        name: value if isinstance(value, plain) else str(value) for name, value in flat.items() if value is not None
    }


def log_graph(trackers: list[GeneralTracker], model: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Draw the model in TensorBoard, in evaluation mode; one that cannot be traced is a line on standard error.

    Args:
        trackers: of the run.
        model: not wrapped; left as it was.
        input_shape: (channels, height, width).
    """
    image = torch.zeros(1, *input_shape, device=next(model.parameters()).device)
    for tracker in _tensorboards(trackers):
        # PyTorch warns that tracing is deprecated and that sizes become constants, and prints the errors it raises.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                tracker.writer.add_graph(model, image)
            except (RuntimeError, TypeError, ValueError, AssertionError, torch.jit.TracingCheckError) as error:
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                console.note(f"note: no graph in TensorBoard, as the model cannot be traced: {reason}")


def finish(trackers: list[GeneralTracker]) -> None:
    """Flush and close."""
    for tracker in trackers:
        tracker.finish()


def _wanted(names: str) -> list[str]:
    return [name for name in names.split(",") if name != "none"]


def _tensorboards(trackers: list[GeneralTracker]) -> list[TensorBoardTracker]:
    return [tracker for tracker in trackers if tracker.name == "tensorboard"]


def _forget_end(folder: Path) -> None:
    """Take what the end of a run adds out of its event files: of two sets TensorBoard would show the older one."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]
    from tensorboard.summary.writer.record_writer import RecordWriter

    for path in folder.glob("events.out.tfevents.*"):
        records = list(RawEventFileLoader(str(path)).Load())
        kept = [record for record in records if not _is_of_the_end(Event.FromString(record))]
        if len(kept) == len(records):
            continue

        def write(path: Path, kept: list[bytes] = kept) -> None:
            with path.open("wb") as file:
                writer = RecordWriter(file)
                for record in kept:
                    writer.write(record)

        write_atomically(path, write)


def _is_of_the_end(event: "Event") -> bool:
    if event.WhichOneof("what") in ("graph_def", "tagged_run_metadata"):
        return True
    return any(value.HasField("image") or value.tag.startswith(OF_THE_END) for value in event.summary.value)
