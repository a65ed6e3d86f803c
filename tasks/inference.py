"""Running a model over image files: read, prepared as in training, computed in batches; unreadable ones are named."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from common.hub import SCHEME, is_on_hub
from common.progress import track
from data.decode import UNREADABLE, loses_values, read_image
from models.layers.fused_conv import fused
from tasks.base import Task

FEW = 100  # photos, for which it takes longer to fuse layers than they save


def fused_where_it_pays(model: nn.Module, task: Task, photos: int, accelerator: Accelerator) -> nn.Module:
    """A model that predicts classes faster and but for rounding the same; where none is known, the model itself.

    Args:
        model: of the task, which prepares its inputs.
        photos: how many are to be predicted.
        accelerator: of this process, which says where and in what precision.
    """
    unmeasured = accelerator.device.type != "cpu" or accelerator.mixed_precision != "no"
    if unmeasured or photos < FEW or not task.of_classes:
        return model
    noise = torch.randint(256, (2, *task.image_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return fused(model.eval(), task.inputs(noise))


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
    batches = -(-len(paths) // batch_size)
    for readable, images in track(
        read_ahead(paths, task, batch_size, unreadable), "predicting", batches, accelerator.is_main_process
    ):
        if not readable:
            continue
        with torch.no_grad(), accelerator.autocast():
            results = compute(torch.from_numpy(images).to(accelerator.device))
        yield readable, results.cpu()


def read_ahead(
    paths: list[Path], task: Task, batch_size: int, unreadable: list[str]
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """What `read_images` makes of one batch of files after another; threads read the next one meanwhile."""
    # Threads serve as well as processes: Pillow lets others run while it decodes and resizes.
    pool = ThreadPoolExecutor(torch.get_num_threads())
    waiting: deque[tuple[list[Path], list[Future]]] = deque()
    try:
        for start in range(0, len(paths), batch_size):
            some = paths[start : start + batch_size]
            waiting.append((some, [pool.submit(_read, path, task) for path in some]))
            if len(waiting) > 1:
                yield _collected(*waiting.popleft(), task, unreadable)
        if waiting:
            yield _collected(*waiting.popleft(), task, unreadable)
    finally:
        pool.shutdown(cancel_futures=True)


def read_images(paths: list[Path], task: Task, unreadable: list[str]) -> tuple[list[Path], np.ndarray]:
    """The paths that can be read with their images, uint8 (B, H, W, C), prepared as those that `task` was trained on.

    The others go to `unreadable`, with reasons. Those that lose values, as these lie beyond the range of training, are
    named on stderr.
    """
    nothing = [], np.zeros((0, *task.image_shape), dtype=np.uint8)
    return next(read_ahead(paths, task, max(1, len(paths)), unreadable), nothing)


def _read(path: Path, task: Task) -> np.ndarray | str:
    """An image, uint8 (H, W, C), or why there is none."""
    try:
        pixels = read_image(path, task.image_shape, task.ranges, task.geometry)
        if task.ranges and loses_values(path, task.ranges):
            print(f"note: {path} has values beyond the range of training, cut to it", file=sys.stderr)
        return pixels
    except UNREADABLE as error:
        return f"{path}: {error}"


def _collected(
    paths: list[Path], read: list[Future], task: Task, unreadable: list[str]
) -> tuple[list[Path], np.ndarray]:
    results = [future.result() for future in read]
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
