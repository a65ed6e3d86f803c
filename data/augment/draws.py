"""Numbers drawn for a sample: hashed from (seed, epoch, index, stream), with no generator to keep or advance."""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
QUANTILES = 4096  # of a distribution, in a table


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _hash(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """64 mixed bits as int64 (B,): splitmix64's finaliser (Steele et al. 2014) over each number in turn."""
    # The numbers before the indices meet in a tensor of no dimensions, which needs no copy to the device.
    x = torch.tensor(GOLDEN, device="cpu")
    for number in (seed, epoch, stream, indices):
        x = (x ^ number) * GOLDEN
        x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
        x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
        x = x ^ _shift_right(x, 31)
    return x


def uniform(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 (B,), multiples of 2**-24, hashed from all four arguments.

    `indices` int64 (B,), on any device; the result is there too, with the same bits on each. `seed`, `epoch`
    and `stream` fit in int64.
    """
    return _shift_right(_hash(seed, epoch, indices, stream), 40).float() * 2**-24


def integers(seed: int, epoch: int, indices: Tensor, stream: int, high: int) -> Tensor:
    """Uniform integers in 0..high-1, int64 (B,); arguments as in `uniform`."""
    return _shift_right(_hash(seed, epoch, indices, stream), 1) % high


def interpolate(table: Tensor, u: Tensor) -> Tensor:
    """The quantile at each u in [0, 1), linear between those in the table."""
    position = u * QUANTILES
    below = position.long()
    return table[below] + (table[below + 1] - table[below]) * (position - below)
