"""The options of train.py in groups; those of the data and of learning are apart. Nothing heavy is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import models
from data.transforms.spec import known as known_transforms
from data.transforms.spec import parse as parse_transform
from options.data import DataOptions
from options.parser import KeyValues
from options.schema import Role, declared, option
from options.training import AugmentationOptions, FineTuningOptions, OptimOptions
from options.values import POSITIVE, axis, duration, epoch_or_steps, in_words, key_value, number, path, seed_list

# name -> its class, below tasks/; see tasks/__init__.py
TASKS = {
    "classify": "classification.task:Classification",
    "multilabel": "multilabel.task:MultiLabel",
    "transform": "image_to_image.task:Transformation",
}
TRACKERS = ("tensorboard", "wandb", "none")


def _check_trackers(text: str) -> None:
    for name in text.split(","):
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker '{name}': give some of {', '.join(TRACKERS)}, separated by commas")


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """This command."""

    recipe: str | None = option(
        None,
        "YAML file of options (recipes/NAME.yaml); options given here override it",
        type=path,
        metavar="NAME|FILE",
        role=Role.COMMAND,
        in_recipes=False,
        per_machine=True,
    )
    member_of: str | None = option(
        None, None, role=Role.COMMAND, in_recipes=False
    )  # the folder of the runs that it is one of


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is learned."""

    task: str = option(
        "classify",
        "what to learn: a class of each image, several labels of each, or images from images",
        choices=tuple(TASKS),
    )
    transform: str | None = option(
        None,
        "for --task transform: transforms that make the targets, in order, separated by commas: "
        + known_transforms()
        + " (default: --dataset is a folder of pairs, input/ and target/ with equal names)",
        type=in_words(parse_transform),
        metavar="LIST",
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network."""

    model: str = option("cnn", "a name from --list-models, or timm/NAME", type=in_words(models.check_name))
    model_arg: dict[str, Any] = option(
        {},
        "arguments of the model's constructor, e.g. width=64",
        type=key_value,
        nargs="+",
        action=KeyValues,
        metavar="KEY=VALUE",
        swept=False,
    )
    conv: str = option("native", "convolution: PyTorch's, or models/conv2d.py", choices=models.CONVOLUTIONS)


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How fast, on what."""

    mixed_precision: str = option(
        "auto",
        "precision; auto: as accelerate launch says, else what is fastest on this hardware",
        choices=("auto", "no", "fp16", "bf16"),
    )
    compile: bool | None = option(
        None, "torch.compile the model (default: as accelerate launch says, else no)", may_change=True
    )
    channels_last: bool = option(True, "channels-last memory format")
    cpu: bool = option(False, "use the CPU even if there is an accelerator", may_change=True)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the run goes, and how often."""

    output_dir: str = option(
        "runs", "folder of runs", type=path, metavar="DIR", role=Role.OUTPUT, swept=False, per_machine=True
    )
    run_name: str | None = option(
        None,
        "name of the run's folder in --output-dir (default: DATASET-MODEL-TIME)",
        metavar="NAME",
        role=Role.COMMAND,
    )
    track: str = option(
        "tensorboard",
        f"trackers, separated by commas: {', '.join(TRACKERS)}",
        type=in_words(_check_trackers),
        metavar="LIST",
        role=Role.OUTPUT,
    )
    resume: str | None = option(
        None,
        "resume the run in folder PATH, or from the checkpoint PATH, with the run's own options unless given "
        "(more --epochs, say); auto: resume --run-name, or start it",
        type=path,
        metavar="auto|PATH",
        role=Role.COMMAND,
    )
    checkpoint_every: str = option(
        "epoch", "checkpoint interval", type=epoch_or_steps, metavar="epoch|STEPS", role=Role.OUTPUT
    )
    keep: int = option(2, "number of checkpoints to keep", type=POSITIVE, metavar="N", role=Role.OUTPUT)
    max_time: float | None = option(
        None, "time limit: save and stop after it, e.g. 90m or 11.5h", type=duration, metavar="TIME", role=Role.COMMAND
    )
    log_every: int = option(50, "logging interval", type=POSITIVE, metavar="STEPS", role=Role.OUTPUT)
    eval_every: int = option(1, "evaluation interval", type=POSITIVE, metavar="EPOCHS", compared=False)
    verbose: bool = option(False, "print a table of the model's layers", role=Role.OUTPUT)


@dataclass(frozen=True, kw_only=True)
class MultirunOptions:
    """Several runs from one command."""

    seeds: list[int] | None = option(
        None,
        "one run per seed, as in 0,1,2; reports mean and spread",
        type=seed_list,
        metavar="LIST",
        role=Role.COMMAND,
    )
    folds: int | None = option(
        None,
        "cross-validation: K runs, each validated on one of K stratified parts of train",
        type=number(int, 2),
        metavar="K",
        compared=False,
        swept=False,
    )
    fold: int | None = option(
        None, "run this fold of --folds alone (from 0)", type=number(int, 0), metavar="I", swept=False, repeat=True
    )
    sweep: list = option(
        [],
        "grid: one run per combination of values of options or model arguments, as in lr=0.1,0.2 width=32,64; "
        "brackets around a value with commas: augment=none,[flip,crop]",
        type=axis,
        nargs="+",
        action="extend",
        metavar="OPTION=LIST",
        role=Role.COMMAND,
    )
    ensemble: bool = option(False, "also test the mean of all runs' predictions", role=Role.COMMAND, classes_only=True)


GROUPS = {
    "task": TaskOptions,
    "data": DataOptions,
    "model": ModelOptions,
    "training": OptimOptions,
    "fine-tuning": FineTuningOptions,
    "augmentation": AugmentationOptions,
    "speed": SpeedOptions,
    "output": OutputOptions,
    "several runs": MultirunOptions,
}


# The last group comes first, as fields of the last base come first: they are then in the order of --help.
@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    MultirunOptions,
    OutputOptions,
    SpeedOptions,
    AugmentationOptions,
    FineTuningOptions,
    OptimOptions,
    ModelOptions,
    DataOptions,
    TaskOptions,
    CommandOptions,
):
    """All options of train.py; who needs one group of them takes that, which they all are."""


OPTIONS = declared(TrainOptions)  # by name


def saved_options(saved: Mapping[str, Any]) -> TrainOptions:
    """Options as a run kept them, also by an earlier version: what that lacked is as it was, what is gone left out."""
    earlier = {name: found.earlier for name, found in OPTIONS.items() if found.earlier is not None}
    return TrainOptions(**earlier | {name: value for name, value in saved.items() if name in OPTIONS})
