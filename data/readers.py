"""Opens a source: encoded images, labels and class names of each split, and what a person should know of them.

`datasets` is imported only where it is needed: it takes seconds to import, and a data set whose decoded copy is already
cached (see `data/cache.py`) does without it.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from common.suggest import did_you_mean, near
from data import label_sets, tables
from data.class_folders import read_class_folders, same_form
from data.folders import Folder, left_out_in_words
from data.label_files import LabelFile, Row, class_names, labels_in, read_label_file
from data.sources import Source
from data.split_names import KEYWORDS, named_splits

if TYPE_CHECKING:
    import datasets

SPLIT_OPTIONS = {"train": "--train-split", "validation": "--val-split", "test": "--test-split"}
UNLABELLED = "unlabelled"  # a split: the images of a test split whose labels are kept secret


@dataclass(frozen=True)
class RawSplit:
    """Encoded images and their labels.

    Attributes:
        length: how many samples.
        read: sample numbers -> their images as `datasets` holds them undecoded, `{"bytes": ..., "path": ...}`.
        labels: one int for each sample; -1 where it has none.
        class_names: the name of each label.
        fingerprint: changes when the data changes.
        groups: a number for each sample, equal for those that belong together; None: each is by itself.
        files: whether each image is a file of its own, at its "path".
        label_sets: uint8 (S, K), the classes of each label where labels number sets of them; else None.
    """

    length: int
    read: Callable[[range], list[dict]]
    labels: list[int]
    class_names: list[str]
    fingerprint: str
    groups: list[int] | None = None
    files: bool = False
    label_sets: np.ndarray | None = None


@dataclass(frozen=True)
class Selection:
    """What of a table to read, where that is not clear by itself; a folder of images has no such choice.

    Attributes:
        image, label: names of columns; None: as the data set has it.
        coarse: of two columns of labels the one with fewer classes.
        config: which of the data sets that one repository holds; None: the only one, or its default.
        train, validation, test: names of splits; None: as their names say.
        several: whether an image has several labels, in a column of lists or in several columns.
    """

    image: str | None = None
    label: str | None = None
    coarse: bool = False
    config: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    several: bool = False

    def splits(self) -> dict[str, str]:
        """The names of the splits that are given."""
        named = {split: getattr(self, split) for split in KEYWORDS}
        return {split: name for split, name in named.items() if name is not None}

    def refuse(self, name: str) -> None:
        """Raise UserError where any is given, for a data set that is no table."""
        if self.coarse:
            raise UserError(f"--coarse: {name} has one set of classes only; leave the option out")
        for option, column in (("--image-column", self.image), ("--label-column", self.label)):
            if column is not None:
                raise UserError(f"{option}: {name} is no table, so it has no columns; leave it out")
        of_tables = ["--hub-config"] if self.config is not None else []
        of_tables += [SPLIT_OPTIONS[split] for split in self.splits()]
        if of_tables:
            raise UserError(f"{', '.join(of_tables)}: {name} is no table; leave it out")
        if self.several:
            raise UserError(f"--task multilabel: {name} has one label an image; give a table of them by --labels")


def read_labelled_splits(
    source: Source, file: LabelFile, skip_bad_images: bool, *, of_all: bool = False
) -> tuple[dict[str, RawSplit], list[str]]:
    """The splits of a folder of images whose labels are in a table; returns what `read_raw_splits` does.

    `of_all`: classes are those of all splits, which then may have some that train lacks.

    Raises:
        UserError: what is wrong with the table, see `read_label_file`; or a split has classes that train lacks.
    """
    if source.folder is None or source.kind != "tree":
        raise UserError(f"--labels is for a folder of images, which {source.name} is not: leave it out")
    found = read_label_file(file, source.folder, skip_bad_images)
    if file.several:
        numbers_of, names, sets = _numbered_sets(file, found.splits)
    else:
        of_classes = [row for rows in found.splits.values() for row in rows] if of_all else found.splits["train"]
        names, sets = class_names(of_classes), None
        numbers_of = _numbered(file, found.splits, names)
    groups = {row.group: index for index, row in enumerate(row for rows in found.splits.values() for row in rows)}
    splits = {}
    for split, rows in found.splits.items():
        raw = _raw_split([row.path for row in rows], numbers_of[split], names)
        alone = range(-1, -1 - len(rows), -1)  # rows without a group are by themselves
        numbers = [groups[row.group] if row.group else own for row, own in zip(rows, alone, strict=True)]
        hidden = split == "test" and max(raw.labels, default=0) < 0
        raw = replace(raw, groups=numbers if file.group else None, label_sets=sets)
        splits[UNLABELLED if hidden else split] = raw
    return splits, found.remarks


def _numbered(file: LabelFile, splits: dict[str, list[Row]], names: list[str]) -> dict[str, list[int]]:
    """The label of each row."""
    number = {name: label for label, name in enumerate(names)}
    for split, rows in splits.items():
        unknown = [
            f"{row.label} (line {row.line})" for row in rows if row.label not in number and row.label is not None
        ]
        if unknown:
            raise UserError(f"--labels {file.path}: {split} has classes that train lacks: {', '.join(unknown[:5])}")
    return {split: [-1 if row.label is None else number[row.label] for row in rows] for split, rows in splits.items()}


def _numbered_sets(file: LabelFile, splits: dict[str, list[Row]]) -> tuple[dict[str, list[int]], list[str], np.ndarray]:
    """The number of each row's set of labels, the classes' names, and the sets."""
    of_rows = {split: [labels_in(row) for row in rows] for split, rows in splits.items()}
    names = label_sets.sorted_names(of_rows["train"])
    numbers, sets = label_sets.number_sets(of_rows, names, f"--labels {file.path}")
    return numbers, names, sets


def read_raw_splits(source: Source, selection: Selection) -> tuple[dict[str, RawSplit], list[str]]:
    """Open the splits of `source`, images undecoded.

    Returns:
        "train", and where it has them "validation" and "test", or UNLABELLED in the place of the last; and what was
        left out of a table, in sentences.

    Raises:
        UserError: no network and no copy, no train split, no image or label column, or a split whose classes
            are not the train split's.
    """
    splits, remarks = open_splits(source, selection)
    if "train" not in splits:
        raise UserError(f"{source.where} has no train split, only: {', '.join(splits) or 'none'}")
    for name, split in splits.items():
        _check_classes(source, name, split, splits["train"].class_names)
    return splits, remarks


def open_splits(source: Source, selection: Selection) -> tuple[dict[str, RawSplit], list[str]]:
    """What `read_raw_splits` returns, of whatever splits there are, each with classes of its own."""
    return _tree_splits(source) if source.kind == "tree" else _table_splits(source, selection)


def about_folder(source: Source) -> list[str]:
    """What was left out of a folder and how it was understood, in sentences: told from the names of its files alone."""
    if source.kind == "tree":
        return read_class_folders(source.folder).remarks
    pictures = source.folder.images() if source.kind == "parquet" else []
    suffixes = Counter(path.suffix.lower() for path in pictures)
    return [left_out_in_words(suffixes)] if suffixes else []


def _table_splits(source: Source, selection: Selection) -> tuple[dict[str, RawSplit], list[str]]:
    import datasets

    full, empty = tables.load(source, selection.config)
    remarks = [f"the split {name} is left out: it is empty" for name in empty]
    named = name_splits(full, selection.splits(), source.where)
    remarks += [
        f"the split {name} is left out: {len(full[name]):,} images that are neither train, validation nor test"
        for name in full
        if name not in named.values()
    ]
    if selection.several:
        return _several_labels(full, named, selection, source.where), remarks
    splits: dict[str, RawSplit] = {}
    image = label = None
    for name, own_name in named.items():  # train first
        table = full[own_name]
        if image is None:
            image = tables.image_column(table, selection.image, source.where)
            label = tables.label_column(table, selection.label, selection.coarse, source.where)
        train_names = splits["train"].class_names if "train" in splits else None
        labels, class_names = tables.labels(table, label, source, train_names)
        undecoded = table.cast_column(image, datasets.Image(decode=False))
        split = RawSplit(len(table), Column(undecoded, image), labels, class_names, table._fingerprint)
        splits[UNLABELLED if name == "test" and max(labels) < 0 else name] = split
    return splits, remarks


def _several_labels(full: dict, named: dict[str, str], selection: Selection, where: str) -> dict[str, RawSplit]:
    """The splits of tables whose images have several labels each."""
    import datasets

    train = full[named["train"]] if "train" in named else next(iter(full.values()))
    image = tables.image_column(train, selection.image, where)
    columns, flags = label_sets.of_table(train, selection.label, [image], where)
    of_splits, names = {}, []
    for split, own_name in named.items():
        table = full[own_name]
        hidden = split == "test" and not set(columns) <= set(table.features)
        known = ([None] * len(table), []) if hidden else label_sets.rows_of_table(table, columns, flags, where)
        of_splits[split], names = known[0], names or known[1]
    names = names or label_sets.sorted_names(of_splits.get("train", []))
    numbers, sets = label_sets.number_sets(of_splits, names, where)
    splits = {}
    for split, own_name in named.items():
        table = full[own_name]
        read = Column(table.cast_column(image, datasets.Image(decode=False)), image)
        raw = RawSplit(len(table), read, numbers[split], names, table._fingerprint, label_sets=sets)
        splits[UNLABELLED if split == "test" and max(raw.labels) < 0 else split] = raw
    return splits


def name_splits(full: Collection[str], given: dict[str, str], where: str) -> dict[str, str]:
    """The name of each split that there is, train first: those that are given, and of the others what their names say.

    Raises:
        UserError: there is no such split, or one is given twice.
    """
    for split, name in given.items():
        if name not in full:
            hint = did_you_mean(near(name, full, 1), after=" ")
            known = f"{hint}there are {', '.join(full)}"
            raise UserError(f"{SPLIT_OPTIONS[split]} {name}: {where} has no such split with images; {known}")
    twice = [name for name in given.values() if list(given.values()).count(name) > 1]
    if twice:
        raise UserError(f"the split {twice[0]} is given for two of train, validation and test: give another for one")
    named = named_splits([name for name in full if name not in given.values()], where) | given
    return {split: named[split] for split in KEYWORDS if split in named}


@dataclass(frozen=True)
class Column:
    """Reads the images of a table; a class, so that worker processes can be given it."""

    table: "datasets.Dataset"
    name: str

    def __call__(self, rows: range) -> list[dict]:
        return self.table[rows.start : rows.stop][self.name]


def _tree_splits(source: Source) -> tuple[dict[str, RawSplit], list[str]]:
    tree = read_class_folders(source.folder)
    train_names = list(tree.splits.get("train", {}))
    splits = {name: _tree_split(classes, train_names) for name, classes in tree.splits.items()}
    if tree.unlabelled:
        splits[UNLABELLED] = _raw_split(tree.unlabelled, [-1] * len(tree.unlabelled), train_names)
    return splits, []


def _tree_split(classes: dict[str, Folder], train_names: list[str]) -> RawSplit:
    """A split of class folders, numbered as the train split's are, if that has all of them."""
    number = {same_form(name): label for label, name in enumerate(train_names)}
    known = all(same_form(name) in number for name in classes)
    own = number if known else {same_form(name): label for label, name in enumerate(classes)}
    labels = [own[same_form(name)] for name, folder in classes.items() for _ in range(folder.count_images())]
    paths = [path for folder in classes.values() for path in folder.images()]
    return _raw_split(paths, labels, train_names if known else list(classes))


def _raw_split(paths: list[Path], labels: list[int], class_names: list[str]) -> RawSplit:
    import datasets

    table = datasets.Dataset.from_dict({"image": list(map(str, paths))})
    table = table.cast_column("image", datasets.Image(decode=False))
    return RawSplit(len(paths), Column(table, "image"), labels, class_names, table._fingerprint, files=True)


def _check_classes(source: Source, split_name: str, split: RawSplit, train_names: list[str]) -> None:
    missing = [name for name in train_names if name not in split.class_names]
    extra = [name for name in split.class_names if name not in train_names]
    if missing or extra:
        raise UserError(
            f"the {split_name} split of {source.where} has other classes than train: "
            f"missing {missing or 'none'}, extra {extra or 'none'}; make the class folders equal"
        )
    if split.class_names != train_names:
        raise UserError(
            f"the {split_name} split of {source.where} numbers its classes otherwise than train: "
            f"{split.class_names} against {train_names}"
        )
    if max(split.labels) < 0 and split_name != UNLABELLED:
        raise UserError(f"the {split_name} split of {source.where} has no labels: give --label-column, or move it away")
