"""Every option of train.py in one place: its name, default and meaning. Nothing heavy is imported."""

import argparse
import os
from collections.abc import Callable

import models
from data.augment_spec import parse as parse_augment
from data.augment_spec import parse_sizes
from data.transform_spec import known as known_transforms
from data.transform_spec import parse as parse_transform
from engine.parsing import (
    axis,
    duration,
    epoch_or_steps,
    in_words,
    key_value,
    number,
    number_list,
    parse_freeze,
    seed_list,
)

OPTIMIZERS = ("sgd", "adamw", "adam", "nadam", "radam", "rmsprop", "muon")
SCHEDULES = ("cosine", "linear", "onecycle", "constant")
TTA = ("none", "flip", "shift")
TRACKERS = ("tensorboard", "wandb", "none")
# Where nothing is given; found on validation parts of digits and CIFAR.
DEFAULTS = {"lr": 2e-3, "weight_decay": 0.05, "momentum": 0.9, "head_lr": 1.0, "bias_lr": 1.0}
DEFAULTS_OF = {
    "sgd": {"lr": 0.1, "weight_decay": 5e-4},
    "rmsprop": {"lr": 1e-3, "weight_decay": 0.0},
    "muon": {"lr": 0.24, "weight_decay": 0.0, "momentum": 0.6, "head_lr": 0.005, "bias_lr": 0.2},
}

FLAG = argparse.BooleanOptionalAction
POSITIVE = number(int, 1)


def _check_trackers(text: str) -> None:
    for name in text.split(","):
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker '{name}': give some of {', '.join(TRACKERS)}, separated by commas")


def _add_task(add: Callable) -> None:
    add(
        "--task",
        choices=("classify", "transform"),
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
    add("--coarse", action=FLAG, default=False, help="the coarser set of classes, where there are two (default: no)")
    add(
        "--val-fraction",
        type=number(float, 0, 0.9),
        metavar="SHARE",
        help="stratified part of train kept for validation; 0: none (default: the data set's own split, else 0.1)",
    )
    add("--limit-train", type=POSITIVE, metavar="N", help="train on N images only (default: all)")
    add(
        "--image-size",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        help="bring every image to a square of this side (default: as they are)",
    )
    add("--skip-bad-images", action=FLAG, default=False, help="leave out what cannot be decoded (default: refuse)")
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


def _add_training(add: Callable) -> None:
    add("--epochs", type=POSITIVE, default=20, metavar="N", help="(default: %(default)s)")
    add(
        "--batch-size",
        type=POSITIVE,
        metavar="N",
        help="images of one optimizer step, over all processes (default: 128, less for under 2,560 images)",
    )
    add(
        "--lr",
        type=number(float, 0, open_low=True),
        help="peak learning rate (default: sgd 0.1, rmsprop 0.001, muon 0.24, else 0.002)",
    )
    add(
        "--head-lr",
        type=number(float, 0),
        metavar="FACTOR",
        help="what --lr is multiplied by for the last layer (default: 1; muon 0.005)",
    )
    add(
        "--bias-lr",
        type=number(float, 0),
        metavar="FACTOR",
        help="what --lr is multiplied by for biases and norms (default: 1; muon 0.2)",
    )
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help=f"{', '.join(OPTIMIZERS)} (default: %(default)s)")
    add(
        "--momentum",
        type=number(float, 0, 0.9999),
        help="of sgd and muon (Nesterov), and rmsprop (default: 0.9; muon 0.6)",
    )
    add(
        "--weight-decay",
        type=number(float, 0),
        metavar="DECAY",
        help="not applied to biases and norms (default: sgd 0.0005, rmsprop 0, muon 0, else 0.05)",
    )
    add("--schedule", choices=SCHEDULES, default="cosine", help=f"{', '.join(SCHEDULES)} (default: %(default)s)")
    add(
        "--warmup",
        type=number(float, 0, 1),
        metavar="SHARE",
        help="part of the run in which lr rises from 0 (default: 0.05; onecycle 0.3)",
    )
    add("--label-smoothing", type=number(float, 0, 0.99), default=0.0, metavar="SHARE", help="(default: %(default)s)")
    add(
        "--clip-grad",
        type=number(float, 0),
        default=0.0,
        metavar="NORM",
        help="longest gradient; 0: as it comes (default: %(default)s)",
    )
    add(
        "--accumulate",
        type=POSITIVE,
        default=1,
        metavar="N",
        help="cut each process's part of a batch into N to save memory (default: %(default)s)",
    )
    add(
        "--ema",
        type=number(float, 0, 0.999999),
        default=0.0,
        metavar="DECAY",
        help="evaluate a moving average of the weights, e.g. 0.999; 0: off (default: %(default)s)",
    )
    add(
        "--patience",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="stop after N evaluations without a better validation accuracy; 0: never (default: %(default)s)",
    )
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of everything random (default: %(default)s)")
    add(
        "--deterministic", action=FLAG, default=False, help="the same bits each time on a GPU too, slower (default: no)"
    )


