"""Metrics on their way from batches to a mean: named sums over samples, exact over any number of processes.

A dict of tensors on the device: "samples" is how many there were, each other entry the sum over them of a metric, 0-d,
or counts for each class, 1-d.
"""

import torch
from accelerate import Accelerator
from torch import Tensor

MetricSums = dict[str, Tensor]
SAMPLES = "samples"


def add(sums: MetricSums, more: MetricSums) -> MetricSums:
    """The sums over both; the names are the same."""
    return {name: value + more[name] for name, value in sums.items()}


def over_processes(sums: MetricSums, accelerator: Accelerator) -> dict[str, float | list[float]]:
    """The sums over all processes, by each of which this is to be called; waits for the device."""
    total = accelerator.reduce(torch.cat([value.view(-1) for value in sums.values()]), "sum")
    parts = total.split([value.numel() for value in sums.values()])
    return {name: part.view(value.shape).tolist() for part, (name, value) in zip(parts, sums.items(), strict=True)}


def means(sums: dict[str, float | list[float]]) -> dict[str, float]:
    """Each metric's mean over the samples, of which there may be none yet; counts for each class have none."""
    single = {name: value for name, value in sums.items() if not isinstance(value, list)}
    return {name: value / max(single[SAMPLES], 1) for name, value in single.items() if name != SAMPLES}
