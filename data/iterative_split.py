"""Parts of a data set whose images have several labels: each label is in each part in proportion, as far as it goes."""

from collections.abc import Sequence

import numpy as np


def iterative_split(sets: np.ndarray, hashes: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part of each of the samples 0..N-1, by iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011).

    The rarest label that is left is dealt out first, each image of it to the part that lacks most of that label, then
    most of all. Images with equal hashes go to one part as a whole.

    Args:
        sets: uint8 (N, K), 1 where a sample has a label.
        hashes: uint64 (N,), equal for samples that belong together.
        shares: of each part, which add up to 1.
        seed: the same seed gives the same parts on every machine.

    Returns:
        int64 (N,), numbers of parts.
    """
    _, group = np.unique(hashes, return_inverse=True)
    sizes = np.bincount(group)
    counts = np.zeros((len(sizes), sets.shape[1]), dtype=np.int64)
    np.add.at(counts, group, sets)
    wanted = np.outer(counts.sum(0), shares)  # of each label in each part, less what is there already
    wanted_of_all = len(hashes) * np.asarray(shares, dtype=float)
    open_parts = np.asarray(shares) > 0
    part_of = np.full(len(sizes), -1)
    shuffled = np.random.Generator(np.random.Philox([seed, 3])).permutation(len(sizes))
    shuffled = shuffled[np.argsort(-sizes[shuffled], kind="stable")]  # many copies first, single images even out

    def deal(groups: np.ndarray, label: int | None) -> None:
        for one in groups:
            lacking = np.zeros(len(shares)) if label is None else wanted[label]
            # The last is the first to be looked at: where all lack as much, the larger part gets it.
            best = np.lexsort((wanted_of_all, np.round(lacking, 9), open_parts))[-1]
            part_of[one] = best
            wanted[:, best] -= counts[one]
            wanted_of_all[best] -= sizes[one]

    left = counts.sum(0)
    while left.any():
        label = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        own = shuffled[(part_of[shuffled] < 0) & (counts[shuffled, label] > 0)]
        deal(own, label)
        left = left - counts[own].sum(0)
    deal(shuffled[part_of[shuffled] < 0], None)
    return part_of[group]
