"""The test split that the run of a file of weights held out: found again, known by its images, tested on once more."""

import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from common.errors import UserError
from common.files import exists
from data.class_folders import same_names
from data.dataset import DataSplits, changed_parts
from data.sources import found_again
from engine.beside import report_beside
from engine.load import load_data
from options.groups import TrainOptions, saved_options
from options.infer import InferOptions
from tasks.base import Task


def report_on_test_split(
    args: InferOptions,
    content: dict,
    model: nn.Module,
    task: Task,
    accelerator: Accelerator,
    batch_size: int,
) -> int:
    """Test on the split that the run held out, with the run's own report, written beside the weights. Returns 0."""
    data = held_out_data(args.weights, args.data_dir, content, accelerator)
    title = f"{args.weights} on {data.name}, the test split of its run"
    report_beside(args, "test", title, data, model, task, accelerator, batch_size)
    return 0


def held_out_data(
    weights: str, data_dir: str | None, content: dict, accelerator: Accelerator, *, instead: str = "name images"
) -> DataSplits:
    """The data set that the weights were trained on, split as it was then.

    Args:
        weights: the file that `content` is from.
        data_dir: where to look first.
        content: as `engine/checkpoints/best_weights.py` loads it.
        accelerator: of this process.
        instead: what else can be done, for the message.

    Raises:
        UserError: it is not on this machine, or its test images are no longer the same.
    """
    options = options_of_run(content, data_dir)
    if options.exclude is not None and not exists(Path(options.exclude)):
        options = replace(options, exclude=None)  # of train alone, which nothing is asked of here
    try:
        data = load_data(options, accelerator)
    except UserError as error:
        raise UserError(
            f"no image is named, so the test split of {options.dataset} is wanted, but: {error} (or {instead})"
        ) from error
    if not same_names(data.class_names, content["class_names"]) or list(data.shape) != content["shape"]:
        raise UserError(f"the data set {options.dataset} has other classes or sizes than {weights} was trained on")
    check_same_test_images(weights, content, data)
    if accelerator.is_main_process:
        _warn_of_changes(weights, content, data)
    return data


def options_of_run(content: dict, data_dir: str | None) -> TrainOptions:
    """The options of a run by which its data set is loaded again, wherever that is now.

    Args:
        content: as `engine/checkpoints/best_weights.py` loads it.
        data_dir: where to look first.

    Raises:
        UserError: there is no such folder.
    """
    options = saved_options(content["options"])
    dataset, data_dir = found_again(options.dataset, options.data_dir, data_dir)
    # The file that training began with may be gone, and nothing is to be had from it now.
    return replace(options, dataset=dataset, data_dir=data_dir, pretrained=None)


def check_same_test_images(path: str, content: dict, data: DataSplits) -> None:
    """Check that the test part of `data` is that of the run which the weights in the file `path` are from.

    Args:
        path, content: the file, and what `engine/checkpoints/best_weights.py` loads from it.
        data: split as the run's options say.

    Raises:
        UserError: the test images are others, some of which the model may have been trained on.
    """
    changed = changed_parts(content.get("fingerprints") or {}, data.fingerprints())
    if "test" in changed:
        raise UserError(
            f"the {changed} images of {content['options']['dataset']} have changed since {path} was trained: bring "
            "them back, say with --data-dir where they are now, or name images"
        )


def _warn_of_changes(path: str, content: dict, data: DataSplits) -> None:
    """Say where images beside the test's have changed, or weights of an earlier version do not say."""
    before, dataset = content.get("fingerprints"), content["options"]["dataset"]
    changed = changed_parts(before or {}, data.fingerprints())
    warning = ""
    if before is None:
        warning = f"{path} is of an earlier version: it does not say which images its run was tested on"
    elif changed:
        warning = f"the {changed} images of {dataset} have changed since {path} was trained; its test images have not"
    if warning:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
