"""A data set ready to train on: decoded splits, what is train, validation and test, and what the pixels are like."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import UserError
from data import remarks
from data.arrays import Arrays, Decoded
from data.class_folders import alike
from data.exclusion import exclude as leave_out
from data.geometry import MIDDLE, Geometry
from data.label_files import LabelFile, find_metadata
from data.live import LiveImages
from data.pixel_range import Ranges
from data.prepare import Wanted, prepare
from data.readers import UNLABELLED, Selection
from data.sources import Source, find_source
from data.subsets import (
    Subset,
    check_classes,
    check_counts,
    check_several,
    classes_of,
    cut_subsets,
    long_tailed,
    subsample,
)


@dataclass(frozen=True)
class DataSplits:
    """What a run trains, validates and tests on.

    Attributes:
        name: short name of the data set.
        train, val, test: the parts; `val` is empty when no validation was asked for.
        class_names: the name of each label, from the train split.
        shape: (height, width, channels) of every image, in pixels.
        mean, std: per channel, of the train part's pixels in 0..1.
        notes: counts that belong in the report: parts, duplicates, images left out.
        remarks: what a person should know before the metrics are believed, a sentence each.
        targets: what the labels number where they are no classes: images, uint8 (N, H, W, C), or sets of classes, uint8
            (S, K); else None.
        unlabelled: images of a test split whose labels are kept secret, to be predicted; None where there is none.
        ranges: of values of more than eight bits: what became 0 and 255, to prepare other images by.
        image_size: side in pixels that images of many sizes were brought to where nobody had said which; else None.
        geometry: how they were brought to it, to prepare other images by.
    """

    name: str
    train: Subset
    val: Subset
    test: Subset
    class_names: list[str]
    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    notes: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    targets: np.ndarray | None = None
    unlabelled: Subset | None = None
    ranges: Ranges = field(default_factory=dict)
    image_size: int | None = None
    geometry: Geometry = MIDDLE

    @property
    def live(self) -> bool:
        """Whether images are decoded whenever they are asked for."""
        return isinstance(self.train.arrays.images, LiveImages)

    @property
    def of_pairs(self) -> bool:
        """Whether images are learned from images."""
        return self.targets is not None and self.targets.ndim == 4

    @property
    def several_labels(self) -> bool:
        """Whether an image has several labels."""
        return self.targets is not None and self.targets.ndim == 2

    def class_counts(self) -> list[int]:
        """Training images of each class."""
        sets = self.targets if self.several_labels else None
        return np.bincount(classes_of(self.train, sets), minlength=len(self.class_names)).tolist()

    def _labels_an_image(self) -> float:
        return sum(self.class_counts()) / max(len(self.train), 1)

    def fingerprints(self) -> dict[str, str]:
        """Of "train", "validation" and "test" a hash of the images' pixels, labels and order, to know them again."""
        parts = {"train": self.train, "validation": self.val, "test": self.test}
        return {name: self._fingerprint(part) for name, part in parts.items()}

    def _fingerprint(self, part: Subset) -> str:
        arrays, ids = part.arrays, part.ids
        labels = arrays.labels[ids]
        hashed = [ids, labels, arrays.hashes[ids], *([] if self.targets is None else [self.targets[labels]])]
        return hashlib.sha256(b"".join(array.tobytes() for array in hashed)).hexdigest()

    def in_words(self) -> str:
        """What there is, in one line."""
        height, width, channels = self.shape
        counts = f"{len(self.train):,} train, {len(self.val):,} validation, {len(self.test):,} test"
        kinds = "each with its target" if self.of_pairs else f"{len(self.class_names)} classes"
        kinds += f", {self._labels_an_image():.2f} an image" if self.several_labels else ""
        return f"{self.name}: {counts} images of {height}x{width}x{channels}, {kinds}"


