"""The pictures that exported files are checked by: of the test split, or files; as uint8 RGB."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from data.dataset import DataSplits
from data.decode import open_image, to_array
from data.subsets import Subset
from engine import held_out
from options.export import ExportOptions
from tasks.base import Task
from tasks.inference import read_images


@dataclass(frozen=True)
class Batch:
    """Some pictures.

    Attributes:
        pictures: uint8 RGB (B, H, W, 3), of which no pixel is lost but by `crop_pct`.
        images: what training would make of these, uint8 (B, h, w, C).
        labels: int64 (B,); None where nobody knows them.
        originals: each picture as in its file, uint8 RGB (H, W, 3); None where the prepared ones are all there is.
        of_originals: what training would make of these, uint8 (B, h, w, C).
    """

    pictures: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None = None
    originals: list[np.ndarray] | None = None
    of_originals: np.ndarray | None = None


def as_rgb(images: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, 1 or 3) -> (B, H, W, 3)."""
    return images if images.shape[3] == 3 else images.repeat(3, axis=3)


def around(images: np.ndarray, crop_pct: float) -> np.ndarray:
    """Prepared images with what `crop_pct` cuts off again around them, in RGB: uint8 (B, h, w, C) -> (B, H, W, 3).

    The test split is kept as it is after the cut. What is cut off repeats the edge; where the sizes come out even the
    cut gives the very images, else pixels between theirs.
    """
    margins = [round(side * (1 / crop_pct - 1) / 2) for side in images.shape[1:3]]
    return np.pad(as_rgb(images), ((0, 0), *((margin, margin) for margin in margins), (0, 0)), mode="edge")


def held_out_splits(args: ExportOptions, content: dict, accelerator: Accelerator) -> DataSplits:
    """The run's data set, split as it was.

    Raises:
        UserError: it is not on this machine, or has changed.
    """
    return held_out.held_out_data(
        args.weights, args.data_dir, content, accelerator, instead="give --check IMAGE|FOLDER"
    )


def as_of_files(images: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Prepared images, uint8 (B, h, w, C), as pictures; and what is made of these: the same where nothing is cut."""
    if task.geometry.fit != "crop" or task.geometry.crop_pct == 1:
        return as_rgb(images), images
    pictures = around(images, task.geometry.crop_pct)
    size, channels = task.image_shape[:2], task.image_shape[2]
    again = [to_array(Image.fromarray(picture), channels, size, None, task.geometry) for picture in pictures]
    return pictures, np.stack(again)


def of_subset(part: Subset, task: Task, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Pictures of a part with their labels, in order; of more than `limit` so many, spread evenly."""
    ids = part.ids
    if limit is not None and limit < len(ids):
        ids = ids[np.arange(limit) * len(ids) // limit]
    for start in range(0, len(ids), batch_size):
        rows = ids[start : start + batch_size]
        yield Batch(*as_of_files(np.asarray(part.arrays.images[rows]), task), part.arrays.labels[rows])


def of_files(paths: list[Path], task: Task, batch_size: int, unreadable: list[str]) -> Iterator[Batch]:
    """Pictures of files, prepared and as they are; `unreadable` gets a line for each that cannot be read."""
    for start in range(0, len(paths), batch_size):
        readable, images = read_images(paths[start : start + batch_size], task, unreadable)
        if readable:
            originals = [original(path, task) for path in readable]
            yield Batch(*as_of_files(images, task), originals=originals, of_originals=images)


def original(path: Path, task: Task) -> np.ndarray:
    """A file's picture in its own size, uint8 RGB (H, W, 3)."""
    with open_image(path) as image:
        return to_array(image, 3, None, task.ranges, task.geometry)
