"""What photos are augmented by: a random resized crop, rotation, colour, blur, for a whole batch, each as it is drawn.

Operations follow torchvision's of the same name. As in `randaugment.py` every step is integer arithmetic or one
correctly rounded float operation per element, so that the bits do not depend on the batch; sines and exponentials are
looked up in tables of a fixed length, as vectorised ones may round by where they stand.
"""

import functools
import math

import torch
from torch import Tensor

from data.augment.arithmetic import cosines_and_sines, divide
from data.augment.randaugment import blend, degenerate, grey, nearest

STEPS = 1024  # of an angle, or of a blur's width, from none to the most
COLORS = ("Brightness", "Contrast", "Color", "Hue")  # in the order of their strengths
SIGMA = (0.1, 2.0)  # of the blur, in pixels, as torchvision has it


def resized_crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Each image's own box, resized to the image's size: bilinear, as a box is never larger.

    `images` uint8 (B, H, W, C); the box in pixels, int64 (B,). Returns uint8 (B, H, W, C).
    """
    batch, rows, columns, channels = images.shape
    low, high, share = _taps(top, height, rows)
    first = (torch.arange(batch, device=images.device) * rows)[:, None]
    flat = images.reshape(batch * rows, columns * channels)
    above, below = (flat[(first + row).view(-1)].view(batch, rows, columns * channels).float() for row in (low, high))
    mixed = above + (below - above) * share[:, :, None]
    low, high, share = _taps(left, width, columns)
    pixels = mixed.view(batch, rows, columns, channels)
    before, after = (_columns(pixels, column) for column in (low, high))
    return (before + (after - before) * share[:, None, :, None]).round().to(torch.uint8)


def _taps(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels that each of 0..side-1 lies between in the box, int64 (B, side), and how near to the second."""
    position = (torch.arange(side, device=start.device) + 0.5) * divide(length[:, None].float(), side) - 0.5
    position = torch.minimum(position.clamp(min=0), length[:, None].float() - 1)
    low = position.floor()
    high = torch.minimum(low + 1, length[:, None].float() - 1)
    return start[:, None] + low.long(), start[:, None] + high.long(), position - low


def _columns(images: Tensor, column: Tensor) -> Tensor:
    """(B, H, W, C) with the columns of each image that `column` (B, W) names."""
    batch, height, _, channels = images.shape
    index = column[:, None, :, None].expand(batch, height, column.shape[1], channels)
    return images.gather(2, index)


def rotate(images: Tensor, steps: Tensor, degrees: float, fill: Tensor) -> Tensor:
    """Each image turned by its own angle, `steps` (B,) of -STEPS..STEPS shares of `degrees`; the nearest pixel."""
    _, height, width, _ = images.shape
    tables = cosines_and_sines(math.radians(degrees) / STEPS, STEPS, images.device)
    cos, sin = tables[:, steps + STEPS, None, None]
    y = torch.arange(height, device=images.device, dtype=torch.float32).view(1, -1, 1) - (height - 1) / 2
    x = torch.arange(width, device=images.device, dtype=torch.float32).view(1, 1, -1) - (width - 1) / 2
    return nearest(images, sin * x + cos * y + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2, fill)


def adjust(images: Tensor, property: str, change: Tensor) -> Tensor:
    """Each image with more or less of a property of COLORS: a factor of 1 + change, or a hue turned by `change`.

    `images` uint8 (B, H, W, C); `change` float32 (B,), for "Hue" in turns, -0.5..0.5. Grey images keep their hue.
    """
    if property == "Hue":
        return images if images.shape[-1] == 1 else _turn_hue(images, change)
    return blend(images, degenerate(property, images), -change)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hue by the hexagon of HSV, in six sixths of a turn."""
    pixels = divide(images.float(), 255)
    value, least = pixels.amax(-1), pixels.amin(-1)
    span = value - least
    red, green, blue = pixels.unbind(-1)
    divisor = torch.where(span == 0, 1, span)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths = (divide(sixths, 6) + turn.view(-1, 1, 1)) % 1 * 6
    channels = []
    for offset in (5, 3, 1):
        distance = (offset + sixths) % 6
        share = torch.minimum(distance, 4 - distance).clamp(0, 1)
        channels.append(value - span * share)
    return (torch.stack(channels, -1) * 255).round().to(torch.uint8)


def to_grey(images: Tensor) -> Tensor:
    """Luma in all channels, uint8 (B, H, W, C)."""
    return grey(images).to(torch.uint8).expand_as(images)


def blur(images: Tensor, steps: Tensor) -> Tensor:
    """Each image smoothed by a Gaussian of its own width: `steps` (B,) of 0..STEPS, from least to most of SIGMA.

    The kernel has an odd number of pixels, about a tenth of the shorter side; borders are reflected.
    """
    _, height, width, _ = images.shape
    reach = min(max(1, round(min(height, width) / 20)), height - 1, width - 1)
    if reach < 1:
        return images
    weights = _gaussians(reach, images.device)[steps]
    smooth = images.float()
    for dim, side in ((1, height), (2, width)):
        index = torch.arange(-reach, side + reach, device=images.device).abs()
        padded = smooth.index_select(dim, side - 1 - (side - 1 - index).abs())
        smooth = torch.zeros_like(smooth)
        for tap in range(2 * reach + 1):
            smooth = smooth + padded.narrow(dim, tap, side) * weights[:, tap].view(-1, 1, 1, 1)
    return smooth.round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache
def _gaussians(reach: int, device: torch.device) -> Tensor:
    """The kernels of all widths, float32 (STEPS + 1, 2 * reach + 1), each of sum 1."""
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    return (weights / weights.sum(1, keepdim=True)).float().to(device)
