"""A data set ready to train on: decoded splits, what is train, validation and test, and what the pixels are like."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data import cache, remarks
from data.cache import Arrays
from data.images import to_array
from data.raw import UNLABELLED, Columns, about_folder, read_raw_splits
from data.sources import Source, find_source
from data.split import stratified_folds, stratified_split, stratified_subset
from engine.errors import UserError

TEST_FRACTION = 0.2  # held out where a data set has no test split of its own
TEST_SEED = 0  # the test part never depends on a run's seed, so that runs compare


@dataclass(frozen=True)
class Part:
    """Some samples of a split: `ids` (int64, sorted) number the rows of `arrays`."""

    arrays: Arrays
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ImageData:
    """What a run trains, validates and tests on.

    Attributes:
        name: short name of the data set.
        train, val, test: the parts; `val` is empty when no validation was asked for.
        class_names: the name of each label, from the train split.
        shape: (height, width, channels) of every image, in pixels.
        mean, std: per channel, of the train part's pixels in 0..1.
        notes: counts that belong in the report: parts, duplicates, images left out.
        remarks: what a person should know before the figures are believed, a sentence each.
        targets: uint8 (N, H, W, C), of pairs of images, which the labels then number; else None.
        unlabelled: images of a test split whose labels are kept secret, to be predicted; None where there is none.
    """

    name: str
    train: Part
    val: Part
    test: Part
    class_names: list[str]
    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    notes: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    targets: np.ndarray | None = None
    unlabelled: Part | None = None

    def fingerprints(self) -> dict[str, str]:
        """Of "train", "validation" and "test" a hash of the images' pixels, labels and order, to know them again."""
        parts = {"train": self.train, "validation": self.val, "test": self.test}
        return {name: self._fingerprint(part) for name, part in parts.items()}

    def _fingerprint(self, part: Part) -> str:
        arrays, ids = part.arrays, part.ids
        labels = arrays.labels[ids]
        hashed = [ids, labels, arrays.hashes[ids], *([] if self.targets is None else [self.targets[labels]])]
        return hashlib.sha256(b"".join(array.tobytes() for array in hashed)).hexdigest()

    def in_words(self) -> str:
        """What there is, in one line."""
        height, width, channels = self.shape
        counts = f"{len(self.train):,} train, {len(self.val):,} validation, {len(self.test):,} test"
        kinds = f"{len(self.class_names)} classes" if self.targets is None else "each with its target"
        return f"{self.name}: {counts} images of {height}x{width}x{channels}, {kinds}"


def changed_parts(before: dict[str, str], now: dict[str, str]) -> str:
    """Which parts have other images: "train and test", say; empty where none has.

    Args:
        before: from `ImageData.fingerprints`; of an earlier version it may lack parts, which are not compared.
        now: the same, of the images that there are.
    """
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    return " and ".join([", ".join(changed[:-1]), *changed[-1:]] if len(changed) > 1 else changed)


def load_images(
    dataset: str,
    *,
    data_dir: str | None = None,
    coarse: bool = False,
    image_size: int | None = None,
    val_fraction: float | None = None,
    folds: int | None = None,
    fold: int | None = None,
    limit_train: int | None = None,
    skip_bad_images: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
) -> ImageData:
    """Find, decode (once; see `data/cache.py`) and split a data set.

    Args:
        dataset: a name, a Hub id, or a folder of parquet files or of images in one folder a class.
        data_dir: looked in for a folder of that name before the Hub.
        coarse: take the smaller of two sets of classes (cifar100's 20).
        image_size: side in pixels that images of other sizes are brought to; None: they must all be of one size.
        val_fraction: stratified part of train kept for validation; None: the data set's own validation split
            where it has one beside a test split, else 0.1.
        folds, fold: validate on part `fold` of `folds` stratified parts of train, instead.
        limit_train: keep this many training images, classes in proportion.
        skip_bad_images: leave out and count what cannot be decoded or has no label, instead of refusing.
        image_column, label_column: of a table, where it has several; None: the only one, or "label".
        seed: of the validation part, the folds and `limit_train`.

    Raises:
        UserError: whatever the user can put right; see the messages.
    """
    source = find_source(dataset, data_dir)
    columns = Columns(image_column, label_column, coarse)
    splits, class_names, about_source = _decoded(source, columns, image_size, skip_bad_images)
    if len(class_names) < 2:
        raise UserError(f"{dataset} has one class only ({class_names[0]}): a classifier needs at least two")
    train, val, test = split_parts(dataset, splits, val_fraction, None if fold is None else (folds, fold), seed)
    _check_counts(dataset, train, val, test, class_names, val_fraction, folds)
    train = limited(train, limit_train, seed)
    name = f"{source.name}-coarse" if coarse else source.name
    if UNLABELLED in splits:
        tested = "the validation split is tested on" if "validation" in splits else "a part of train is held out"
        about_source = [*about_source, f"the test split has no labels: {tested} instead"]
    return describe_train(name, train, val, test, class_names, splits, about_source=about_source)


