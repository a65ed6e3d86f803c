"""What infer.py writes for a model that makes images: a PNG file for each image that it is given."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from common.console import say
from common.errors import UserError
from common.files import exists, is_folder, write_atomically
from options.infer import PredictOptions
from tasks.base import Task
from tasks.inference import folder_beside, infer_files, tell_unreadable


def check_options(args: PredictOptions) -> None:
    """Raise UserError for options that say nothing to a model that makes images, or a target that is no folder."""
    if args.tta is not None:
        raise UserError("--tta: these weights make images, of which there is one view; leave it out")
    if args.reject is not None:
        raise UserError("--reject: these weights make images, not answers; leave it out")
    if args.output is not None and not args.images:
        raise UserError("--output is where predicted images go: name images, or leave it out")
    if args.output is not None and exists(Path(args.output)) and not is_folder(Path(args.output)):
        raise UserError(f"--output {args.output}: is a file; give the name of a folder, which may be new")


def predict_files(
    maker: nn.Module,
    task: Task,
    args: PredictOptions,
    paths: list[Path],
    accelerator: Accelerator,
    batch_size: int,
) -> int:
    """Write a PNG of what `maker` makes of each image into --output (default: a folder beside the weights).

    Each is named by its path below the folder that holds all of them. Returns the exit code: 1 when some could not be
    read.

    Raises:
        UserError: no room or no right to write, or an image would be written over one that was given.
    """
    folder = Path(args.output or folder_beside(args.weights, "images"))
    targets = _targets(paths, folder)
    unreadable: list[str] = []
    written, main = 0, accelerator.is_main_process
    for readable, made in infer_files(maker, task, paths, accelerator, batch_size, unreadable):
        if main:
            for path, pixels in zip(readable, made, strict=True):
                _write(targets[path], pixels)
        written += len(readable)
    if main:
        tell_unreadable(unreadable, len(paths))
        say(f"{written} images written to {folder}")
    return 1 if unreadable else 0


def _targets(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where the image made of each goes: `photo.jpg` becomes `photo.jpg.png`, and none takes the place of another."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    given = {path.resolve(): path for path in paths}
    targets: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for path in paths:
        below = path.absolute().relative_to(root)
        target = folder / (below if below.suffix == ".png" else below.with_name(f"{below.name}.png"))
        if target.resolve() in given:
            raise UserError(f"--output {folder}: {given[target.resolve()]} would be written over; give another folder")
        if taken.setdefault(target, path).absolute() != path.absolute():
            raise UserError(f"{taken[target]} and {path} would both become {target}: rename one of them")
        targets[path] = target
    return targets


def _write(path: Path, pixels: torch.Tensor) -> None:
    """One PNG, from uint8 (H, W, C)."""
    picture = Image.fromarray(pixels.squeeze(2).numpy() if pixels.shape[2] == 1 else pixels.numpy())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda target: picture.save(target, format="PNG"))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give --output a folder with room") from error
