"""Running a model over image files: read, prepared as in training, computed in batches; unreadable ones are named."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from common.hub import SCHEME, is_on_hub
from common.progress import track
from data.decode import UNREADABLE, loses_values, read_image
from tasks.base import Task


def infer_files(
    compute: Callable[[Tensor], Tensor],
    task: Task,
    paths: list[Path],
    accelerator: Accelerator,
    batch_size: int,
    unreadable: list[str],
) -> Iterator[tuple[list[Path], Tensor]]:
    """What `compute` makes of image files, a batch at a time: the paths that could be read, and its results on the CPU.

    Args:
        compute: uint8 (B, H, W, C) on the device -> (B, ...).
        task: says how images are prepared.
        paths: of the images.
        accelerator: of this process.
        batch_size: images read and computed at a time.
        unreadable: gets a line for each file that cannot be read, with the reason.
    """
    starts = range(0, len(paths), batch_size)
    for start in track(starts, "predicting", len(starts), accelerator.is_main_process):
        readable, images = read_images(paths[start : start + batch_size], task, unreadable)
        if not readable:
            continue
        with torch.no_grad(), accelerator.autocast():
            results = compute(torch.from_numpy(images).to(accelerator.device))
        yield readable, results.cpu()


def read_images(paths: list[Path], task: Task, unreadable: list[str]) -> tuple[list[Path], np.ndarray]:
    """The paths that can be read with their images, uint8 (B, H, W, C), prepared as those that `task` was trained on.

    The others go to `unreadable`, with reasons. Those that lose values, as these lie beyond the range of training, are
    named on stderr.
    """

    def read(path: Path) -> np.ndarray | str:
        try:
            pixels = read_image(path, task.image_shape, task.ranges, task.geometry)
            if task.ranges and loses_values(path, task.ranges):
                print(f"note: {path} has values beyond the range of training, cut to it", file=sys.stderr)
            return pixels
        except UNREADABLE as error:
            return f"{path}: {error}"

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(read, paths))
    unreadable += [result for result in results if isinstance(result, str)]
    readable = [path for path, result in zip(paths, results, strict=True) if not isinstance(result, str)]
    images = [result for result in results if not isinstance(result, str)]
    return readable, np.stack(images) if images else np.zeros((0, *task.image_shape), dtype=np.uint8)


def tell_unreadable(unreadable: list[str], total: int) -> None:
    """Name the images, of `total`, that could not be read, with the reasons that `read_images` gave."""
    for line in unreadable:
        print(f"cannot read {line}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} of {total} images could not be read", file=sys.stderr)


def folder_beside(weights: str, purpose: str) -> Path:
    """The folder for what is made with a file of weights: beside it, or in the working directory where that cannot be.

    `runs/first/best.pth` of a read-only disk has its test in `first-best-test`, hf:me/pets in `me-pets-test`.
    """
    if is_on_hub(weights):
        return Path(f"{weights.removeprefix(SCHEME).replace('/', '-')}-{purpose}")
    path = Path(weights).absolute()
    beside = Path(weights).parent / f"{path.stem}-{purpose}"
    writable = os.access(beside if beside.is_dir() else beside.parent, os.W_OK | os.X_OK)
    return beside if writable else Path(f"{path.parent.name}-{beside.name}")
