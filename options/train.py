"""The command line of train.py."""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import models
from common.errors import UserError
from common.hub import is_on_hub
from data.sources import NAMED, from_anywhere
from options import resumed
from options.groups import GROUPS, OPTIONS, CommandOptions, TrainOptions
from options.parser import RECIPES, Answer, Parser, recipe_argv
from options.schema import add_arguments, fill_in_defaults, given
from options.training import HUB, NOT_OF_ONE_LABEL, NOT_OF_SEVERAL
from options.values import weights_file

SMOKE_IMAGES = 16  # of each part


def train_parser() -> Parser:
    """The options of train.py."""
    parser = Parser(
        prog="train.py", usage="%(prog)s [options]", description="Train an image classifier and report on its test set."
    )
    parser.in_recipes = {name for name, found in OPTIONS.items() if found.in_recipes}
    add = parser.add_argument
    add_arguments(add, CommandOptions)
    add("--list-recipes", action=Answer, answer=_recipes_listed, help="print the recipes and exit")
    add("--list-models", action=Answer, answer=_models_listed, help="print the models and exit")
    add("--list-datasets", action=Answer, answer=_datasets_listed, help="print the named data sets and exit")
    for title, group in GROUPS.items():
        add_arguments(parser.add_argument_group(title).add_argument, group)
    return parser


def parse_train(argv: Sequence[str] | None = None) -> TrainOptions:
    """Parse train.py's options, the recipe's first and then what was typed.

    Raises:
        UserError: an unknown option or recipe key, a value out of range, an unknown model or data set, options
            that do not go together.
        SystemExit: after --help and the --list options, which print their answer.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = train_parser()
    typed = parser.parse_args(argv)
    args = _with_recipe_and_run(parser, argv, typed)
    args.member_of = None  # set by experiments/multirun.py
    fill_in_defaults(OPTIONS, args)
    args.dataset, args.data_dir = from_anywhere(args.dataset, args.data_dir)
    if args.labels is not None:
        args.labels = str(Path(args.labels).absolute())
    if args.exclude is not None:
        args.exclude = str(Path(args.exclude).absolute())
    if args.pretrained not in (None, HUB):
        found = weights_file(args.pretrained)
        args.pretrained = found if is_on_hub(found) else str(Path(found).expanduser().absolute())
    if args.match_classes and args.pretrained is None:
        raise UserError("--match-classes needs the weights of --pretrained")
    if args.patience and args.val_fraction == 0:
        raise UserError("--patience waits for a better validation, which --val-fraction 0 leaves out: leave one out")
    if args.calibrate and args.val_fraction == 0:
        raise UserError("--calibrate needs the validation part that --val-fraction 0 leaves out: leave one out")
    _check_folds(args)
    _check_task(args)
    _check_stream(args)
    if args.smoke_test:
        _shrink(args)
    return TrainOptions(**vars(args))


def _shrink(args: argparse.Namespace) -> None:
    """Make a smoke test of the options: two short epochs, in which all happens that does once in a while."""
    if args.resume is not None:
        raise UserError("--smoke-test is a run of its own: leave --resume out")
    for name in ("limit_train", "limit_val", "limit_test"):
        setattr(args, name, getattr(args, name) or SMOKE_IMAGES)
    args.epochs, args.log_every, args.eval_every, args.checkpoint_every = min(args.epochs, 2), 1, 1, "epoch"
    if args.run_name is not None:  # which the run itself is to have
        args.run_name += f"-smoke-test-{datetime.now():%Y%m%d-%H%M%S}"
    args.batch_size = None  # as many as there is room for in so few images
    if args.val_fraction:
        args.val_fraction = max(args.val_fraction, 0.1)  # of few images a small share is none


def _with_recipe_and_run(parser: Parser, argv: list[str], typed: argparse.Namespace) -> argparse.Namespace:
    """All options: what was typed wins over the recipe, and that over what a run that is resumed was started with."""
    if typed.recipe:
        argv = recipe_argv(parser, typed.recipe) + argv
    asked = parser.parse_args(argv) if typed.recipe else typed
    if asked.resume is None:
        return asked
    named = resumed.typed_options(train_parser(), argv)
    before = resumed.argv_of_the_run(parser, asked, named)
    if not before:
        return asked
    args = parser.parse_args(before + argv)
    resumed.keep_found(args, parser.parse_args(before), named)
    resumed.find_moved_data(args, named)
    return args


def _check_folds(args: argparse.Namespace) -> None:
    if args.folds and args.val_fraction is not None:
        raise UserError("--folds says what is validated on: leave --val-fraction out")
    if args.fold is not None and (args.folds is None or args.fold >= args.folds):
        raise UserError(f"--fold {args.fold} needs --folds with more than that")


def _check_task(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing for the task."""
    if args.task != "transform":
        if args.transform:
            raise UserError("--transform needs --task transform")
        _check_labels(args)
        return
    of_labelled = (
        *("folds", "skip_bad_images", "image_column", "label_column", "fit", "crop_pct", "decode"),
        *("hub_config", "train_split", "val_split", "test_split"),
    )
    odd = given({name: OPTIONS[name] for name in of_labelled}, args) if args.transform is None else []
    if odd:
        raise UserError(f"{', '.join(odd)}: of no use for pairs; leave it out, or give --transform")
    odd = given({name: found for name, found in OPTIONS.items() if found.classes_only}, args)
    if odd:
        raise UserError(f"{', '.join(odd)}: of no use for --task transform; leave it out")


