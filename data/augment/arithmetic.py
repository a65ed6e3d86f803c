"""Arithmetic that gives the same bits on a CPU and a GPU, where PyTorch's own does not."""

import functools

import torch
from torch import Tensor


def divide(values: Tensor, number: float) -> Tensor:
    """Each of `values`, of a floating dtype, over a number, correctly rounded: by a number PyTorch's GPU kernels
    multiply by its rounded inverse, by a tensor they divide."""
    return values / torch.full((), number, dtype=values.dtype, device=values.device)


@functools.lru_cache
def cosines_and_sines(angle: float, most: int, device: torch.device) -> Tensor:
    """Those of -most..most times an angle in radians, float32 (2, 2 * most + 1).

    A table, as a vectorised sine may depend on its place in the tensor; made on the CPU, as a GPU's rounds differently;
    kept, as a copy to a GPU waits for it.
    """
    angles = torch.arange(-most, most + 1) * angle
    return torch.stack([angles.cos(), angles.sin()]).to(device)