def limited(train: Part, count: int | None, seed: int) -> Part:
    """`count` images of a training part, classes in proportion; None: all of them.

    Raises:
        UserError: there are not as many.
    """
    if count is None:
        return train
    if count > len(train):
        raise UserError(f"--limit-train {count}: only {len(train)} training images are there")
    return Part(train.arrays, stratified_subset(train.arrays.labels, train.ids, count, seed))


def describe_train(
    name: str,
    train: Part,
    val: Part,
    test: Part,
    class_names: list[str],
    splits: dict[str, Arrays],
    targets: np.ndarray | None = None,
    about_source: Sequence[str] = (),
) -> ImageData:
    """What a run needs to know of its parts, with the mean and spread of what is trained on.

    `about_source`: what a person should know of how the data set was read.
    """
    notes = _notes(train, val, test, splits)
    about_classes = [] if targets is not None else _class_remarks(class_names, train, val, test)
    moments = train.arrays.moments[train.ids].mean(0)
    hidden = splits.get(UNLABELLED)
    return ImageData(
        name=name,
        train=train,
        val=val,
        test=test,
        class_names=class_names,
        shape=train.arrays.images.shape[1:],
        mean=moments[:, 0].tolist(),
        std=np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 1e-8)).tolist(),
        notes=notes,
        remarks=[f"note: {sentence}" for sentence in about_source] + about_classes + remarks.of_counts(notes),
        targets=targets,
        unlabelled=Part(hidden, np.arange(len(hidden.labels))) if hidden and len(hidden.labels) else None,
    )


def _class_remarks(class_names: list[str], *parts: Part) -> list[str]:
    return remarks.of_classes(class_names, *(part.arrays.labels[part.ids] for part in parts))


def _decoded(
    source: Source, columns: Columns, image_size: int | None, skip_bad_images: bool
) -> tuple[dict[str, Arrays], list[str], list[str]]:
    """The decoded splits, the classes' names, and what a person should know of how the source was read."""
    if source.kind in ("digits", "tree"):
        columns.refuse(source.name)
    if source.kind == "digits":
        return *_digits(image_size), []
    raw = None if source.fingerprint else read_raw_splits(source, columns)
    fingerprint = source.fingerprint or raw[0]["train"].fingerprint
    folder = cache.cache_folder(source.name, fingerprint, source.where, columns, image_size)
    cached = cache.read(folder)
    if cached is None:
        splits, about_source = raw or read_raw_splits(source, columns)
        cache.build(folder, splits, about_source, image_size=image_size, skip_bad_images=skip_bad_images)
        cached = cache.read(folder)
    elif not skip_bad_images:  # built by a run that was told to skip
        cache.refuse_bad([line for split in cached[0].values() for line in split.bad_images])
    splits, class_names, about_source = cached
    # Files that are no images leave the cache as it is: what is said of them is not kept there.
    return splits, class_names, [*about_source, *about_folder(source)]


