"""A part of an encoded photo at the size that a model takes, with as little decoded as that needs."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from data.decode import ORIENTATION_TAG, open_image, to_array
from data.pixel_range import Ranges

COLORS = {1: "Gray", 3: "RGB"}  # channels -> what simplejpeg calls it


def read_encoded(encoded: dict | str) -> bytes:
    """The bytes of an image file, from any form that `open_image` takes."""
    if isinstance(encoded, str):
        return Path(encoded).read_bytes()
    return encoded["bytes"] if encoded["bytes"] is not None else Path(encoded["path"]).read_bytes()


def is_plain_jpeg(image: Image.Image, channels: int) -> bool:
    """Whether `cropped` may leave Pillow out: an upright JPEG of colours that need no conversion.

    Args:
        image: as Pillow opened it.
        channels: that are wanted, 1 or 3.
    """
    colors = ("L",) if channels == 1 else ("L", "RGB")
    return image.format == "JPEG" and image.mode in colors and image.getexif().get(ORIENTATION_TAG, 1) == 1


def cropped(
    encoded: dict | str,
    size: Sequence[int],
    box: Sequence[int],
    shape: tuple[int, int, int],
    plain: bool,
    ranges: Ranges,
) -> np.ndarray:
    """A box of a photo, resized to uint8 of `shape` (height, width, channels): bilinear, antialiased.

    A JPEG is decoded at a half, or less, of its size where the box has enough pixels then.

    Args:
        encoded: the photo, in any form that `open_image` takes.
        size: its upright height and width, in pixels.
        box: top, left, height and width, in pixels.
        plain: as `is_plain_jpeg` says.
        ranges: see `to_array`.
    """
    top, left, tall, wide = box
    height, width, channels = shape
    whole = _quickly(read_encoded(encoded), size, box, shape) if plain else None
    if whole is None:
        with open_image(encoded) as image:
            whole = to_array(image, channels, None, ranges)
    if whole.shape[:2] != tuple(size):
        shares = whole.shape[0] / size[0], whole.shape[1] / size[1]
        top, tall = round(top * shares[0]), max(1, round(tall * shares[0]))
        left, wide = round(left * shares[1]), max(1, round(wide * shares[1]))
    # Copied as a batch of one, whose strides tell PyTorch that channels come last: half the time of its other way.
    part = torch.from_numpy(whole[None, top : top + tall, left : left + wide].copy())
    if part.shape[1:3] == (height, width):
        return part[0].numpy()
    planes = part.permute(0, 3, 1, 2)
    resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1)[0].numpy()


def _quickly(data: bytes, size: Sequence[int], box: Sequence[int], shape: tuple[int, int, int]) -> np.ndarray | None:
    """The whole photo, at a half of its size or less where the box has enough pixels then; None: Pillow may know."""
    import simplejpeg  # only what is decoded live needs it, and not every notebook has it

    _, _, tall, wide = box
    height, width, channels = shape
    enough = {"min_height": math.ceil(size[0] * height / tall), "min_width": math.ceil(size[1] * width / wide)}
    try:
        return simplejpeg.decode_jpeg(data, COLORS[channels], **enough, min_factor=2)
    except ValueError:  # a fault that Pillow passes over
        return None
