"""Numbers drawn for a sample: hashed from (seed, epoch, stream, index), with no generator to keep or advance."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
QUANTILES = 4096  # of a distribution, in a table
Epoch = int | Tensor  # that is drawn for: of all samples, or of each, int64 (B,)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The last 64 bits of a number, as int64 has them."""
    return (x + 2**63) % 2**64 - 2**63


@functools.lru_cache(maxsize=1024)
def _start(seed: int, *numbers: int) -> int:
    """What is the same for all indices, int64: asked for at every step, and a GPU waits for what Python computes."""
    x = GOLDEN
    for number in (seed, *numbers):
        x = (x ^ number) * GOLDEN % 2**64
        x = (x ^ x >> 30) * FIRST % 2**64
        x = (x ^ x >> 27) * SECOND % 2**64
        x = x ^ x >> 31
    return _signed(x)


@functools.lru_cache(maxsize=256)
def _starts(seed: int, epoch: int, streams: Sequence[int], device: torch.device) -> Tensor:
    """Those of several streams, int64 (S, 1); kept, as a copy to a GPU waits for it."""
    return torch.tensor([[_start(seed, epoch, stream)] for stream in streams], device=device)


@functools.lru_cache(maxsize=256)
def _column(streams: Sequence[int], device: torch.device) -> Tensor:
    """Streams themselves, int64 (S, 1), kept likewise."""
    return torch.tensor([[stream] for stream in streams], device=device)


def _hash(seed: int, epoch: Epoch, indices: Tensor, stream: int | Sequence[int]) -> Tensor:
    """64 mixed bits as int64 (B,), or (S, B): splitmix64's finaliser (Steele et al. 2014) over each number in turn."""
    one = isinstance(stream, int)
    if isinstance(epoch, Tensor):
        start = _mix(_mix(epoch ^ _start(seed)) ^ (stream if one else _column(stream, indices.device)))
    else:
        start = _start(seed, epoch, stream) if one else _starts(seed, epoch, stream, indices.device)
    return _mix(indices ^ start)


def _mix(x: Tensor) -> Tensor:
    """The finaliser for one number of each, in place."""
    x *= _signed(GOLDEN)
    x ^= _shift_right(x, 30)
    x *= _signed(FIRST)
    x ^= _shift_right(x, 27)
    x *= _signed(SECOND)
    x ^= _shift_right(x, 31)
    return x


def uniform(seed: int, epoch: Epoch, indices: Tensor, stream: int | Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1), float32 (B,), multiples of 2**-24, hashed from all four arguments.

    `indices` int64 (B,), on any device; the result is there too, with the same bits on each. `seed`, `epoch`
    and `stream` fit in int64; where each sample has its own epoch, it gets what that epoch alone would draw. Of
    several streams, a tuple or range, the result is (S, B), and a GPU has little more to do for all than for one.
    """
    return _shift_right(_hash(seed, epoch, indices, stream), 40).float() * 2**-24


def integers(seed: int, epoch: Epoch, indices: Tensor, stream: int | Sequence[int], high: int) -> Tensor:
    """Uniform integers in 0..high-1, int64 (B,) or (S, B); arguments as in `uniform`."""
    return _shift_right(_hash(seed, epoch, indices, stream), 1) % high


def interpolate(table: Tensor, u: Tensor) -> Tensor:
    """The quantile at each u in [0, 1), linear between those in the table."""
    position = u * QUANTILES
    below = position.long()
    return table[below] + (table[below + 1] - table[below]) * (position - below)


def beta_quantiles(alpha: float, beta: float) -> Tensor:
    """A table for `interpolate`: the quantiles of Beta(alpha, beta) at 0, 1/4096, ..., 1, float32."""
    from scipy.special import betaincinv  # slow to import, so only for mixing

    return torch.from_numpy(betaincinv(alpha, beta, torch.linspace(0, 1, QUANTILES + 1).double().numpy())).float()