def changed_parts(before: dict[str, str], now: dict[str, str]) -> str:
    """Which parts have other images: "train and test", say; empty where none has.

    Args:
        before: from `DataSplits.fingerprints`; of an earlier version it may lack parts, which are not compared.
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
    default_size: Callable[[], int] | None = None,
    val_fraction: float | None = None,
    folds: int | None = None,
    fold: int | None = None,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
    rows: int | None = None,
    skip_bad_images: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    geometry: Geometry = MIDDLE,
    labels: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    exclude: str | None = None,
    long_tail: float | None = None,
    several: bool = False,
    decode: str = "cache",
    hub_config: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> DataSplits:
    """Find, prepare (see `data/prepare.py`) and split a data set.

    Args:
        dataset: a name, a Hub id, or a folder of parquet files or of images in one folder a class.
        data_dir: looked in for a folder of that name before the Hub.
        coarse: take the smaller of two sets of classes (cifar100's 20).
        image_size: side in pixels that images of other sizes are brought to; None: they stay as they are, where they
            all are of one size.
        default_size: asked for the side that they are brought to where they are not; None: they are refused.
        val_fraction: stratified part of train kept for validation; None: the data set's own validation split
            where it has one beside a test split, else 0.1.
        folds, fold: validate on part `fold` of `folds` stratified parts of train, instead.
        limit_train, limit_val, limit_test: keep this many images of each part, classes in proportion.
        rows: read no more than this many images of each split, for a smoke test: of classes without one nothing is
            said, and the limits are taken as far as there are images.
        skip_bad_images: leave out and count what cannot be decoded or has no label, instead of refusing.
        geometry: how images are brought to another size.
        labels: a table of the labels of a folder of images; None: metadata.csv in it, else its folders are classes.
        split_column, group_column: of that table.
        exclude: a list of images that are not trained on, see `data/exclusion.py`; a smoke test, which reads few images
            and numbers them anew, has all of them.
        long_tail: thin train out, class after class, down to so many times fewer images.
        several: whether an image has several labels.
        decode: images once, "cache", at every step, "live", or as there is room, "auto".
        hub_config: of a table, which of several data sets that are kept together.
        train_split, val_split, test_split: of a table; None: those whose names say so.
        image_column, label_column: of a table; None: "image" and "label", or the only ones of such a type.
        seed: of the validation part, the folds, `limit_train` and `limit_val`.

    Raises:
        UserError: whatever the user can put right; see the messages.
    """
    source = find_source(dataset, data_dir)
    if source.kind == "url":
        raise UserError(f"--dataset {dataset}: an address can only be streamed from: give --stream too")
    selection = Selection(image_column, label_column, coarse, hub_config, train_split, val_split, test_split, several)
    table = _label_file(source, labels, selection, split_column, group_column)
    wanted = Wanted(decode, image_size, default_size, geometry, rows, skip_bad_images)
    decoded = prepare(source, selection, table, wanted)
    name = f"{source.name}-coarse" if coarse else source.name
    del source  # and with it the names of all files, of which there may be a million
    splits, class_names, about_source, sets = decoded.splits, decoded.class_names, decoded.remarks, decoded.label_sets
    check_several(dataset, class_names)
    parts = cut_subsets(dataset, splits, val_fraction, None if fold is None else (folds, fold), seed, sets)
    if exclude is not None and rows is None:
        train, sentence = leave_out(parts[0], exclude)
        parts, about_source = (train, *parts[1:]), [*about_source, sentence]
    if rows is None:
        check_classes(dataset, parts, class_names, sets)
    check_counts(dataset, parts, val_fraction, folds)
    if long_tail is not None:
        parts = (long_tailed(parts[0], long_tail, seed), *parts[1:])
    parts = subsample(parts, (limit_train, limit_val, limit_test), seed, smoke=rows is not None)
    about_source = [*about_source, *alike(class_names)]
    if UNLABELLED in splits:
        tested = "the validation split is tested on" if "validation" in splits else "a part of train is held out"
        about_source = [*about_source, f"the test split has no labels: {tested} instead"]
    by_default = image_size is None and len(decoded.sizes) > 1
    data = build_splits(name, *parts, decoded._replace(remarks=about_source), targets=sets, by_default=by_default)
    if rows is None:
        data.remarks.extend(remarks.of_classes(class_names, *(classes_of(part, sets) for part in parts)))
    return data


def build_splits(
    name: str,
    train: Subset,
    val: Subset,
    test: Subset,
    decoded: Decoded,
    *,
    targets: np.ndarray | None = None,
    by_default: bool = False,
) -> DataSplits:
    """What a run needs to know of its parts, with the mean and spread of what is trained on.

    `by_default`: the images were of many sizes, and nobody said which to bring them to.
    """
    shape = train.arrays.images.shape[1:]
    notes = _notes(train, val, test, decoded.splits)
    about_sizes = remarks.of_sizes(
        decoded.sizes, shape[:2], decoded.geometry, by_default, targets is not None and targets.ndim == 4
    )
    moments = train.arrays.moments[train.ids].mean(0)
    about_source = [f"note: {sentence}" for sentence in decoded.remarks]
    choice = [f"note: {decoded.choice}"] if decoded.choice else []
    hidden = decoded.splits.get(UNLABELLED)
    return DataSplits(
        name=name,
        train=train,
        val=val,
        test=test,
        class_names=decoded.class_names,
        shape=shape,
        mean=moments[:, 0].tolist(),
        std=np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 1e-8)).tolist(),
        notes=notes,
        remarks=[*about_source, *about_sizes, *choice, *remarks.of_ranges(decoded.ranges), *remarks.of_counts(notes)],
        targets=targets,
        unlabelled=Subset(hidden, np.arange(len(hidden.labels))) if hidden and len(hidden.labels) else None,
        ranges=decoded.ranges,
        image_size=shape[0] if by_default else None,
        geometry=decoded.geometry,
    )


def _label_file(
    source: Source, labels: str | None, selection: Selection, split_column: str | None, group_column: str | None
) -> LabelFile | None:
    """The table that labels are in, if they are in one."""
    if labels is not None:
        return LabelFile(labels, selection.image, selection.label, split_column, group_column, selection.several)
    if split_column is not None or group_column is not None:
        raise UserError("--split-column and --group-column are of the table --labels: give that too, or leave them out")
    found = find_metadata(source.folder) if source.kind == "tree" and source.folder is not None else None
    return found and replace(found, several=selection.several)


def _notes(train: Subset, val: Subset, test: Subset, splits: dict[str, Arrays]) -> dict[str, int]:
    train_hashes, val_hashes, test_hashes = (part.arrays.hashes[part.ids] for part in (train, val, test))
    own_val = val.arrays is splits.get("validation")
    left_out = np.isin(val.arrays.hashes, train.arrays.hashes).sum() if own_val else 0  # by `cut_subsets`
    return {
        "train_images": len(train),
        "val_images": len(val),
        "test_images": len(test),
        "val_images_left_out": int(left_out),
        "test_images_also_in_train": int(np.isin(test_hashes, train_hashes).sum()),
        "test_images_also_in_val": int(np.isin(test_hashes, val_hashes).sum()),
        "duplicates_within_train": len(train_hashes) - len(np.unique(train_hashes)),
        "images_beyond_range": sum(split.cut_images for split in splits.values()),
        "bad_images_left_out": sum(len(split.bad_images) for split in splits.values()),
    }
