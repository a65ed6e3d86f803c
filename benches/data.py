"""Bench `data`: images augmented and normalised by whole batches, as train.py does it, and one by one, as is usual."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benches.budget import Budget
from benches.images import make_images
from benches.report import Row, Section
from benches.timing import interleave, warmed_up
from data.dataset import DataSplits
from data.loader import ImageDataset
from engine.build import build_task
from options.bench import BenchOptions

STEPS = ("normalise", "crop, flip, normalise")


def measure(args: BenchOptions, device: torch.device, batch_size: int, steps: str, budget: Budget) -> Section:
    """Time batches from stored images to what a model takes, on the device, in this process alone.

    Ours starts with a gather from a uint8 array, the usual way with PIL images that are decoded already. The images
    are the same; without augmentation the results are compared.

    Args:
        args: the options of bench.py.
        device: where a batch ends up, and where ours is augmented.
        batch_size: images of a call.
        steps: one of STEPS.
        budget: for warming up and all rounds.
    """
    data = make_images(args.image_size, args.channels)
    ids = np.random.default_rng(0).permutation(data.train.ids)[:batch_size]
    padding = min(4, args.image_size - 1) if "crop" in steps else None
    usual, ours = _one_by_one(data, ids, device, padding), _whole_batch(args, data, ids, device, padding)
    difference = None if padding else ((ours() - usual()).abs().max() / usual().abs().max()).item()
    calls = {"PIL and torchvision, one by one": usual, "ours, by whole batches": ours}
    timed = warmed_up(calls, device, budget)
    rows = [Row(name, len(ids), timing) for name, timing in interleave(timed, args.rounds, device, budget).items()]
    rows[-1].difference = difference
    shape = f"{args.channels}x{args.image_size}x{args.image_size}"
    title = f"data: {steps} {len(ids)} images of {shape} a call, in one process"
    return Section("data", title, rows, facts={"batch_size": len(ids), "compared": "normalised images"})


def _whole_batch(
    args: BenchOptions, data: DataSplits, ids: np.ndarray, device: torch.device, padding: int | None
) -> Callable[[], Tensor]:
    """Inputs float32 (B, C, H, W) as train.py makes them."""
    augment = f"flip,crop={padding}" if padding else "none"
    options = replace(args, augment=augment)
    task, dataset = build_task(options, data, device), ImageDataset(data.train.arrays)
    return lambda: task.training_batch(dataset.batch(ids).to(device), 0)[0]


def _one_by_one(data: DataSplits, ids: np.ndarray, device: torch.device, padding: int | None) -> Callable[[], Tensor]:
    """The same as most training scripts make them: torchvision's transforms of one PIL image after another."""
    from torchvision import transforms  # takes seconds to import

    steps = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    if padding:
        crop = transforms.RandomCrop(data.shape[:2], padding, padding_mode="reflect")
        steps = [crop, transforms.RandomHorizontalFlip(), *steps]
    transform = transforms.Compose(steps)
    grey = data.shape[-1] == 1
    images = [Image.fromarray(image[..., 0] if grey else image) for image in data.train.arrays.images[ids]]
    return lambda: torch.stack([transform(image) for image in images]).to(device)
