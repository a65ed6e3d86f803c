"""The operations of RandAugment, TrivialAugment and AugMix for a whole batch, each sample at its own magnitude.

Operations, ranges and meaning follow torchvision's `v2.RandAugment`, `v2.TrivialAugmentWide` and `v2.AugMix`. Every
step is integer arithmetic or one correctly rounded float operation per element: fused ones (`add` with alpha,
`lerp`, convolutions, matrix products) may round differently with the size of the batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from data.augment.arithmetic import cosines_and_sines, divide

OPS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)


class Space(NamedTuple):
    """What the highest magnitude means; the bins below are spaced evenly, and bin 0 is no change."""

    bins: int  # the highest
    shear: float  # pixels a pixel
    translate: int | tuple[int, int]  # pixels, or a share of the side
    rotate: float  # degrees
    blend: float  # how far a blend's factor is from 1
    posterize: tuple[int, int]  # bits dropped at bin 0, which may be some, and at the highest


RANDAUGMENT = Space(bins=30, shear=0.3, translate=(150, 331), rotate=30.0, blend=0.9, posterize=(0, 4))
TRIVIALAUGMENT = Space(bins=30, shear=0.99, translate=32, rotate=135.0, blend=0.99, posterize=(0, 6))
AUGMIX = Space(bins=9, shear=0.3, translate=(1, 3), rotate=30.0, blend=0.9, posterize=(4, 8))


def apply_ops(images: Tensor, ops: Tensor, bins: Tensor, signs: Tensor, space: Space, fill: Tensor) -> Tensor:
    """Apply to each image its own operation.

    `images` uint8 (B, H, W, C) with C 1 or 3; `ops` int64 (B,), positions in `OPS`; `bins` int64 (B,), the
    magnitudes 0..space.bins; `signs` int64 (B,), -1 or 1, for the operations that have two directions; `fill` uint8
    (1,) or (C,), the colour that affine operations bring in from outside. Returns uint8 (B, H, W, C).

    Sources: Cubuk et al. 2019, "RandAugment"; Müller and Hutter 2021, "TrivialAugment".
    """
    order = ops.argsort()
    # The one wait for the device: sorted, all groups are cut with a single read of their sizes.
    counts = ops.bincount(minlength=len(OPS)).tolist()
    groups = zip(OPS, *(tensor[order].split(counts) for tensor in (images, bins, signs)), strict=True)
    done = [apply_op(op, part, *draws, space, fill) if len(part) else part for op, part, *draws in groups]
    return torch.cat(done)[order.argsort()]


def apply_op(op: str, images: Tensor, bins: Tensor, signs: Tensor, space: Space, fill: Tensor) -> Tensor:
    """Apply the one operation `op`, a name in `OPS`, to all images; the rest as in `apply_ops`."""
    if op == "Identity":
        return images
    if op in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        return nearest(images, *_source(op, images.shape, bins, signs, space), fill)
    if op in ("Brightness", "Color", "Contrast", "Sharpness"):
        return blend(images, degenerate(op, images), -(signs * bins) * (space.blend / space.bins))
    if op == "Posterize":
        least, most = space.posterize
        dropped = least + (bins * ((most - least) / space.bins)).round().long()
        return images & _column((255 << dropped & 255).to(torch.uint8))
    if op == "Solarize":
        # 255 * (1 - bin / bins), rounded up to compare with integers.
        threshold = (255 * (space.bins - bins) + space.bins - 1) // space.bins
        return torch.where(images >= _column(threshold.to(torch.uint8)), 255 - images, images)

    from torchvision.transforms.v2 import functional  # slow to import, so only where it is used

    channels_first = images.permute(0, 3, 1, 2)
    changed = functional.autocontrast(channels_first) if op == "AutoContrast" else functional.equalize(channels_first)
    return changed.permute(0, 2, 3, 1)


def _column(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to meet a batch of images."""
    return values.view(-1, 1, 1, 1)


def _source(op: str, shape: torch.Size, bins: Tensor, signs: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Where each output pixel comes from: rows and columns, float32, broadcastable to (B, H, W)."""
    _, height, width, _ = shape
    level = (signs * bins).view(-1, 1, 1)
    row = torch.arange(height, device=bins.device, dtype=torch.float32).view(1, -1, 1)
    column = torch.arange(width, device=bins.device, dtype=torch.float32).view(1, 1, -1)
    if op == "ShearX":
        return row, column + level * (space.shear / space.bins) * (row + 0.5)
    if op == "ShearY":
        return row + level * (space.shear / space.bins) * (column + 0.5), column
    if op == "TranslateX":
        return row, column - _shift(bins, signs, width, space)
    if op == "TranslateY":
        return row - _shift(bins, signs, height, space), column
    tables = cosines_and_sines(math.radians(space.rotate / space.bins), space.bins, bins.device)
    cos, sin = tables[:, signs * bins + space.bins, None, None]
    y, x = row - (height - 1) / 2, column - (width - 1) / 2
    return sin * x + cos * y + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2


def _shift(bins: Tensor, signs: Tensor, side: int, space: Space) -> Tensor:
    """Whole pixels, cut towards zero as torchvision does; integers, for a float would fall short of some."""
    share = space.translate
    most, parts = (share, 1) if isinstance(share, int) else (share[0] * side, share[1])
    return (signs * (bins * most // (parts * space.bins))).view(-1, 1, 1)


def nearest(images: Tensor, rows: Tensor, columns: Tensor, fill: Tensor) -> Tensor:
    """The nearest pixel at (rows, columns); `fill` where that lies outside."""
    batch, height, width, channels = images.shape
    row, column = rows.round().long(), columns.round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    first = torch.arange(batch, device=images.device).view(-1, 1, 1) * height
    pixels = torch.cat([images.reshape(-1, channels), fill.expand(1, channels)])
    pixel = torch.where(inside, (first + row) * width + column, len(pixels) - 1)
    return pixels.index_select(0, pixel.view(-1)).view(images.shape)


def blend(images: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """`images` moved towards `other` by `weight` (B,), or away from it where that is negative."""
    mixed = images + (other - images.float()) * _column(weight)
    return mixed.clamp(0, 255).to(torch.uint8)


def degenerate(op: str, images: Tensor) -> Tensor:
    """The image without the property that `op` changes: black, grey, flat or smooth."""
    if op == "Brightness":
        return torch.zeros_like(images)
    if op == "Sharpness":
        return _smooth(images)
    luma = grey(images)
    if op == "Color":
        return luma
    total = luma.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64).float()
    return divide(total, images.shape[1] * images.shape[2])


def grey(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, (B, H, W, 1); a grey image as it is."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = images.int().split(1, dim=-1)
    return (2989 * red + 5870 * green + 1140 * blue) // 10000


def _smooth(images: Tensor) -> Tensor:
    """The mean of the 3 x 3 neighbourhood with a weight of 5 at its centre; the border as it is."""
    smooth = images.to(torch.int16)
    rows = smooth[:, :-2] + smooth[:, 1:-1] + smooth[:, 2:]
    inner = smooth[:, 1:-1, 1:-1]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner
    inner.copy_((2 * total + 13) // 26)  # total / 13, rounded
    return smooth
