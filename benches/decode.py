"""Bench `decode`: photos from JPEG files to what a model takes, as torchvision, timm and --decode live do it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benches.budget import Budget
from benches.report import Row, Section
from benches.timing import interleave, warmed_up
from common import console
from data.dataset import DataSplits, load_images
from data.loader import ImageDataset
from engine.build import build_task
from options.bench import BenchOptions

PHOTOS = 256
WIDTH, HEIGHT, SIDE = 500, 400, 224  # ImageNet's photos are about so large, and its models take so much of them
BATCH_SIZE = 64
CACHE = "HF_DATASETS_CACHE"  # beside which the cache is; see `data/cache.py`


def measure(args: BenchOptions, budget: Budget) -> Section:
    """Time batches from files on disk to normalised float32, cropped at random and flipped, with one thread.

    Each does it as its users do: torchvision's ImageFolder and transforms, timm's dataset and its transform for
    training without further augmentation, and ours as a run with --decode live and --augment rrc,flip does.

    Args:
        args: the options of bench.py.
        budget: for warming up and all rounds.
    """
    with tempfile.TemporaryDirectory() as place, _one_thread():
        root = Path(place) / "photos"
        size = write_photos(root, PHOTOS)
        calls = {
            "torchvision's ImageFolder": _of_torchvision(root),
            "timm's dataset": _of_timm(root),
            "ours, --decode live": _ours(args, root),
        }
        device = torch.device("cpu")
        timed = warmed_up(calls, device, budget)
        rows = [
            Row(name, BATCH_SIZE, timing) for name, timing in interleave(timed, args.rounds, device, budget).items()
        ]
    title = f"decode: random crops of {WIDTH}x{HEIGHT} JPEGs of {size // 1000} kB to {SIDE}x{SIDE}, {BATCH_SIZE} a call"
    return Section("decode", f"{title}, one thread", rows, facts={"batch_size": BATCH_SIZE, "bytes": size})


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_photos(root: Path, count: int) -> int:
    """Made-up photos of two classes: large forms, with a camera's grain. Returns the mean of their sizes, in bytes."""
    console.status("making photos")
    for label in (0, 1):
        (root / f"class {label}").mkdir(parents=True)

    def write(number: int) -> int:
        generator = np.random.default_rng(number)
        forms = Image.fromarray(generator.integers(0, 256, (20, 25, 3), dtype=np.uint8))
        smooth = np.asarray(forms.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = generator.normal(0, 8, (HEIGHT, WIDTH, 1))
        path = root / f"class {number % 2}" / f"{number}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        return path.stat().st_size

    with ThreadPoolExecutor() as pool:  # what takes long in it leaves Python's lock
        return sum(pool.map(write, range(count))) // count


@contextmanager
def cache_in(place: Path) -> Iterator[None]:
    """What is known of the photos goes with them, not into the user's cache."""
    before = os.environ.get(CACHE)
    os.environ[CACHE] = str(place / "datasets")
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = before


def _batches(one: Callable[[int], Tensor]) -> Callable[[], Tensor]:
    """A call that makes one batch after another of images made one by one."""
    generator = np.random.default_rng(0)
    return lambda: torch.stack([one(number) for number in generator.permutation(PHOTOS)[:BATCH_SIZE].tolist()])


def _of_torchvision(root: Path) -> Callable[[], Tensor]:
    from torchvision import datasets, transforms  # takes seconds to import

    steps = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = datasets.ImageFolder(str(root), transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.25] * 3)]))
    return _batches(lambda number: images[number][0])


def _of_timm(root: Path) -> Callable[[], Tensor]:
    from timm.data import create_dataset, create_transform

    images = create_dataset("", root=str(root))
    images.transform = create_transform(
        (3, SIDE, SIDE), is_training=True, color_jitter=0, auto_augment=None, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return _batches(lambda number: images[number][0])


def _ours(args: BenchOptions, root: Path) -> Callable[[], Tensor]:
    with cache_in(root.parent):
        data: DataSplits = load_images(str(root), image_size=SIDE, val_fraction=0, decode="live")
    options = replace(args, augment="rrc,flip", input_size=None, image_size=SIDE)
    task = build_task(options, data, torch.device("cpu"))
    dataset, generator = ImageDataset(data.train.arrays, task.augment.crop), np.random.default_rng(0)

    def call() -> Tensor:
        return task.training_batch(dataset.batch(generator.permutation(data.train.ids)[:BATCH_SIZE], epoch=0), 0)[0]

    return call
