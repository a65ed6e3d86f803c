"""What a person should know of a data set before its metrics are believed, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.geometry import Geometry
from data.pixel_range import NATURAL, Ranges

FEW = 5  # images of a class; a fifth of fewer is less than one
NAMED_AT_ONCE = 5
MUCH = 0.2  # of a photo that is cut off
HOW = {
    "crop": "shorter side resized, middle cut",
    "pad": "resized, padded with the mean of train",
    "stretch": "stretched",
}


def named(names: Sequence[str]) -> str:
    """Some names in a sentence, and how many more there are."""
    more = len(names) - NAMED_AT_ONCE
    return ", ".join(names[:NAMED_AT_ONCE]) + (f" and {more} more" if more > 0 else "")


def of_classes(class_names: Sequence[str], train: np.ndarray, val: np.ndarray, test: np.ndarray) -> list[str]:
    """Sentences about the classes that have few images, or none in a part.

    Args:
        class_names: the name of each label.
        train, val, test: the labels of each part, int64 (N,); `val` may be empty, as nothing is validated then.
    """
    remarks = []
    parts = {"training": train, "validation": val, "test": test}
    counts = {part: np.bincount(labels, minlength=len(class_names)) for part, labels in parts.items()}
    total = sum(counts.values())
    few = np.flatnonzero((total > 0) & (total < FEW))
    if len(few):
        each = named([f"{class_names[label]} {total[label]}" for label in few])
        remarks.append(
            f"warning: {_classes(few)} fewer than {FEW} images ({each}): their metrics, and averages over classes, "
            "say little"
        )
    unused = np.flatnonzero(total == 0)
    if len(unused):
        remarks.append(f"note: {_classes(unused)} no image at all ({named([class_names[label] for label in unused])})")
    for part, what_follows in (
        ("training", "they cannot be learnt"),
        ("validation", "the best epoch is chosen without them"),
        ("test", "averages over classes leave them out"),
    ):
        absent = np.flatnonzero((counts[part] == 0) & (total > 0))
        if len(absent) and counts[part].any():
            names = named([class_names[label] for label in absent])
            remarks.append(f"note: {_classes(absent)} no {part} image ({names}): {what_follows}")
    return remarks


def _classes(labels: np.ndarray) -> str:
    return "1 class has" if len(labels) == 1 else f"{len(labels)} classes have"


def of_sizes(
    sizes: Mapping[tuple[int, int], int], shape: tuple[int, int], geometry: Geometry, by_default: bool, pairs: bool
) -> list[str]:
    """Sentences about what was done to images that were not of one size, or not of this one.

    Args:
        sizes: how many images there are of each (height, width).
        shape: the (height, width) that they were brought to.
        geometry: how.
        by_default: nobody asked for this one.
        pairs: they are inputs of pairs, for which there is no other way.
    """
    if not sizes.keys() - {shape}:
        return []
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    least, most = (f"{width}x{height}" for height, width in (ordered[0], ordered[-1]))
    of = f"{len(sizes)} sizes, {least} to {most}" if len(sizes) > 1 else least
    same_form = all(height * shape[1] == width * shape[0] for height, width in sizes)
    how = "resized" if same_form and geometry.crop_pct == 1 else HOW[geometry.fit]
    size = f"{shape[1]}x{shape[0]}" + (", the model's own (--image-size gives another)" if by_default else "")
    told = [f"{sum(sizes.values()):,} photos of {of}, brought to {size}: {how}"]
    left_out = _median({own: geometry.share_left_out(own, shape) for own in sizes}, sizes)
    if left_out > MUCH and not pairs:
        told.append(
            f"warning: --fit crop cuts off {left_out:.0%} of the median photo; --fit pad or stretch keeps it all"
        )
    return told


def _median(values: Mapping[Any, float], counts: Mapping[Any, int]) -> float:
    """The median of values of which there are so many each, by the same keys."""
    ordered = sorted(values, key=lambda key: values[key])
    up_to = np.cumsum([counts[key] for key in ordered])
    return values[ordered[int(np.searchsorted(up_to, up_to[-1] / 2))]]


def of_ranges(ranges: Ranges) -> list[str]:
    """Sentences about values whose range is neither that of their type nor a common one."""
    return [
        f"note: the pixels' values are {kind} from {low:g} to {high:g}, the least and most in train, which become 0 "
        "and 255"
        for kind, (low, high) in ranges.items()
        if (low, high) != NATURAL[kind]
    ]


def of_counts(notes: dict[str, int]) -> list[str]:
    """Sentences about images that were left out or lie in two parts, from the counts that `DataSplits.notes` holds."""
    told = {
        "val_images_left_out": ("validation", "also in train, pixel for pixel, and left out"),
        "test_images_also_in_train": ("test", "also in train, pixel for pixel"),
        "test_images_also_in_val": ("test", "also in validation, pixel for pixel"),
        "images_beyond_range": ("", "beyond the range of values in train, and cut to it"),
        "bad_images_left_out": ("", "left out, without a label or unreadable"),
    }
    return [
        f"note: {notes[key]} {f'{part} ' if part else ''}{'image is' if notes[key] == 1 else 'images are'} {words}"
        for key, (part, words) in told.items()
        if notes.get(key)
    ]
