"""Values of more than eight bits become bytes, all of a data set by one range.

Unsigned 16-bit pictures have the range of their type. Signed and 32-bit ones have none that a picture could be shown
by: theirs is that of the images that are trained on, and is kept with the weights. Where no such image was trained on,
they are read by the natural range, or refused if they do not lie in it.
"""

import numpy as np
from PIL import Image

# kind of value, "integers" or "floats" -> (the value that becomes 0, the one that becomes 255)
Ranges = dict[str, tuple[float, float]]

SIXTEEN_BITS = 65535
NATURAL = {"integers": (0, 255), "floats": (0, 1)}  # taken where all values lie in it, whatever the least and most are
SAMPLE_FORMAT, UNSIGNED, SIGNED = 339, (1,), (2,)  # a TIFF's tag, and two of its values


def kind_of(image: Image.Image) -> str | None:
    """What a picture's values are: "bytes", "sixteen bits", or one of the kinds that `Ranges` knows."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return "sixteen bits"  # of a PGM Pillow brings any largest value to this range
    if image.mode == "F":
        return "floats"
    return "integers" if image.mode == "I" or _signed_bytes(image) else "bytes"


def _signed_bytes(image: Image.Image) -> bool:
    return image.mode == "L" and _sample_format(image) == SIGNED


def _sample_format(image: Image.Image) -> tuple | None:
    return image.tag_v2.get(SAMPLE_FORMAT) if image.format == "TIFF" else None


def _values(image: Image.Image) -> np.ndarray:
    """The values as the file has them, (H, W): Pillow gives what is 32-bit unsigned or 8-bit signed as the opposite."""
    values = np.asarray(image)
    if image.mode == "I" and _sample_format(image) == UNSIGNED and image.tag_v2.get(258) == (32,):
        return values.view(np.uint32)
    return values.view(np.int8) if _signed_bytes(image) else values


def extent(image: Image.Image) -> Ranges:
    """The least and the most value of a picture whose range is not that of its type; nothing for others.

    Raises:
        ValueError: a value is not finite.
    """
    kind = kind_of(image)
    if kind not in NATURAL:
        return {}
    values = _finite(_values(image))
    return {kind: (float(values.min()), float(values.max()))}


def _finite(values: np.ndarray) -> np.ndarray:
    bad = values.size - np.isfinite(values).sum()
    if bad:
        raise ValueError(f"{bad} of its pixels are no finite numbers (NaN or infinite)")
    return values


def union(one: Ranges, other: Ranges) -> Ranges:
    """The range of each kind that holds both."""
    both = [(kind, limits) for ranges in (one, other) for kind, limits in ranges.items()]
    lows, highs = {}, {}
    for kind, (low, high) in both:
        lows[kind], highs[kind] = min(low, lows.get(kind, low)), max(high, highs.get(kind, high))
    return {kind: (lows[kind], highs[kind]) for kind in lows}


def settled(ranges: Ranges) -> Ranges:
    """The ranges to scale by: the natural one where it holds all values, else from the least value to the most."""
    return {
        kind: NATURAL[kind] if NATURAL[kind][0] <= low and high <= NATURAL[kind][1] else (low, high)
        for kind, (low, high) in ranges.items()
    }


def as_bytes(image: Image.Image, ranges: Ranges) -> Image.Image:
    """The picture itself if it is of bytes, else as mode "L"; what lies outside of its range is cut off.

    Raises:
        ValueError: a value is not finite, or lies beyond the natural range where its kind has no other.
    """
    kind = kind_of(image)
    if kind == "bytes":
        return image
    if kind == "sixteen bits":
        return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // SIXTEEN_BITS).astype(np.uint8))
    values = _finite(_values(image)).astype(np.float64)
    low, high = ranges.get(kind, NATURAL[kind])
    if kind not in ranges and (values.min() < low or values.max() > high):
        raise ValueError(f"its values are {kind} beyond {low}..{high}, and no training image had such")
    shares = (values - low) / ((high - low) or 1)
    return Image.fromarray((shares.clip(0, 1) * 255).round().astype(np.uint8))


def is_cut(image: Image.Image, ranges: Ranges) -> bool:
    """Whether `as_bytes` cuts off some of the picture's values, as they lie outside of its range."""
    limits = {kind: (own, ranges.get(kind, NATURAL[kind])) for kind, own in extent(image).items()}
    return any(own[0] < least or own[1] > most for own, (least, most) in limits.values())
