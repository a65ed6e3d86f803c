"""Models that learn a transform in seconds from made-up images, so that what is timed makes the right pixels."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benches.budget import Budget
from benches.images import make_images
from data.dataset import DataSplits
from data.loader import ImageDataset
from engine.build import build_model, build_task
from engine.optim.factory import build_optimizer
from engine.optim.schedule import set_lr
from options.bench import BenchOptions
from tasks.image_to_image.task import Transformation

# (model, its arguments, peak learning rate, steps: so many as two cores take in seconds); the first has all variants
MODELS = (
    ("separable_map", {}, 0.03, 1500),
    ("separable_map", {"hidden": 8}, 0.03, 1500),
    ("conv_translator", {}, 0.002, 100),
)
BATCH_SIZE = 16  # small, as a map is learnt in so many steps rather than from so many images
TRAIN, TEST = 4000, 1000  # images


class Learnt(NamedTuple):
    """A trained model in evaluation mode, with what prepares its inputs."""

    name: str
    model: nn.Module
    task: Transformation


def learn(args: BenchOptions, transform: str, device: torch.device, budget: Budget) -> tuple[Tensor, list[Learnt]]:
    """Other images than were learnt from, uint8 (N, H, W, C) on the CPU, and MODELS, trained.

    The pixels are white noise, which tells a map all that it can know of each of them.

    Args:
        args: the options of bench.py and, for the rest, of train.py.
        transform: as `data/transforms/spec.py` reads it.
        device: where the models learn and stay.
        budget: a quarter of it is for learning; the first model takes what it needs.

    Raises:
        UserError: the transform does not fit the images.
    """
    data = make_images(args.image_size, args.channels, TRAIN + TEST)
    learnt, least_left = [], 0.75 * budget.left()
    for name, model_args, lr, steps in MODELS:
        if learnt and budget.left() < least_left:
            break
        own = {"task": "transform", "transform": transform, "model": name, "model_arg": model_args, "augment": "none"}
        options = replace(args, **own, conv="native")
        task = build_task(options, data, device)
        model = build_model(options, task, data, sharded=False).to(device)
        _train(model, task, data, lr, steps)
        learnt.append(Learnt(in_words(name, model_args), model.eval(), task))
    return torch.from_numpy(data.train.arrays.images[data.train.ids[TRAIN:]]), learnt


def in_words(model: str, model_args: dict) -> str:
    """A model's name with its arguments."""
    return " ".join([model, *(f"{key}={value}" for key, value in model_args.items())])


def _train(model: nn.Module, task: Transformation, data: DataSplits, lr: float, steps: int) -> None:
    """Take so many steps, the learning rate falling to 0."""
    optimizer = build_optimizer(model, "adamw", lr=lr, momentum=0.9, weight_decay=0.0)
    dataset, generator = ImageDataset(data.train.arrays), np.random.default_rng(0)
    for step in range(steps):
        ids = generator.choice(data.train.ids[:TRAIN], BATCH_SIZE)
        inputs, targets = task.training_batch(dataset.batch(ids).to(task.device), 0)
        set_lr(optimizer, lr * (1 - step / steps))
        task.loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
