"""What a data set is once it has been read: the images of each split, what they show, and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.geometry import MIDDLE, Geometry
from data.pixel_range import Ranges

if TYPE_CHECKING:
    from data.live import LiveImages


@dataclass(frozen=True)
class Arrays:
    """One decoded split.

    Attributes:
        images: uint8 (N, H, W, C), memory-mapped, C is 1 or 3; or what decodes such when it is asked for some.
        labels: int64 (N,).
        hashes: uint64 (N,), equal for images that are equal in every pixel.
        moments: float64 (N, C, 2), each image's mean and mean square per channel, of pixels in 0..1.
        bad_images: "where: why" of every sample that could not be decoded or has no label, and was left out.
        names: where each image is from, a file or a row of a split; empty where nobody knows.
        cut_images: how many had values outside of the range of train, which were cut off.
        sizes: int32 (N, 2), each image's own upright height and width in pixels; None: nobody knows.
        groups: int64 (N,), equal for images that belong together; None: each is by itself.
    """

    images: "np.ndarray | LiveImages"
    labels: np.ndarray
    hashes: np.ndarray
    moments: np.ndarray
    bad_images: Sequence[str] = ()
    names: Sequence[str] = ()
    cut_images: int = 0
    groups: np.ndarray | None = None
    sizes: np.ndarray | None = None


class Decoded(NamedTuple):
    """A decoded data set.

    Attributes:
        splits: by their names.
        class_names: the name of each label.
        remarks: what a person should know of how the source was understood, in sentences.
        ranges: of values of more than eight bits, in train: what became 0 and 255.
        sizes: how many images there were of each (height, width), in pixels, before they were brought to one.
        geometry: how they were brought to it.
        label_sets: uint8 (S, K), the classes of each label where labels number sets of them; else None.
        choice: why they are decoded once, or at every step, in words; empty where there is nothing to say.
    """

    splits: dict[str, Arrays]
    class_names: list[str]
    remarks: list[str]
    ranges: Ranges
    sizes: dict[tuple[int, int], int]
    geometry: Geometry = MIDDLE
    choice: str = ""
    label_sets: np.ndarray | None = None
