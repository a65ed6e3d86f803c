"""From options to the data set of a run."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator

import tasks
from common import console
from common.errors import ImpossibleOptions, UserError
from data.dataset import DataSplits, load_images
from data.geometry import Geometry
from data.pairs import load_pairs
from data.prepare import AUTO
from data.streams.load import load_stream
from engine.checkpoints import pretrained
from models.factory import image_size
from options.groups import TrainOptions

Read = TypeVar("Read")
SMOKE_ROWS = 64  # images of each split that a smoke test reads, for its parts to be cut from


def load_data(args: TrainOptions, accelerator: Accelerator) -> DataSplits:
    """The data set of --dataset; one process of each machine decodes it where it is not cached yet.

    Raises:
        ImpossibleOptions: it cannot be had, or the options leave too little of it.
    """
    console.status(f"opening {args.dataset}")
    return once_a_machine(accelerator, lambda: _load_data(args))


def once_a_machine(accelerator: Accelerator, read: Callable[[], Read]) -> Read:
    """What `read` returns, which the first process of each machine does before the others: they find its cache.

    Raises:
        ImpossibleOptions: what it refuses.
    """
    found = refusal = None
    with accelerator.local_main_process_first():  # to be left by every process, as the others wait for the first
        try:
            found = read()
        except UserError as error:
            refusal = error
    if refusal is not None:
        raise ImpossibleOptions(str(refusal)) from refusal
    return found


def _load_data(args: TrainOptions) -> DataSplits:
    of_all = {
        "data_dir": args.data_dir,
        "image_size": args.image_size,
        "default_size": lambda: _model_size(args),
        "limit_val": args.limit_val,
        "limit_test": args.limit_test,
        "rows": max(SMOKE_ROWS, args.folds or 0) if args.smoke_test else None,
        "seed": args.seed,
    }
    of_whole = {"val_fraction": args.val_fraction, "limit_train": args.limit_train}
    if tasks.task_class(vars(args)).learns_from_pairs(vars(args)):
        return load_pairs(args.dataset, **of_all, **of_whole)
    of_labelled = {
        "coarse": args.coarse,
        "skip_bad_images": args.skip_bad_images,
        "image_column": args.image_column,
        "label_column": args.label_column,
        "geometry": geometry_of(args),
        "decode": args.decode or AUTO,
        "hub_config": args.hub_config,
        "train_split": args.train_split,
        "val_split": args.val_split,
        "test_split": args.test_split,
    }
    if args.stream:
        of_stream = {"train_num_samples": args.train_num_samples, "smoke_images": args.limit_train}
        return load_stream(args.dataset, **of_all, **of_labelled, **of_stream)
    return load_images(
        args.dataset,
        folds=args.folds,
        fold=args.fold,
        labels=args.labels,
        split_column=args.split_column,
        group_column=args.group_column,
        exclude=args.exclude,
        long_tail=args.long_tail,
        several=args.task == "multilabel",
        **of_all,
        **of_whole,
        **of_labelled,
    )


def geometry_of(args: TrainOptions) -> Geometry:
    """How photos become inputs: as is asked for, else as the weights of --pretrained know it.

    Raises:
        UserError: --crop-pct with another --fit than crop.
    """
    known = pretrained.preparation(args) if args.fit is None or args.crop_pct is None else {}
    fit = args.fit or known.get("fit") or "crop"
    if args.crop_pct not in (None, 1) and fit != "crop":
        raise UserError(f"--crop-pct {args.crop_pct:g} is of --fit crop, not of {fit}: leave it out")
    return Geometry(fit, (args.crop_pct or known.get("crop_pct") or 1.0) if fit == "crop" else 1.0)


def _model_size(args: TrainOptions) -> int:
    """The side in pixels of the images that the model was made, or its weights were trained, for."""
    side = args.input_size or pretrained.preparation(args).get("input_size")
    return side or image_size(args.model, args.model_arg)