def _add_fine_tuning(add: Callable) -> None:
    add(
        "--pretrained",
        nargs="?",
        const="hub",
        metavar="FILE",
        help="start from weights: a .safetensors or .pth file, a run's best.pth, or without FILE the Hub's of a timm "
        "model; a head of other classes stays new (default: start from random weights)",
    )
    add(
        "--input-size",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        help="side that images are brought to for the model (default: that of --pretrained, else as they are)",
    )
    add(
        "--interpolation",
        choices=("bilinear", "bicubic"),
        help="of --input-size and --train-sizes (default: that of --pretrained, else bilinear)",
    )
    for name in ("--mean", "--std"):
        add(
            name,
            type=number_list(float, 0, 1, open_low=name == "--std"),
            metavar="LIST",
            help="of pixels in 0..1, for all channels or each (default: that of --pretrained, else of train)",
        )
    add(
        "--freeze",
        type=in_words(parse_freeze),
        default="none",
        metavar="none|head|N",
        help="head: train the head alone; N: leave the first N groups of layers as they are; with shares of the epochs "
        "one after another, as in head=0.2,none=0.8 (default: %(default)s)",
    )
    add(
        "--layer-decay",
        type=number(float, 0, 1, open_low=True),
        default=1.0,
        metavar="FACTOR",
        help="what --lr is multiplied by for each group of layers further from the head (default: 1)",
    )


def _add_augmentation(add: Callable) -> None:
    add(
        "--train-sizes",
        type=in_words(parse_sizes),
        metavar="LIST",
        help="train on smaller images first: PIXELS=SHARE of the epochs, separated by commas, as in 20=0.5,32=0.5 "
        "(default: as they are)",
    )
    add(
        "--tta",
        choices=TTA,
        default="none",
        help="views averaged in the test: the image, mirrored too, shifted too (default: %(default)s)",
    )
    add(
        "--augment",
        type=in_words(parse_augment),
        default="none",
        metavar="LIST",
        help="none, or some of flip[=P] altflip crop[=PIXELS] jitter[=SHARE] cutout[=PIXELS] "
        "randaugment[=OPS:MAGNITUDE] trivialaugment mixup[=ALPHA] cutmix[=ALPHA], separated by commas "
        "(default: %(default)s)",
    )


def add_speed(add: Callable) -> None:
    add(
        "--mixed-precision",
        choices=("auto", "no", "fp16", "bf16"),
        default="auto",
        help="auto: what accelerate launch says, else what pays on this hardware (default: %(default)s)",
    )
    add("--compile", action=FLAG, default=False, help="torch.compile the model (default: no)")
    add("--channels-last", action=FLAG, default=True, help="memory format for convolutions (default: yes)")
    add("--cpu", action=FLAG, default=False, help="use the CPU even where there is an accelerator (default: no)")


def _add_output(add: Callable) -> None:
    add("--output-dir", default="runs", metavar="DIR", help="(default: %(default)s)")
    add("--run-name", metavar="NAME", help="the run's folder in --output-dir (default: DATASET-MODEL-TIME)")
    add(
        "--track",
        type=in_words(_check_trackers),
        default="tensorboard",
        metavar="LIST",
        help=f"some of {', '.join(TRACKERS)}, separated by commas (default: %(default)s)",
    )
    add("--resume", metavar="auto|PATH", help="go on from the newest intact checkpoint of --run-name, or from PATH")
    add(
        "--checkpoint-every", type=epoch_or_steps, default="epoch", metavar="epoch|STEPS", help="(default: %(default)s)"
    )
    add("--keep", type=POSITIVE, default=2, metavar="N", help="checkpoints to keep (default: %(default)s)")
    add("--max-time", type=duration, metavar="TIME", help="save and stop after this long, e.g. 90m or 11.5h")
    add("--log-every", type=POSITIVE, default=50, metavar="STEPS", help="(default: %(default)s)")
    add("--eval-every", type=POSITIVE, default=1, metavar="EPOCHS", help="(default: %(default)s)")


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
    "training": _add_training,
    "fine-tuning": _add_fine_tuning,
    "augmentation": _add_augmentation,
    "speed": add_speed,
    "output": _add_output,
    "several runs": _add_several,
}
