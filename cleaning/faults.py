"""Images that are there twice, look alike, show nothing or are too small, in all parts of a data set."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cleaning.near_duplicates import near_pairs, perceptual_hashes
from data.dataset import Subset

FLAT = 1e-12  # variance of pixels in 0..1: of 2,048x2,048 pixels one that differs by 1 has more
TINY = 4  # how many times smaller than what it was brought to
ALIKE = 0.9  # correlation of pixels; of pairs in CIFAR-10 that have more nearly all show one motif
PAIRS_AT_ONCE = 4096


class Pool:
    """The images of several parts of a data set, numbered one after another; like an array of their pixels.

    Attributes:
        part_of: int64 (N,), the number of each image's part.
        names, part_names: of each image, and of the parts.
        labels, hashes, moments: as in `Arrays`.
        shape: (N, H, W, C).
    """

    def __init__(self, parts: dict[str, Subset]) -> None:
        self.part_names, self._parts = list(parts), list(parts.values())
        lengths = [len(part) for part in self._parts]
        self._starts = np.cumsum([0, *lengths[:-1]])
        self.part_of = np.repeat(np.arange(len(lengths)), lengths)
        self.names = [name for part in self._parts for name in part.names()]
        self.labels, self.hashes, self.moments = (
            np.concatenate([getattr(part.arrays, array)[part.ids] for part in self._parts])
            for array in ("labels", "hashes", "moments")
        )
        self.shape = (len(self.names), *self._parts[0].arrays.images.shape[1:])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Pixels of some of them, uint8 (B, H, W, C)."""
        pixels = np.empty((len(numbers), *self.shape[1:]), dtype=np.uint8)
        for number, (part, start) in enumerate(zip(self._parts, self._starts, strict=True)):
            own = self.part_of[numbers] == number
            pixels[own] = part.arrays.images[part.ids[numbers[own] - start]]
        return pixels

    def own_sizes(self) -> np.ndarray:
        """The height and width that each had of its own, int64 (N, 2), in pixels; where unknown, what it has now."""
        sizes = []
        for part in self._parts:
            known, now = part.arrays.sizes, part.arrays.images.shape[1:3]
            sizes.append(np.tile(now, (len(part), 1)) if known is None else known[part.ids].astype(np.int64))
        return np.concatenate(sizes)


@dataclass(frozen=True)
class Faults:
    """What is odd about the images of a pool, each by its number there.

    Attributes:
        exact: groups of images that are equal in every pixel.
        near: groups of images that look alike; of equal ones the first stands for all.
        blank: images of one colour.
        tiny: images that were enlarged more than TINY times.
    """

    exact: list[np.ndarray]
    near: list[np.ndarray]
    blank: np.ndarray
    tiny: np.ndarray


def find_faults(pool: Pool, radius: int) -> Faults:
    """Look for all of them; of near duplicates see `near_groups`."""
    variance = (pool.moments[:, :, 1] - pool.moments[:, :, 0] ** 2).max(1)
    blank = variance <= FLAT
    tiny = pool.own_sizes().min(1) * TINY < min(pool.shape[1:3])
    _, first, group = np.unique(pool.hashes, return_index=True, return_inverse=True)
    distinct = np.sort(first[~blank[first]])
    near = near_groups(pool, distinct, radius) if radius else []
    return Faults(groups(group), near, np.flatnonzero(blank), np.flatnonzero(tiny))


def groups(numbers: np.ndarray) -> list[np.ndarray]:
    """The positions that have a number in common with others, int64 (N,), in order of their first."""
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    return sorted((group for group in np.split(order, cuts) if len(group) > 1), key=lambda group: group[0])


def near_groups(pool: Pool, numbers: np.ndarray, radius: int) -> list[np.ndarray]:
    """Groups of the images `numbers`, int64 (M,), none blank, each of which looks like another one of its group.

    Their hashes differ in at most `radius` bits, and their grey pixels correlate by ALIKE.
    """
    hashes, first, group = np.unique(perceptual_hashes(pool, numbers), return_index=True, return_inverse=True)
    same = np.stack([first[group], np.arange(len(numbers))], axis=1)  # each with the first of its hash
    pairs = np.concatenate([same[same[:, 0] != same[:, 1]], first[near_pairs(hashes, radius)]])
    alike = pairs[correlations(pool, numbers[pairs]) >= ALIKE]
    links = coo_array((np.ones(len(alike)), (alike[:, 0], alike[:, 1])), shape=(len(numbers), len(numbers)))
    return [numbers[members] for members in groups(connected_components(links, directed=False)[1])]


def correlations(pool: Pool, pairs: np.ndarray) -> np.ndarray:
    """Pearson's, of the grey pixels of each pair of images, none blank: float32 (P,) of int64 (P, 2)."""
    found = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        first, second = (_standardized(pool[part]) for part in pairs[start : start + PAIRS_AT_ONCE].T)
        found.append((first * second).sum(1))
    return np.concatenate(found)


def _standardized(images: np.ndarray) -> np.ndarray:
    """Grey pixels of mean 0 and length 1, float32 (B, H * W); of an image without contrast all 0."""
    grey = images.mean(3, dtype=np.float32).reshape(len(images), -1)
    grey -= grey.mean(1, keepdims=True)
    return grey / np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)
