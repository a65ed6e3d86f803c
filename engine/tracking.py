"""Trackers: Accelerate's own, for TensorBoard and Weights & Biases, on the main process only."""

import importlib.util
from pathlib import Path

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from engine.errors import UserError


def check_installed(names: str) -> None:
    """Raise UserError when a tracker's package is missing. `names`: the text of --track."""
    for name in _wanted(names):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--track {name}: the package is not installed; run 'pip install {name}' or leave it out")


def start_trackers(names: str, folder: Path, options: dict, resumed_at: int | None) -> list[GeneralTracker]:
    """Start the trackers of a run; TensorBoard's files go into the run's folder.

    Args:
        names: the text of --track.
        folder: of the run.
        options: of the run, for the trackers that show them.
        resumed_at: the step that a resumed run goes on from: what was logged after it will be logged again, so
            TensorBoard is told to forget it. None for a new run.
    """
    trackers: list[GeneralTracker] = []
    for name in _wanted(names):
        if name == "tensorboard":
            tracker = TensorBoardTracker(
                folder.name, str(folder.parent), purge_step=None if resumed_at is None else resumed_at + 1
            )
        else:
            tracker = WandBTracker("sameloop", name=folder.name, dir=str(folder), config=options)
        tracker.start()
        trackers.append(tracker)
    return trackers


def log(trackers: list[GeneralTracker], values: dict[str, float | None], step: int) -> None:
    """Log figures at an optimizer step; those that are None are left out."""
    known = {name: value for name, value in values.items() if value is not None}
    for tracker in trackers:
        tracker.log(known, step=step)


def log_pictures(trackers: list[GeneralTracker], folder: Path, names: list[str], step: int) -> None:
    """Show PNG files of the run's folder in the trackers, under their names without suffix."""
    for name in names:
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))[None]
        for tracker in trackers:
            extra = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({Path(name).stem: pixels}, step=step, **extra)


def finish(trackers: list[GeneralTracker]) -> None:
    """Flush and close."""
    for tracker in trackers:
        tracker.finish()


def _wanted(names: str) -> list[str]:
    return [name for name in names.split(",") if name != "none"]
