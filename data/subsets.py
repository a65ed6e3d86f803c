"""The parts of a data set: what is trained on, validated on and tested on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common.errors import UserError
from data.cache import Arrays
from data.iterative_split import iterative_split
from data.readers import RawSplit
from data.split import stratified_folds, stratified_split, stratified_subset

TEST_FRACTION = 0.2  # held out where a data set has no test split of its own
TEST_SEED = 0  # the test part never depends on a run's seed, so that runs compare
LIMITS = {"--limit-train": "training", "--limit-val": "validation", "--limit-test": "test"}


@dataclass(frozen=True)
class Subset:
    """Some samples of a split: `ids` (int64, sorted) number the rows of `arrays`."""

    arrays: Arrays
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def names(self) -> list[str]:
        """Where each image is from: a file, or its row in a split."""
        known = self.arrays.names
        return [known[number] if known else f"image {number}" for number in self.ids]


Subsets = tuple[Subset, Subset, Subset]  # train, validation, test


def subsample(parts: Subsets, limits: tuple[int | None, ...], seed: int, *, smoke: bool) -> Subsets:
    """So many images of each part, classes in proportion; None: all of them; `smoke`: as many as there are, at most.

    Raises:
        UserError: there are not as many.
    """
    kept = []
    for (option, noun), part, count in zip(LIMITS.items(), parts, limits, strict=True):
        if count is not None and smoke:
            count = min(count, len(part))
        if count is not None and count > len(part):
            raise UserError(f"{option} {count}: only {len(part)} {noun} images are there")
        part_seed = TEST_SEED if noun == "test" else seed
        ids = part.ids if count is None else stratified_subset(part.arrays.labels, part.ids, count, part_seed)
        kept.append(Subset(part.arrays, ids))
    return tuple(kept)


def long_tailed(part: Subset, ratio: float, seed: int) -> Subset:
    """The exponential profile of long-tailed CIFAR (Cao et al. 2019, arXiv:1906.07413), from classes of any size.

    Of the k-th of K classes n * ratio^(-k / (K - 1)) images are left, where n is how many the largest has; at most as
    many as there are, and at least one. They are a function of `seed`.
    """
    labels = part.arrays.labels[part.ids]
    counts = np.bincount(labels)
    random = np.random.default_rng(seed)
    kept = []
    for label in np.flatnonzero(counts):
        wanted = int(counts.max() * ratio ** (-label / max(len(counts) - 1, 1)))
        kept.append(random.permutation(part.ids[labels == label])[: max(wanted, 1)])
    return Subset(part.arrays, np.sort(np.concatenate(kept)))


def few(splits: dict[str, RawSplit], rows: int | None) -> dict[str, RawSplit]:
    """Splits of at most so many images, classes in proportion, of which no more are read; None: as they are."""
    return splits if rows is None else {name: _few(split, rows) for name, split in splits.items()}


def _few(split: RawSplit, rows: int) -> RawSplit:
    chosen = few_ids(np.asarray(split.labels), rows).tolist()

    groups = None if split.groups is None else [split.groups[row] for row in chosen]
    labels = [split.labels[row] for row in chosen]
    return replace(split, length=len(chosen), read=_Chosen(split.read, chosen), labels=labels, groups=groups)


@dataclass(frozen=True)
class _Chosen:
    """Reads some images of a split, by their place among the chosen ones."""

    read: Callable[[range], list[dict]]
    rows: list[int]

    def __call__(self, places: range) -> list[dict]:
        return [image for row in self.rows[places.start : places.stop] for image in self.read(range(row, row + 1))]


def few_ids(labels: np.ndarray, rows: int) -> np.ndarray:
    """At most so many of the samples 0..N-1, classes in proportion; sorted int64."""
    return stratified_subset(labels, np.arange(len(labels)), min(rows, len(labels)), TEST_SEED)


def cut_subsets(
    dataset: str,
    splits: dict[str, Arrays],
    val_fraction: float | None,
    fold: tuple[int, int] | None,
    seed: int,
    label_sets: np.ndarray | None = None,
) -> Subsets:
    """(train, validation, test) of the splits that there are; `fold` is (of how many, number) or None.

    `label_sets`, uint8 (S, K), are the classes of each label where labels number sets of them.

    Raises:
        UserError: every image of the validation split is in train too.
    """
    train = Subset(splits["train"], np.arange(len(splits["train"].labels)))
    own = {name: Subset(splits[name], np.arange(len(splits[name].labels))) for name in splits}
    if "test" not in own and "validation" not in own:
        train, test = _carve(train, TEST_FRACTION, TEST_SEED, label_sets, one_of_each=True)
    else:
        test = own["test"] if "test" in own else own["validation"]
    if fold is not None:
        labels = train.arrays.labels[train.ids]
        if label_sets is None:
            folds = stratified_folds(labels, together(train), fold[0], seed)
        else:
            folds = iterative_split(label_sets[labels], together(train), [1 / fold[0]] * fold[0], seed)
        chosen = folds == fold[1]
        return Subset(train.arrays, train.ids[~chosen]), Subset(train.arrays, train.ids[chosen]), test
    if "test" in own and "validation" in own and val_fraction is None:
        val = own["validation"]
        new = ~np.isin(val.arrays.hashes, train.arrays.hashes)  # an image that is trained on validates nothing
        if len(val) and not new.any():
            raise UserError(
                f"{dataset}: all {len(val):,} images of the validation split are also in train, pixel for pixel: put "
                "others there, or give --val-fraction 0.1 to validate on a part of train"
            )
        return train, Subset(val.arrays, val.ids[new]), test
    train, val = _carve(train, 0.1 if val_fraction is None else val_fraction, seed, label_sets)
    return train, val, test


def _carve(
    part: Subset, fraction: float, seed: int, label_sets: np.ndarray | None, *, one_of_each: bool = False
) -> tuple[Subset, Subset]:
    labels = part.arrays.labels[part.ids]
    if label_sets is None:
        rest, carved = stratified_split(labels, together(part), fraction, seed, one_of_each=one_of_each)
    else:
        into = iterative_split(label_sets[labels], together(part), [1 - fraction, fraction], seed)
        rest, carved = np.flatnonzero(into == 0), np.flatnonzero(into == 1)
    return Subset(part.arrays, part.ids[rest]), Subset(part.arrays, part.ids[carved])


def together(part: Subset) -> np.ndarray:
    """A number for each sample, uint64 (N,): equal where images are, or belong to one group, or to one by others."""
    hashes = part.arrays.hashes[part.ids]
    if part.arrays.groups is None:
        return hashes
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, of_pixels = np.unique(hashes, return_inverse=True)
    _, of_groups = np.unique(part.arrays.groups[part.ids], return_inverse=True)
    size = of_pixels.max() + of_groups.max() + 2
    links = coo_array((np.ones(len(hashes)), (of_pixels, of_pixels.max() + 1 + of_groups)), shape=(size, size))
    return connected_components(links, directed=False)[1][of_pixels].astype(np.uint64)


def check_counts(dataset: str, parts: Subsets, val_fraction: float | None, folds: int | None) -> None:
    """Refuse an empty part, but for a validation part where none was asked for.

    Raises:
        UserError: there is one.
    """
    _, val, test = parts
    if len(test) == 0:
        raise UserError(f"{dataset}: no image is left for the test part: add images")
    if len(val) == 0 and folds:
        raise UserError(f"{dataset} is too small for --folds {folds}: give fewer")
    if len(val) == 0 and val_fraction != 0:
        raise UserError(f"{dataset} is too small for a validation part: give --val-fraction 0, or a larger one")


def classes_of(part: Subset, label_sets: np.ndarray | None) -> np.ndarray:
    """The class of each image of a part, int64; of images with several, all of them one after another."""
    labels = part.arrays.labels[part.ids]
    return labels if label_sets is None else np.nonzero(label_sets[labels])[1]


def check_several(dataset: str, class_names: list[str]) -> None:
    """Raise UserError where there is nothing to tell apart."""
    if len(class_names) < 2:
        raise UserError(f"{dataset} has one class only ({class_names[0]}): a classifier needs at least two")


def check_classes(dataset: str, parts: Subsets, class_names: list[str], label_sets: np.ndarray | None = None) -> None:
    """Refuse classes that have images, but none to train on, and data sets of fewer than two classes.

    Raises:
        UserError: there are some.
    """
    counts, *held_out = (np.bincount(classes_of(part, label_sets), minlength=len(class_names)) for part in parts)
    # A name that no image has is left as it is; such as "background", where all of them are of something.
    empty = [class_names[label] for label in np.flatnonzero((counts == 0) & (sum(held_out) > 0))]
    if empty or np.count_nonzero(counts) < 2:
        empty = empty or [class_names[label] for label in np.flatnonzero(counts == 0)]
        raise UserError(f"{dataset}: no training image is left of {', '.join(empty)}: add images to these classes")
