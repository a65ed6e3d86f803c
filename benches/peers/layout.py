"""The same images in the forms that peers read: a folder of folders, a flat folder, the files of CIFAR-10 itself."""

import io
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benches.peers.jobs import Job
from common.errors import UserError
from data.decode import open_image, to_array
from data.readers import RawSplit, Selection, read_raw_splits
from data.sources import find_source

CHUNK = 256  # images that are decoded at once
CIFAR_FILES = 5  # of train


@dataclass(frozen=True)
class Layout:
    """Where the images of a job lie.

    Attributes:
        tree: train/CLASS/N.png and val/CLASS/N.png, or .jpg; test/ is val/ again, for those that want both.
        flat: CLASS_N.jpg of both, the same files by other names: Pillow goes by what is in them.
        cifar: a folder that holds cifar-10-batches-py, where images are of 32x32 pixels.
        class_names: in the order of labels.
    """

    tree: Path
    flat: Path
    cifar: Path
    class_names: list[str]


def lay_out(job: Job, data_dir: str | None, folder: Path) -> Layout:
    """Write the job's images below `folder` in all forms, unless they are there.

    Raises:
        UserError: the data set is not to be had, or has too few images.
    """
    splits, _ = read_raw_splits(find_source(job.dataset, data_dir), Selection())
    held_out = splits.get("test") or splits.get("validation")
    if held_out is None or splits["train"].length < job.train or held_out.length < job.val:
        raise UserError(
            f"{job.dataset} has fewer than {job.train:,} + {job.val:,} images: give a smaller --train-images"
        )
    names = [name.replace(" ", "-") for name in splits["train"].class_names]
    layout = Layout(folder / "tree", folder / "flat", folder / "cifar", names)
    done = folder / "done"
    if not done.exists():
        for part, split, count in (("train", splits["train"], job.train), ("val", held_out, job.val)):
            _write_images(job, layout, part, split, count)
            if job.stored is None:
                _write_cifar(layout, part, split, count)
        shutil.copytree(layout.tree / "val", layout.tree / "test", copy_function=os.link)
        done.touch()
    return layout


def _decoded(split: RawSplit, count: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(number, label, uint8 (height, width, 3)) of the first `count` samples."""
    for start in range(0, count, CHUNK):
        numbers = range(start, min(start + CHUNK, count))
        for number, encoded in zip(numbers, split.read(numbers), strict=True):
            with open_image(encoded) as image:
                yield number, split.labels[number], to_array(image, channels=3, size=None)


def _write_images(job: Job, layout: Layout, part: str, split: RawSplit, count: int) -> None:
    suffix = "png" if job.stored is None else "jpg"
    layout.flat.mkdir(parents=True, exist_ok=True)
    for name in layout.class_names:
        (layout.tree / part / name).mkdir(parents=True, exist_ok=True)
    for number, label, pixels in _decoded(split, count):
        name = layout.class_names[label]
        path = layout.tree / part / name / f"{number}.{suffix}"
        path.write_bytes(_encoded(pixels, job.stored))
        link = layout.flat / f"{name}_{number + (job.train if part == 'val' else 0)}.jpg"
        link.unlink(missing_ok=True)
        link.hardlink_to(path)


def _encoded(pixels: np.ndarray, stored: tuple[int, int] | None) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    if stored is None:
        image.save(file, "PNG")
    else:
        height, width = stored
        image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _write_cifar(layout: Layout, part: str, split: RawSplit, count: int) -> None:
    """As on https://www.cs.toronto.edu/~kriz/cifar.html: rows of 3,072 bytes, red, green, blue."""
    folder = layout.cifar / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.stack([pixels.transpose(2, 0, 1).reshape(-1) for _, _, pixels in _decoded(split, count)])
    labels = list(split.labels[:count])
    files = ["test_batch"] if part == "val" else [f"data_batch_{number + 1}" for number in range(CIFAR_FILES)]
    for name, numbers in zip(files, np.array_split(np.arange(count), len(files)), strict=True):
        content = {"data": rows[numbers], "labels": [labels[number] for number in numbers]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": layout.class_names}))
