"""An encoded image file becomes a uint8 array, in the same way for training and for prediction."""

import logging
import struct
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.Image import Transpose

from data.geometry import MIDDLE, Geometry
from data.pixel_range import Ranges, as_bytes, is_cut

# Pillow only warns above this many pixels; a picture that large is a mistake or an attack (a decompression bomb).
MAX_PIXELS = 89_478_485
# What Pillow raises for files that are damaged, cut short, absent, no image, or too large: found by opening 250,000
# files of eleven kinds with bytes changed at random, as it documents no such list.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError, ArithmeticError, MemoryError),
    *(struct.error, Image.DecompressionBombError),
)
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))

# What a file of these formats begins with: of a small picture half the time goes into asking Pillow's other readers.
BEGINNINGS = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"RIFF", "WEBP"))

ORIENTATION_TAG, SAMPLES_PER_PIXEL = 0x0112, 277
logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)  # it says in words of its own what we say
# What sets a picture upright, for each value of the tag but 1. Pillow's own `exif_transpose` also rewrites the other
# tags, which costs time and refuses good pictures with odd ones.
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

RESAMPLING = Image.Resampling.BICUBIC
UPRIGHT_ALREADY = ("TIFF",)  # formats that Pillow itself sets upright when it decodes them


def open_image(encoded: dict | str | Path | None) -> Image.Image:
    """Open an image without decoding its pixels.

    Args:
        encoded: a path, or `datasets`' undecoded form, `{"bytes": bytes | None, "path": str | None}` or None.

    Raises:
        OSError, ValueError: it is no image that Pillow knows, or too large to be one honestly, or there is none.
    """
    source: str | Path | BinaryIO | None
    if isinstance(encoded, dict):
        source = BytesIO(encoded["bytes"]) if encoded["bytes"] is not None else encoded["path"]
    else:
        source = encoded
    if source is None:
        raise ValueError("there is no image")
    try:
        image = _opened(source)
    except UnidentifiedImageError:
        channels = _tiff_channels(source)
        if channels is None:
            raise
        raise ValueError(_of_channels(channels)) from None
    if image.format == "TIFF" and image.tag_v2.get(SAMPLES_PER_PIXEL, 1) > 4:  # of which Pillow would take three
        raise ValueError(_of_channels(image.tag_v2[SAMPLES_PER_PIXEL]))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS}")
    return image


def _opened(source: str | Path | BinaryIO) -> Image.Image:
    if isinstance(source, BytesIO):
        beginning = source.read(8)  # Pillow goes back to the start by itself
        formats = [name for first, name in BEGINNINGS if beginning.startswith(first)]
        if formats:
            with suppress(UnidentifiedImageError):  # then it may be of any other format
                return Image.open(source, formats=formats)
    return Image.open(source)


def complaint(error: Exception) -> str:
    """Why an image cannot be decoded, from what `UNREADABLE` names."""
    return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__


def _of_channels(channels: int) -> str:
    return f"a TIFF of {channels} channels, and only grey or colour can be read: write the ones to use into other files"


def _tiff_channels(source: str | Path | BinaryIO) -> int | None:
    """How many channels a TIFF has that Pillow does not know; None: it is no TIFF, or a damaged one."""
    with Path(source).open("rb") if isinstance(source, str | Path) else nullcontext(source) as file:
        file.seek(0)
        header = file.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            return None
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        try:
            file.seek(tags.next)
            tags.load(file)
            return int(tags.get(SAMPLES_PER_PIXEL, 1))
        except UNREADABLE:
            return None


def is_grey(image: Image.Image) -> bool:
    """Whether the picture has no colour to keep, told from its mode alone."""
    return image.mode in GREY_MODES


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in pixels after the camera's orientation tag is obeyed."""
    # A square needs no look at the tag, which spares PNGs, where it may lie behind the pixels, from being decoded here.
    if image.width == image.height or image.format in UPRIGHT_ALREADY:
        return image.height, image.width
    turned = image.getexif().get(ORIENTATION_TAG) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def to_array(
    image: Image.Image,
    channels: int,
    size: tuple[int, int] | None,
    ranges: Ranges | None = None,
    geometry: Geometry = MIDDLE,
) -> np.ndarray:
    """Decode to uint8 (height, width, channels).

    Args:
        image: any mode; grey of more than 8 bits is scaled to them, transparency is dropped.
        channels: 1 or 3.
        size: (height, width) in pixels that the picture is brought to; None keeps its own size.
        ranges: of the values that are signed, of 32 bits or floats: what becomes 0 and 255.
        geometry: how it is brought to that size.

    Raises:
        OSError, SyntaxError, ValueError: the file is damaged, or has values that are not finite or have no range.
    """
    orientation = image.getexif().get(ORIENTATION_TAG) if image.format not in UPRIGHT_ALREADY else None
    image = as_bytes(image, ranges or {})
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    image.info.pop("transparency", None)  # transparency is dropped in any case, and here Pillow would warn of it
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = fitted(image, size, geometry)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def fitted(image: Image.Image, size: tuple[int, int], geometry: Geometry) -> Image.Image:
    """`image`, of mode "L" or "RGB", as one of `size` (height, width) in pixels; bicubic, antialiased."""
    height, width = size
    if geometry.fit == "crop" and geometry.crop_pct < 1:
        return ImageOps.fit(image, (width, height), RESAMPLING, bleed=(1 - geometry.crop_pct) / 2)
    if (image.height, image.width) == size:
        return image
    if geometry.fit == "crop":
        return ImageOps.fit(image, (width, height), RESAMPLING)
    if geometry.fit == "pad":
        fill = geometry.fill
        return ImageOps.pad(image, (width, height), RESAMPLING, color=fill[0] if fill and len(fill) == 1 else fill)
    return image.resize((width, height), RESAMPLING)


def read_image(
    path: Path, shape: tuple[int, int, int], ranges: Ranges | None = None, geometry: Geometry = MIDDLE
) -> np.ndarray:
    """One image file as uint8 of `shape` (height, width, channels), prepared as training images of that shape were.

    Args:
        path: of the file.
        shape: of the training images.
        ranges, geometry: theirs, see `to_array`.

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: it cannot be read; see UNREADABLE.
    """
    with open_image(path) as image:
        return to_array(image, shape[2], shape[:2], ranges, geometry)


def loses_values(path: Path, ranges: Ranges) -> bool:
    """Whether `read_image` cuts off values of a file that it can read, as they lie outside of the ranges."""
    with open_image(path) as image:
        return is_cut(image, ranges)
