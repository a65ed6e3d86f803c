"""A labelled set that trained weights are judged on: a split of any source, prepared as the model's own images were."""

from dataclasses import dataclass, replace

import numpy as np

from common.errors import UserError
from data import digits
from data.arrays import Arrays
from data.decode_all import Way
from data.label_files import LabelFile
from data.prepare import AUTO, Wanted, prepare
from data.readers import UNLABELLED, RawSplit, Selection, open_splits, read_labelled_splits
from data.sources import Source, find_source
from data.split_names import KEYWORDS

PREFERRED = ("test", "validation", "train")  # what is judged on where nobody says what


@dataclass(frozen=True)
class Judged:
    """A labelled split.

    Attributes:
        name: of the data set and the split.
        arrays: its images, as the model's are, and its own labels.
        class_names: the name of each label.
        label_sets: uint8 (S, K), the classes of each label where labels number sets of them; else None.
        remarks: what a person should know of how the source was understood, in sentences.
    """

    name: str
    arrays: Arrays
    class_names: list[str]
    label_sets: np.ndarray | None
    remarks: list[str]


@dataclass(frozen=True)
class OpenSplit:
    """A labelled split that is open, its images still encoded.

    Attributes:
        name: of the data set and the split.
        source, selection, table: what it was opened by.
        raw: its images, labels and classes.
        key: what tells it from other splits of the source.
        remarks: what a person should know of how the source was understood, in sentences.
    """

    name: str
    source: Source
    selection: Selection
    table: LabelFile | None
    raw: RawSplit
    key: tuple[str, str]
    remarks: list[str]


def open_judged(
    dataset: str,
    data_dir: str | None,
    *,
    split: str | None = None,
    table: LabelFile | None = None,
    selection: Selection | None = None,
    skip_bad_images: bool = False,
) -> OpenSplit:
    """Find and open a labelled split.

    Args:
        dataset, data_dir: as `load_images` takes them.
        split: "train", "validation", "test" or a name of the source's own; None: the first there is of PREFERRED.
        table: of the labels of a folder of images, where they are in one.
        selection: of a table of images: its columns.
        skip_bad_images: leave out rows of `table` without a label or an image, instead of refusing.

    Raises:
        UserError: there is no such data set, split or label.
    """
    source, selection = find_source(dataset, data_dir), selection or Selection()
    if source.kind == "digits":
        raise UserError("--dataset digits: they are no files, which this needs: give a folder or a Hub id")
    if source.kind == "url":
        raise UserError(
            f"--dataset {dataset}: an address is streamed from in training alone: give a Hub id or a folder"
        )
    if source.kind == "tree" and table is None:
        selection.refuse(source.name)
    own_name = split if split is not None and split not in KEYWORDS and source.kind != "tree" else None
    if own_name:
        selection = replace(selection, test=own_name)
    if table is None:
        splits, remarks = open_splits(source, selection)
    else:
        splits, remarks = read_labelled_splits(source, table, skip_bad_images, of_all=True)
    chosen = "test" if own_name else _choose(dataset, splits, split)
    name = f"{source.name}-{own_name or chosen}"
    return OpenSplit(name, source, selection, table, splits[chosen], (chosen, own_name or ""), remarks)


def load_judged(
    dataset: str, data_dir: str | None, way: Way, *, split: str | None = None, skip_bad_images: bool = False, **how
) -> Judged:
    """Find, read and prepare a labelled split.

    Args:
        way: how the model's images were prepared.
        skip_bad_images: leave out what cannot be decoded or has no label, instead of refusing.

        The others are those of `open_judged`.

    Raises:
        UserError: there is no such data set, split or label, or images cannot be read.
    """
    if find_source(dataset, data_dir).kind == "digits":
        return _digits(way, split)
    found = open_judged(dataset, data_dir, split=split, skip_bad_images=skip_bad_images, **how)
    wanted = Wanted(AUTO, skip_bad_images=skip_bad_images, way=way)
    opened = {"train": found.raw}, found.remarks
    decoded = prepare(found.source, found.selection, found.table, wanted, opened, *found.key)
    arrays = decoded.splits["train"]
    if not len(arrays.labels):
        raise UserError(f"{dataset}: no image of {found.name} is left to judge by")
    return Judged(found.name, arrays, decoded.class_names, decoded.label_sets, decoded.remarks)


def _choose(dataset: str, splits: dict[str, RawSplit], wanted: str | None) -> str:
    labelled = [name for name in splits if name != UNLABELLED]
    if wanted is not None and wanted not in labelled:
        hidden = " (the images of test have no labels)" if wanted == "test" and UNLABELLED in splits else ""
        raise UserError(f"--split {wanted}: {dataset} has no such split, but {', '.join(labelled) or 'none'}{hidden}")
    return wanted or next(name for name in PREFERRED if name in labelled)


def _digits(way: Way, split: str | None) -> Judged:
    """scikit-learn's scans, all of them, as a model's images are: the side it has, and grey or three equal channels."""
    if split not in (None, "train"):
        raise UserError(f"--split {split}: digits has one split only: leave it out")
    height, width, channels = way.shape
    if height != width:
        raise UserError(f"--dataset digits: the model takes images of {width}x{height}, and digits are square")
    decoded = digits.load(None if height == 8 else height, way.geometry, None)
    arrays = decoded.splits["train"]
    images = np.broadcast_to(arrays.images, (*arrays.images.shape[:3], channels)).copy()
    return Judged("digits", replace(arrays, images=images), decoded.class_names, None, [])