def _digits(image_size: int | None) -> tuple[dict[str, Arrays], list[str]]:
    """scikit-learn's 1,797 scans: 8x8 pixels in 0..16, from the UCI "Optical Recognition of Handwritten Digits"."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)[..., None]
    if image_size is not None:
        images = np.stack([to_array(Image.fromarray(i[..., 0]), 1, (image_size, image_size)) for i in images])
    labels = digits.target.astype(np.int64)
    return {"train": Arrays(images, labels, *cache.describe(images))}, [str(name) for name in digits.target_names]


def split_parts(
    dataset: str, splits: dict[str, Arrays], val_fraction: float | None, fold: tuple[int, int] | None, seed: int
) -> tuple[Part, Part, Part]:
    """(train, validation, test) of the splits that there are; `fold` is (of how many, number) or None.

    Raises:
        UserError: every image of the validation split is in train too.
    """
    train = Part(splits["train"], np.arange(len(splits["train"].labels)))
    own = {name: Part(splits[name], np.arange(len(splits[name].labels))) for name in splits}
    if "test" not in own and "validation" not in own:
        train, test = _carve(train, TEST_FRACTION, TEST_SEED, one_of_each=True)
    else:
        test = own["test"] if "test" in own else own["validation"]
    if fold is not None:
        labels, hashes = train.arrays.labels[train.ids], train.arrays.hashes[train.ids]
        chosen = stratified_folds(labels, hashes, fold[0], seed) == fold[1]
        return Part(train.arrays, train.ids[~chosen]), Part(train.arrays, train.ids[chosen]), test
    if "test" in own and "validation" in own and val_fraction is None:
        val = own["validation"]
        new = ~np.isin(val.arrays.hashes, train.arrays.hashes)  # an image that is trained on validates nothing
        if len(val) and not new.any():
            raise UserError(
                f"{dataset}: all {len(val):,} images of the validation split are also in train, pixel for pixel: put "
                "others there, or give --val-fraction 0.1 to validate on a part of train"
            )
        return train, Part(val.arrays, val.ids[new]), test
    train, val = _carve(train, 0.1 if val_fraction is None else val_fraction, seed)
    return train, val, test


def _carve(part: Part, fraction: float, seed: int, *, one_of_each: bool = False) -> tuple[Part, Part]:
    labels, hashes = part.arrays.labels[part.ids], part.arrays.hashes[part.ids]
    rest, carved = stratified_split(labels, hashes, fraction, seed, one_of_each=one_of_each)
    return Part(part.arrays, part.ids[rest]), Part(part.arrays, part.ids[carved])


def _check_counts(
    dataset: str,
    train: Part,
    val: Part,
    test: Part,
    class_names: list[str],
    val_fraction: float | None,
    folds: int | None,
) -> None:
    counts, held_out = (
        sum(np.bincount(part.arrays.labels[part.ids], minlength=len(class_names)) for part in parts)
        for parts in ([train], [val, test])
    )
    # A name that no image has is left as it is; such as "background", where all of them are of something.
    empty = [class_names[label] for label in np.flatnonzero((counts == 0) & (held_out > 0))]
    if empty or np.count_nonzero(counts) < 2:
        empty = empty or [class_names[label] for label in np.flatnonzero(counts == 0)]
        raise UserError(f"{dataset}: no training image is left of {', '.join(empty)}: add images to these classes")
    if len(test) == 0:
        raise UserError(f"{dataset}: no image is left for the test part: add images")
    if len(val) == 0 and folds:
        raise UserError(f"{dataset} is too small for --folds {folds}: give fewer")
    if len(val) == 0 and val_fraction != 0:
        raise UserError(f"{dataset} is too small for a validation part: give --val-fraction 0, or a larger one")


def _notes(train: Part, val: Part, test: Part, splits: dict[str, Arrays]) -> dict[str, int]:
    train_hashes, val_hashes, test_hashes = (part.arrays.hashes[part.ids] for part in (train, val, test))
    own_val = val.arrays is splits.get("validation")
    left_out = np.isin(val.arrays.hashes, train.arrays.hashes).sum() if own_val else 0  # by `split_parts`
    return {
        "train_images": len(train),
        "val_images": len(val),
        "test_images": len(test),
        "val_images_left_out": int(left_out),
        "test_images_also_in_train": int(np.isin(test_hashes, train_hashes).sum()),
        "test_images_also_in_val": int(np.isin(test_hashes, val_hashes).sum()),
        "duplicates_within_train": len(train_hashes) - len(np.unique(train_hashes)),
        "bad_images_left_out": sum(len(split.bad_images) for split in splits.values()),
    }
