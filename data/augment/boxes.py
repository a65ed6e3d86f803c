"""Boxes of a random area and form in an image, as torchvision's RandomResizedCrop and RandomErasing draw them."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from data.augment.draws import QUANTILES, Epoch, integers, interpolate, uniform

TRIES = 10  # until a box fits
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), 1 / 0.3


class RandomCrop(NamedTuple):
    """A box of each image, cut out at random for (seed, epoch, sample).

    Attributes:
        seed: of the draws; `stream`: the first of 2 * TRIES + 2 streams of them.
        least: least share of the image's area.
        ratio: most of width over height, and of height over width.
    """

    seed: int
    stream: int
    least: float
    ratio: float

    def boxes(
        self, size: tuple[int | Tensor, int | Tensor], indices: Tensor, epoch: Epoch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(top, left, height, width) for each sample, int64 (B,), in pixels.

        Args:
            size: height and width in pixels, of all images or of each, int64 (B,).
            indices, epoch: as in `uniform`.

        Where no try fits, it is the largest box of an allowed form, in the middle.
        """
        height, width = (torch.as_tensor(side, device=indices.device) for side in size)
        drawn = (self.seed, epoch, indices)
        tall, wide, fits = _tries((height, width), *drawn, self.stream, (self.least, 1), self.ratio)
        fits &= (tall <= height) & (wide <= width)
        tall, wide = (_first(fits, sides) for sides in (tall, wide))
        top = integers(*drawn, self.stream + 2 * TRIES, 2**62) % (height - tall + 1).clamp(min=1)
        left = integers(*drawn, self.stream + 2 * TRIES + 1, 2**62) % (width - wide + 1).clamp(min=1)
        whole = [
            torch.minimum(own, (other * self.ratio).round().long()) for own, other in ((height, width), (width, height))
        ]
        middle = (height - whole[0]) // 2, (width - whole[1]) // 2
        none = ~fits.any(0)
        boxes, otherwise = (top, left, tall, wide), (*middle, *whole)
        return tuple(torch.where(none, other, own) for own, other in zip(boxes, otherwise, strict=True))


def to_erase(
    size: tuple[int, int], seed: int, epoch: Epoch, indices: Tensor, stream: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A box for each sample to erase, as in `RandomCrop`, smaller than the image; where no try fits, it is empty."""
    height, width = size
    tall, wide, fits = _tries(size, seed, epoch, indices, stream, ERASED_AREA, ERASED_RATIO)
    fits &= (tall < height) & (wide < width)
    tall, wide = (torch.where(fits.any(0), _first(fits, sides), 0) for sides in (tall, wide))
    top = integers(seed, epoch, indices, stream + 2 * TRIES, 2**62) % (height - tall + 1)
    left = integers(seed, epoch, indices, stream + 2 * TRIES + 1, 2**62) % (width - wide + 1)
    return top, left, tall, wide


def _tries(
    size: tuple[int | Tensor, int | Tensor],
    seed: int,
    epoch: Epoch,
    indices: Tensor,
    stream: int,
    area: tuple[float, float],
    ratio: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """TRIES boxes for each sample: height and width, int64 (TRIES, B), and whether they have pixels at all."""
    low, high = area
    drawn = uniform(seed, epoch, indices, range(stream, stream + 2 * TRIES))
    pixels = size[0] * size[1] * (low + (high - low) * drawn[::2])
    form = interpolate(_forms(ratio, indices.device), drawn[1::2])
    heights, widths = ((area.sqrt().round().long()) for area in (pixels / form, pixels * form))
    return heights, widths, (heights > 0) & (widths > 0)


@functools.lru_cache
def _forms(ratio: float, device: torch.device) -> Tensor:
    """Width over height at each quantile, even on a logarithmic scale, float32."""
    logs = torch.linspace(-math.log(ratio), math.log(ratio), QUANTILES + 1, dtype=torch.float64)
    return torch.exp(logs).float().to(device)


def _first(fits: Tensor, sides: Tensor) -> Tensor:
    """Of the tries (TRIES, B) the first that fits, (B,); any where none does."""
    return sides.gather(0, fits.int().argmax(0)[None])[0]