def _check_labels(args: argparse.Namespace) -> None:
    """Refuse what is of one label an image, or of several, for the other task."""
    useless = NOT_OF_SEVERAL if args.task == "multilabel" else NOT_OF_ONE_LABEL
    for name, values in useless.items():
        value = getattr(args, name)
        of_use = value == OPTIONS[name].default if values is None else str(value).partition("=")[0] not in values
        if not of_use:
            shown = f"--{name.replace('_', '-')}" + (f" {value}" if values else "")
            raise UserError(f"{shown}: of no use for --task {args.task}; leave it out")


def _check_stream(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing for a stream, and those of a stream without one."""
    if not args.stream:
        odd = given({name: OPTIONS[name] for name in ("shuffle_buffer", "train_num_samples")}, args)
        if odd:
            raise UserError(f"{', '.join(odd)}: of no use without --stream; leave it out")
        return
    if args.task != "classify":
        raise UserError(f"--stream is for one label an image, not for --task {args.task}: leave it out")
    of_all_of_train = (
        *("folds", "long_tail", "limit_train", "balance", "class_weights", "repeats"),
        *("labels", "split_column", "group_column", "exclude"),
    )
    odd = given({name: OPTIONS[name] for name in of_all_of_train}, args)
    odd += ["--val-fraction"] * bool(args.val_fraction)
    if odd:
        raise UserError(f"{', '.join(odd)}: of no use with --stream, as train is never there as a whole; leave it out")


def _models_listed() -> str:
    known = models.MODELS | models.IMAGE_MODELS
    lines = [f"{name:<16}{description}" for name, (_, _, description) in known.items()]
    timm_names = [models.TIMM + name for name in models.timm_names()]
    return "\n".join([*lines, *timm_names])


def _datasets_listed() -> str:
    return "\n".join(f"{name:<16}{description}" for name, (_, description) in NAMED.items())


def _recipes_listed() -> str:
    """Each recipe with the first sentence of the comment at its head."""
    lines = []
    for file in sorted(RECIPES.glob("*.yaml")):
        head = " ".join(line.removeprefix("#").strip() for line in file.read_text(encoding="utf-8").splitlines())
        lines.append(f"{file.stem:<21}{re.split(r'[.;] (?![^()]*[)])', head)[0]}")
    return "\n".join(lines)
