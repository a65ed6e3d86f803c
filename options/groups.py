"""Every option of train.py in groups, how it learns apart: name, default and meaning. Nothing heavy is imported."""

import os
from collections.abc import Callable

import models
from data.transforms.spec import known as known_transforms
from data.transforms.spec import parse as parse_transform
from options.parser import FLAG, POSITIVE, axis, duration, epoch_or_steps, in_words, key_value, number, path, seed_list
from options.training import add_augmentation, add_fine_tuning, add_training

# name -> its class, below tasks/; see tasks/__init__.py
TASKS = {
    "classify": "classification.task:Classification",
    "transform": "image_to_image.task:Transformation",
}
TRACKERS = ("tensorboard", "wandb", "none")


def _check_trackers(text: str) -> None:
    for name in text.split(","):
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker '{name}': give some of {', '.join(TRACKERS)}, separated by commas")


def _add_task(add: Callable) -> None:
    add(
        "--task",
        choices=tuple(TASKS),
        default="classify",
        help="name an image's class, or learn to make one image from another (default: %(default)s)",
    )
    add(
        "--transform",
        type=in_words(parse_transform),
        metavar="LIST",
        help="of --task transform: what makes the targets, in this order, separated by commas, of "
        + known_transforms()
        + "; none where --dataset is a folder of pairs, input/ and target/ with equal names",
    )


def _add_data(add: Callable) -> None:
    add("--dataset", default="digits", help="a name, a Hub id (owner/name) or a folder (default: %(default)s)")
    add(
        "--data-dir",
        default=os.environ.get("SAMELOOP_DATA"),
        metavar="DIR",
        help="looked in for a folder named like the data set before the Hub (default: $SAMELOOP_DATA)",
    )
    add("--image-column", metavar="NAME", help="column of images in a table (default: image, or the only one)")
    add("--label-column", metavar="NAME", help="column of labels in a table (default: label, or the only ClassLabel)")
    add("--coarse", action=FLAG, default=False, help="the coarser set of classes, where there are two (default: no)")
    add(
        "--val-fraction",
        type=number(float, 0, 0.9),
        metavar="SHARE",
        help="stratified part of train kept for validation; 0: none (default: the data set's own split where it has a "
        "test split too, else 0.1)",
    )
    add("--limit-train", type=POSITIVE, metavar="N", help="train on N images only (default: all)")
    add("--limit-val", type=POSITIVE, metavar="N", help="validate on N images only (default: all)")
    add("--limit-test", type=POSITIVE, metavar="N", help="test on N images only (default: all)")
    add(
        "--smoke-test",
        action=FLAG,
        default=False,
        help="go through a whole run, report and pictures in seconds, on 16 images of each part (default: no)",
    )
    add(
        "--image-size",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        help="bring every image to a square of this side (default: as they are; photos of many sizes to that of the "
        "model, 64 for ours)",
    )
    add(
        "--skip-bad-images",
        action=FLAG,
        default=False,
        help="leave out and count what cannot be decoded or has no label (default: refuse)",
    )
    add(
        "--workers",
        type=number(int, 0, 64),
        default=0,
        metavar="N",
        help="processes that load batches; 0: the training process itself (default: %(default)s)",
    )


def add_model(add: Callable) -> None:
    add(
        "--model",
        type=in_words(models.check_name),
        default="cnn",
        help="a name from --list-models, or timm/NAME (default: %(default)s)",
    )
    add(
        "--model-arg",
        type=key_value,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="passed to the model's constructor, e.g. width=64 (default: none)",
    )
    add(
        "--conv",
        choices=models.CONVOLUTIONS,
        default="native",
        help="byhand: convolve with models/conv2d.py (default: %(default)s)",
    )


def add_speed(add: Callable) -> None:
    add(
        "--mixed-precision",
        choices=("auto", "no", "fp16", "bf16"),
        default="auto",
        help="auto: what accelerate launch says, else what pays on this hardware; recorded as chosen, for a resume "
        "(default: %(default)s)",
    )
    add("--compile", action=FLAG, help="torch.compile the model (default: what accelerate launch says, else no)")
    add("--channels-last", action=FLAG, default=True, help="memory format for convolutions (default: yes)")
    add("--cpu", action=FLAG, default=False, help="use the CPU even where there is an accelerator (default: no)")


def _add_output(add: Callable) -> None:
    add("--output-dir", type=path, default="runs", metavar="DIR", help="(default: %(default)s)")
    add("--run-name", metavar="NAME", help="the run's folder in --output-dir (default: DATASET-MODEL-TIME)")
    add(
        "--track",
        type=in_words(_check_trackers),
        default="tensorboard",
        metavar="LIST",
        help=f"some of {', '.join(TRACKERS)}, separated by commas (default: %(default)s)",
    )
    add(
        "--resume",
        type=path,
        metavar="auto|PATH",
        help="go on with the run in PATH, in its folder and with its own options, but for those given too (more "
        "--epochs, say), from its newest intact checkpoint or the one that PATH is; auto: with the run --run-name, "
        "which may be new",
    )
    add(
        "--checkpoint-every", type=epoch_or_steps, default="epoch", metavar="epoch|STEPS", help="(default: %(default)s)"
    )
    add("--keep", type=POSITIVE, default=2, metavar="N", help="checkpoints to keep (default: %(default)s)")
    add("--max-time", type=duration, metavar="TIME", help="save and stop after this long, e.g. 90m or 11.5h")
    add("--log-every", type=POSITIVE, default=50, metavar="STEPS", help="(default: %(default)s)")
    add("--eval-every", type=POSITIVE, default=1, metavar="EPOCHS", help="(default: %(default)s)")
    add("--verbose", action=FLAG, default=False, help="print a table of the model's layers too (default: no)")


def _add_several(add: Callable) -> None:
    add("--seeds", type=seed_list, metavar="LIST", help="a run for each, as in 0,1,2, and their mean and spread")
    add(
        "--folds",
        type=number(int, 2),
        metavar="K",
        help="cut train into K stratified parts: K runs, each validated on one part, and their mean and spread",
    )
    add("--fold", type=number(int, 0), metavar="I", help="of --folds, the run of this part alone (from 0)")
    add(
        "--sweep",
        type=axis,
        nargs="+",
        action="extend",
        default=[],
        metavar="OPTION=LIST",
        help="a run for each combination of values, of options or of the model's arguments, as in lr=0.1,0.2 "
        "width=32,64; a value that holds commas stands in brackets: augment=none,[flip,crop]",
    )
    add("--ensemble", action=FLAG, default=False, help="test the mean of all runs' predictions too (default: no)")


GROUPS = {
    "task": _add_task,
    "data": _add_data,
    "model": add_model,
    "training": add_training,
    "fine-tuning": add_fine_tuning,
    "augmentation": add_augmentation,
    "speed": add_speed,
    "output": _add_output,
    "several runs": _add_several,
}
