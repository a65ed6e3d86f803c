"""Trained weights judged on any labelled set: its classes matched by name, the report of a run's test written."""

from dataclasses import replace

import numpy as np
from accelerate import Accelerator
from torch import nn

from common.errors import UserError
from common.suggest import did_you_mean, near
from data.arrays import Arrays
from data.dataset import DataSplits
from data.decode_all import Way
from data.judged import Judged, load_judged
from data.label_files import LabelFile
from data.readers import Selection
from data.remarks import named
from data.subsets import Subset
from engine.beside import report_beside
from engine.checkpoints.class_matching import shared
from engine.load import once_a_machine
from options.infer import InferOptions
from tasks.base import Task


def report_on_data_set(
    args: InferOptions, model: nn.Module, task: Task, accelerator: Accelerator, batch_size: int
) -> int:
    """Judge the model on --dataset; the report is written beside the weights. Returns 0.

    Raises:
        UserError: there is no such labelled set, it has classes that the model does not know, or no report can be
            written.
    """
    found = once_a_machine(accelerator, lambda: _load(args, task))
    data = as_test(found, task, args.ignore_classes)
    title = f"{args.weights} on {found.name}"
    report_beside(args, f"on-{found.name}", title, data, model, task, accelerator, batch_size)
    return 0


def _load(args: InferOptions, task: Task) -> Judged:
    if not task.of_classes:
        raise UserError("--dataset is for models of classes, which this one is not: name images")
    way = Way(task.image_shape, task.ranges, task.geometry)
    return load_judged(args.dataset, args.data_dir, way, **how_to_open(args, several=task.several_labels))


def how_to_open(args: InferOptions, *, several: bool = False) -> dict:
    """The arguments of `open_judged` that the options give; `several`: whether an image has several labels."""
    table = None
    if args.labels is not None:
        table = LabelFile(args.labels, args.image_column, args.label_column, args.split_column, several=several)
    return {
        "split": args.split,
        "table": table,
        "selection": Selection(args.image_column, args.label_column, config=args.hub_config, several=several),
        "skip_bad_images": args.skip_bad_images,
    }


def as_test(found: Judged, task: Task, ignore_classes: bool) -> DataSplits:
    """The images as the test part of a data set with the model's classes.

    Raises:
        UserError: it has classes that the model does not know, and these are not to be ignored; or none that it knows.
    """
    arrays, sets = found.arrays, found.label_sets
    there = np.unique(arrays.labels) if sets is None else np.flatnonzero(sets[np.unique(arrays.labels)].any(0))
    number = match_classes(found.name, found.class_names, there, task.class_names, ignore_classes)
    if sets is None:
        labels = number[arrays.labels]
        ids = np.flatnonzero(labels >= 0)
    else:
        labels, ids = arrays.labels, np.arange(len(arrays.labels))
        sets = _renumbered(sets, number, len(task.class_names))
    remarks = [f"note: {sentence}" for sentence in found.remarks]
    remarks += about_classes(found.class_names, there, number, task.class_names, len(arrays.labels) - len(ids))
    bad = len(arrays.bad_images)
    remarks += [f"note: {bad} images are left out, without a label or unreadable"] if bad else []
    return _splits(found, task, replace(arrays, labels=labels), ids, sets, remarks)


def match_classes(name: str, own: list[str], there: np.ndarray, known: list[str], ignore_classes: bool) -> np.ndarray:
    """The model's number of each class of a labelled set, by name; -1 of those that it does not know.

    Args:
        name: of the set; `own`: its classes; `there`: those of them that have images.
        known: the model's classes.
        ignore_classes: whether the set may have others too.

    Raises:
        UserError: it has, and may not; or it has none that the model knows.
    """
    rows = shared(own, [[name] for name in known])
    number = np.array([rows.get(label, -1) for label in range(len(own))])
    extra = [own[label] for label in there if number[label] < 0]
    if len(extra) == len(there):
        raise UserError(f"{name} has no class of the model: it has {named(own)}, the model {named(known)}")
    if extra and not ignore_classes:
        hint = did_you_mean(near(extra[0], known, 1), before="; ")
        raise UserError(
            f"{name} has classes that the model does not know: {named(extra)}{hint}; give --ignore-classes to "
            "leave their images out"
        )
    return number


def about_classes(own: list[str], there: np.ndarray, number: np.ndarray, known: list[str], left_out: int) -> list[str]:
    """Sentences about the classes that the model does not know, with images left out, and about those not there."""
    extra = [own[label] for label in there if number[label] < 0]
    absent = [name for row, name in enumerate(known) if row not in number[there]]
    sentences = []
    if extra:
        words = f"{named(extra)} ({left_out:,} images)"
        sentences.append(f"note: classes that the model does not know are ignored: {words}")
    if absent:
        words = f"{len(absent)} of the model's classes ({named(absent)})"
        sentences.append(f"note: no image of {words}: averages are over the others")
    return sentences


def _renumbered(sets: np.ndarray, number: np.ndarray, classes: int) -> np.ndarray:
    """Sets of classes, uint8 (S, own), by the model's numbers, (S, classes)."""
    renumbered = np.zeros((len(sets), classes), dtype=np.uint8)
    renumbered[:, number[number >= 0]] = sets[:, number >= 0]
    return renumbered


def _splits(
    found: Judged, task: Task, arrays: Arrays, ids: np.ndarray, sets: np.ndarray | None, remarks: list[str]
) -> DataSplits:
    test, nothing = Subset(arrays, ids), Subset(arrays, ids[:0])
    notes = {
        "test_images": len(ids),
        "images_of_other_classes_left_out": len(arrays.labels) - len(ids),
        "bad_images_left_out": len(arrays.bad_images),
    }
    shape, classes = task.image_shape, task.class_names
    return DataSplits(
        found.name, nothing, nothing, test, classes, shape, task.mean, task.std, notes, remarks, targets=sets
    )
