"""A first look at all images of a data set, before any is decoded for good: sizes, colours, ranges of values."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from data.decode import UNREADABLE, is_grey, open_image, to_array, upright_size
from data.geometry import Geometry
from data.pixel_range import Ranges, extent, settled, union
from data.readers import RawSplit
from data.threads import in_threads

FILL_FROM = 1000  # photos whose mean --fit pad fills with
THUMBNAIL = 64  # pixels that the sides of a JPEG need for that, so that it is decoded at an eighth of its size or so
CHUNK = 32  # images that a thread reads at once: the cost of a slice is spread, and few encoded photos are in memory


@dataclass(frozen=True)
class Survey:
    """What the images that can be opened are like.

    Attributes:
        kinds: how many there are of each (grey?, (height, width)).
        ranges: of the values of more than eight bits that have no range by their type, in train.
    """

    kinds: Counter = field(default_factory=Counter)
    ranges: Ranges = field(default_factory=dict)

    @property
    def grey(self) -> bool:
        """Whether none has any colour."""
        return all(grey for grey, _ in self.kinds)

    @property
    def channels(self) -> int:
        """What is needed to keep what they show: 1 or 3."""
        return 1 if self.grey else 3

    @property
    def sizes(self) -> Counter:
        """How many there are of each (height, width)."""
        found: Counter = Counter()
        for (_, size), count in self.kinds.items():
            found[size] += count
        return found


def survey(splits: dict[str, RawSplit]) -> Survey:
    """Look at the images of all splits; what cannot be opened is passed over, as decoding meets it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either harmless or refused in decoding
        return merged(
            part
            for name, split in splits.items()
            for part in in_threads(
                lambda rows, name=name, split=split: look_at(split.read(rows), measured=name == "train"),
                split.length,
                CHUNK,
                f"reading {name}",
            )
        )


def look_at(images: Iterable, *, measured: bool) -> Survey:
    """Look at some images, in any form that `open_image` takes; `measured`: at their values too, where need be."""
    seen = Survey()
    for encoded in images:
        try:
            with open_image(encoded) as image:
                kind = is_grey(image), upright_size(image)
                own = extent(image) if measured else {}
        except UNREADABLE:
            continue
        seen.kinds[kind] += 1
        seen.ranges.update(union(seen.ranges, own))
    return seen


def merged(parts: Iterable[Survey]) -> Survey:
    """The survey of all images of several, its ranges settled."""
    kinds: Counter = Counter()
    ranges: Ranges = {}
    for part in parts:
        kinds.update(part.kinds)
        ranges = union(ranges, part.ranges)
    return Survey(kinds, settled(ranges))


def filled(geometry: Geometry, photos: Iterable[np.ndarray]) -> Geometry:
    """The geometry with the mean of photos, uint8 (H, W, C) of any sizes, to pad with; each photo counts as much."""
    means = [photo.reshape(-1, photo.shape[-1]).mean(0) for photo in photos]
    return replace(geometry, fill=tuple(np.mean(means, 0).round().astype(int).tolist())) if means else geometry


def some_photos(split: RawSplit, channels: int, ranges: Ranges) -> Iterator[np.ndarray]:
    """At most FILL_FROM photos from all over a split, uint8 (H, W, C), small; what cannot be read is passed over."""
    for number in range(0, split.length, -(-split.length // FILL_FROM)):
        try:
            with open_image(split.read(range(number, number + 1))[0]) as image:
                image.draft(None, (THUMBNAIL, THUMBNAIL))
                yield to_array(image, channels, None, ranges)
        except UNREADABLE:
            continue
