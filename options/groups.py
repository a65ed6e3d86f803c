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
        help="what to learn: classes, or images from images (default: %(default)s)",
    )
    add(
        "--transform",
        type=in_words(parse_transform),
        metavar="LIST",
        help="for --task transform: transforms that make the targets, in order, separated by commas: "
        + known_transforms()
        + " (default: --dataset is a folder of pairs, input/ and target/ with equal names)",
    )


def _add_data(add: Callable) -> None:
    add("--dataset", default="digits", help="name, Hub id (owner/name) or folder (default: %(default)s)")
    add(
        "--data-dir",
        default=os.environ.get("SAMELOOP_DATA"),
        metavar="DIR",
        help="folder searched for the data set by name before the Hub (default: $SAMELOOP_DATA)",
    )
    add("--image-column", metavar="NAME", help="image column of a table (default: image, or the only one)")
    add("--label-column", metavar="NAME", help="label column of a table (default: label, or the only ClassLabel)")
    add("--coarse", action=FLAG, default=False, help="use the coarse set of classes, where there are two (default: no)")
    add(
        "--val-fraction",
        type=number(float, 0, 0.9),
        metavar="SHARE",
        help="share of train held out for validation, stratified; 0 for none (default: the data set's own split if it "
        "has a test split too, else 0.1)",
    )
    add("--limit-train", type=POSITIVE, metavar="N", help="number of training images (default: all)")
    add("--limit-val", type=POSITIVE, metavar="N", help="number of validation images (default: all)")
    add("--limit-test", type=POSITIVE, metavar="N", help="number of test images (default: all)")
    add(
        "--smoke-test",
        action=FLAG,
        default=False,
        help="try a whole run, report and pictures in seconds, on 16 images of each part (default: no)",
    )
    add(
        "--image-size",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        help="side of the square to which every image is resized and cropped (default: as they are; photos of many "
        "sizes to the model's own, 64 for ours)",
    )
    add(
        "--skip-bad-images",
        action=FLAG,
        default=False,
        help="skip and count images that cannot be decoded or have no label (default: refuse them)",
    )
    add(
        "--workers",
        type=number(int, 0, 64),
        default=0,
        metavar="N",
        help="data loading processes; 0 loads in the training process (default: %(default)s)",
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
        help="arguments of the model's constructor, e.g. width=64 (default: none)",
    )
    add(
        "--conv",
        choices=models.CONVOLUTIONS,
        default="native",
        help="convolution: PyTorch's, or models/conv2d.py (default: %(default)s)",
    )


def add_speed(add: Callable) -> None:
    add(
        "--mixed-precision",
        choices=("auto", "no", "fp16", "bf16"),
        default="auto",
        help="precision; auto: as accelerate launch says, else what is fastest on this hardware (default: %(default)s)",
    )
    add("--compile", action=FLAG, help="torch.compile the model (default: as accelerate launch says, else no)")
    add("--channels-last", action=FLAG, default=True, help="channels-last memory format (default: yes)")
    add("--cpu", action=FLAG, default=False, help="use the CPU even if there is an accelerator (default: no)")


def _add_output(add: Callable) -> None:
    add("--output-dir", type=path, default="runs", metavar="DIR", help="folder of runs (default: %(default)s)")
    add("--run-name", metavar="NAME", help="name of the run's folder in --output-dir (default: DATASET-MODEL-TIME)")
    add(
        "--track",
        type=in_words(_check_trackers),
        default="tensorboard",
        metavar="LIST",
        help=f"trackers, separated by commas: {', '.join(TRACKERS)} (default: %(default)s)",
    )
    add(
        "--resume",
        type=path,
        metavar="auto|PATH",
        help="resume the run in folder PATH, or from the checkpoint PATH, with the run's own options unless given "
        "(more --epochs, say); auto: resume --run-name, or start it",
    )
    add(
        "--checkpoint-every",
        type=epoch_or_steps,
        default="epoch",
        metavar="epoch|STEPS",
        help="checkpoint interval (default: %(default)s)",
    )
    add("--keep", type=POSITIVE, default=2, metavar="N", help="number of checkpoints to keep (default: %(default)s)")
    add("--max-time", type=duration, metavar="TIME", help="time limit: save and stop after it, e.g. 90m or 11.5h")
    add("--log-every", type=POSITIVE, default=50, metavar="STEPS", help="logging interval (default: %(default)s)")
    add("--eval-every", type=POSITIVE, default=1, metavar="EPOCHS", help="evaluation interval (default: %(default)s)")
    add("--verbose", action=FLAG, default=False, help="print a table of the model's layers (default: no)")


def _add_several(add: Callable) -> None:
    add("--seeds", type=seed_list, metavar="LIST", help="one run per seed, as in 0,1,2; reports mean and spread")
    add(
        "--folds",
        type=number(int, 2),
        metavar="K",
        help="cross-validation: K runs, each validated on one of K stratified parts of train",
    )
    add("--fold", type=number(int, 0), metavar="I", help="run this fold of --folds alone (from 0)")
    add(
        "--sweep",
        type=axis,
        nargs="+",
        action="extend",
        default=[],
        metavar="OPTION=LIST",
        help="grid: one run per combination of values of options or model arguments, as in lr=0.1,0.2 width=32,64; "
        "brackets around a value with commas: augment=none,[flip,crop]",
    )
    add("--ensemble", action=FLAG, default=False, help="also test the mean of all runs' predictions (default: no)")


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
