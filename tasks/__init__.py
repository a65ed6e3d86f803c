"""What is learned: how a batch becomes inputs and targets, the loss, what counts as right, and the report of a test.

A task is a folder here with a class of `tasks/base.py`'s kind, and a line in TASKS (`options/groups.py`).
"""

import importlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from data.geometry import MIDDLE, Geometry
from data.pixel_range import Ranges
from options.groups import TASKS
from tasks.base import Task


def task_class(options: Mapping) -> type[Task]:
    """The task that options, or those kept in weights, name by their `task`; of the first versions there was one."""
    module, _, name = TASKS[options.get("task", "classify")].partition(":")
    return getattr(importlib.import_module(f"tasks.{module}"), name)


def build_task(
    options: Mapping,
    *,
    shape: tuple[int, int, int],
    class_names: list[str],
    mean: list[float],
    std: list[float],
    device: torch.device,
    ranges: Ranges | None,
    geometry: Geometry = MIDDLE,
    augment: str = "none",
    num_samples: int = 1,
    numbered: Tensor | None = None,
    output_shape: Sequence[int] | None = None,
    class_counts: Sequence[int] | None = None,
) -> Task:
    """The task of a run, or of weights, that options and images describe.

    Args:
        options: by name, without dashes; younger ones may be missing.
        shape, class_names, mean, std, device, ranges, geometry, augment, num_samples: see `Task`.
        numbered, output_shape, class_counts: see `Task.from_options`.

    Raises:
        ValueError, RuntimeError: an augmentation or a transform does not fit the images.
    """
    return task_class(options).from_options(
        options,
        numbered=numbered,
        output_shape=output_shape,
        class_counts=class_counts,
        shape=shape,
        class_names=class_names,
        mean=mean,
        std=std,
        device=device,
        channels_last=options["channels_last"],
        augment=augment,
        seed=options.get("seed", 0),
        num_samples=num_samples,
        input_size=options.get("input_size"),
        interpolation=options.get("interpolation"),
        ranges=ranges,
        geometry=geometry,
    )
