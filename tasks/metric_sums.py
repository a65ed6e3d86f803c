"""Metrics on their way from batches to a mean: named sums over samples, exact over any number of processes.

A dict of 0-d tensors on the device: "samples" is how many there were, each other entry the sum over them of a metric.
"""

import torch
from accelerate import Accelerator
from torch import Tensor

MetricSums = dict[str, Tensor]
SAMPLES = "samples"


def add(sums: MetricSums, more: MetricSums) -> MetricSums:
    """The sums over both; the names are the same."""
    return {name: value + more[name] for name, value in sums.items()}


def over_processes(sums: MetricSums, accelerator: Accelerator) -> dict[str, float]:
    """The sums over all processes, by each of which this is to be called; waits for the device."""
    total = accelerator.reduce(torch.stack(list(sums.values())), "sum")
    return dict(zip(sums, total.tolist(), strict=True))


def means(sums: dict[str, float]) -> dict[str, float]:
    """Each metric's mean over the samples, of which there may be none yet."""
    return {name: value / max(sums[SAMPLES], 1) for name, value in sums.items() if name != SAMPLES}
