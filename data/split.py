"""Stratified, seeded parts of a data set, with equal images always on one side."""

import numpy as np


def stratified_split(
    labels: np.ndarray, hashes: np.ndarray, fraction: float, seed: int, *, one_of_each: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples 0..N-1 into (rest, part), each class giving `fraction` of its samples to the part.

    Images with equal hashes go to the same side as a whole, even when their labels differ. Where every class is so
    small that its fraction rounds to nothing, the largest give one sample each.

    Args:
        labels: int64 (N,).
        hashes: uint64 (N,), equal for images that are equal in every pixel.
        fraction: 0..1, of each class, to the nearest whole sample.
        seed: the same seed gives the same parts on every machine.
        one_of_each: every class of two different images or more gives at least one.

    Returns:
        Two sorted int64 arrays which together hold each of 0..N-1 once.
    """
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    shuffled = np.random.Generator(np.random.Philox(seed)).permutation(len(first))
    class_of_group = labels[first[shuffled]]
    chosen = np.zeros(len(first), dtype=bool)
    classes, counts = np.unique(labels, return_counts=True)
    rooms = [round(fraction * int(count)) for count in counts]
    if not any(rooms):
        for index in np.argsort(-counts, kind="stable")[: round(fraction * len(labels))]:
            rooms[index] = 1
    for label, room in zip(classes, rooms, strict=True):
        own = shuffled[class_of_group == label]
        for group_of_label in own:
            if room == 0:
                break
            if sizes[group_of_label] <= room:  # many copies of one image may not fit, the next single one does
                chosen[group_of_label] = True
                room -= sizes[group_of_label]
        if one_of_each and len(own) > 1 and not chosen[own].any():
            chosen[own[np.argmin(sizes[own])]] = True
    in_part = chosen[group]
    return np.flatnonzero(~in_part), np.flatnonzero(in_part)


def stratified_folds(labels: np.ndarray, hashes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold (0..folds-1) of each of the samples 0..N-1: int64 (N,), each class dealt out as evenly as it goes.

    Images with equal hashes go to the same fold as a whole, even when their labels differ.

    Args:
        labels: int64 (N,).
        hashes: uint64 (N,), equal for images that are equal in every pixel.
        folds: how many.
        seed: the same seed gives the same folds on every machine.
    """
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    shuffled = np.random.Generator(np.random.Philox([seed, 2])).permutation(len(first))
    of_class = np.zeros((labels.max() + 1, folds), dtype=np.int64)
    of_all = np.zeros(folds, dtype=np.int64)
    fold_of_group = np.empty(len(first), dtype=np.int64)
    for number in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:  # many copies first, single images even out
        have = of_class[labels[first[number]]]
        fold = np.lexsort((of_all, have))[0]  # the one with the fewest of the class, then of all
        fold_of_group[number] = fold
        have[fold] += sizes[number]
        of_all[fold] += sizes[number]
    return fold_of_group[group]


def stratified_subset(labels: np.ndarray, ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of `ids` with the classes in proportion (largest remainders get the odd ones); sorted int64."""
    generator = np.random.Generator(np.random.Philox([seed, 1]))
    ids = generator.permutation(ids)
    classes, inverse, totals = np.unique(labels[ids], return_inverse=True, return_counts=True)
    share = totals * (count / len(ids))
    quota = np.floor(share).astype(np.int64)
    largest = np.argsort(-(share - quota), kind="stable")[: count - quota.sum()]
    quota[largest] += 1
    return np.sort(np.concatenate([ids[inverse == c][: quota[c]] for c in range(len(classes))]))
