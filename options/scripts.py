"""The command lines of the scripts, answered at once: nothing heavy is imported."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import explain
import models
from common.console import say
from common.errors import UserError
from data.augment.spec import parse as parse_augment
from data.sources import NAMED, from_anywhere
from options import resumed
from options.groups import GROUPS, add_model, add_speed
from options.parser import POSITIVE, RECIPES, Answer, Parser, in_words, number, path, recipe_argv, weights_file
from options.training import DEFAULTS, DEFAULTS_OF, HUB, TTA

EXPLAINS = ("explain_class", "explain_layer", "explain_count")
SMOKE_IMAGES = 16  # of each part
BENCHES = ("forward", "train", "loop", "data", "conv", "transform")


def train_parser() -> Parser:
    """The options of train.py."""
    parser = Parser(prog="train.py", description="Train an image classifier and report on its test set.")
    add = parser.add_argument
    add(
        "--recipe",
        type=path,
        metavar="NAME|FILE",
        help="a YAML file of these options (recipes/NAME.yaml); what is typed wins",
    )
    add("--list-recipes", action=Answer, answer=_recipes_listed, help="print the recipes and stop")
    add("--list-models", action="store_true", help="print the models and stop")
    add("--list-datasets", action="store_true", help="print the data sets that have a name and stop")
    for title, add_options in GROUPS.items():
        add_options(parser.add_argument_group(title).add_argument)
    return parser


def infer_parser() -> Parser:
    """The options of infer.py."""
    parser = Parser(
        prog="infer.py",
        description="Predict or explain images, or a whole test split, with trained weights.",
    )
    add = parser.add_argument
    add(
        "images",
        type=path,
        nargs="*",
        metavar="IMAGE|FOLDER",
        help="nothing: the test split that the weights were tested on",
    )
    add("--weights", type=weights_file, required=True, metavar="FILE|RUN", help="best.pth of a run, or its folder")
    add("--topk", type=POSITIVE, default=5, metavar="K", help="classes named for an image (default: %(default)s)")
    add(
        "--output",
        type=path,
        metavar="FILE|FOLDER",
        help="a .csv or .json to write the predictions to (default: print them); of a model that makes images a folder "
        "for them (default: beside the weights)",
    )
    add("--batch-size", type=POSITIVE, metavar="N", help="(default: as in training)")
    add("--tta", choices=TTA, help="views averaged: the image, mirrored too, shifted too (default: as in training)")
    add("--cpu", action="store_true", help="use the CPU even where there is an accelerator (default: no)")
    add("--mixed-precision", choices=("auto", "no", "fp16", "bf16"), help="(default: as in training)")
    add(
        "--data-dir",
        metavar="DIR",
        help="where the test split's data set is now: the folder that holds it, or of your own images that folder "
        "itself (default: as in training, else $SAMELOOP_DATA)",
    )
    _add_explain(parser.add_argument_group("explanations").add_argument)
    return parser


def _add_explain(add: Callable) -> None:
    add(
        "--explain",
        type=in_words(explain.parse),
        metavar="LIST",
        help="show what speaks for a class, by some of " + ", ".join(explain.METHODS) + ", separated by commas; the "
        "pictures go into the folder --output (default: beside the weights)",
    )
    add(
        "--explain-class",
        metavar="LIST",
        help="classes to explain beside the predicted one; of the test split, to look at alone (default: none; all)",
    )
    add(
        "--explain-layer",
        metavar="NAME",
        help=f"module whose maps {', '.join(explain.CAMS)} use (default: the last that suits the model's family)",
    )
    add(
        "--explain-count",
        type=POSITIVE,
        metavar="N",
        help="images that the faithfulness, and of the test split the mean maps, are taken from; of the test split of "
        f"each class (default: {explain.COUNT})",
    )


def parse_train(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse train.py's options, the recipe's first and then what was typed.

    Raises:
        UserError: an unknown option or recipe key, a value out of range, an unknown model or data set, options
            that do not go together.
        SystemExit: after --help and the --list options, which print their answer.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = train_parser()
    typed = parser.parse_args(argv)
    if typed.list_models or typed.list_datasets:
        say(_models_listed() if typed.list_models else _datasets_listed())
        parser.exit()
    args = _with_recipe_and_run(parser, argv, typed)
    args.model_arg = dict(args.model_arg)
    args.member_of = None  # set by experiments/multirun.py: the folder that holds this run among others
    for name, value in (DEFAULTS | DEFAULTS_OF.get(args.optimizer, {})).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.warmup is None:
        args.warmup = 0.3 if args.schedule == "onecycle" else 0.05
    args.dataset, args.data_dir = from_anywhere(args.dataset, args.data_dir)
    if args.pretrained not in (None, HUB):
        args.pretrained = str(Path(weights_file(args.pretrained)).expanduser().absolute())
    if args.match_classes and args.pretrained is None:
        raise UserError("--match-classes needs the weights of --pretrained")
    if args.patience and args.val_fraction == 0:
        raise UserError("--patience waits for a better validation, which --val-fraction 0 leaves out: leave one out")
    _check_folds(args)
    _check_task(args)
    if args.smoke_test:
        _shrink(args)
    return args


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
    resumed.find_moved_data(args, named)
    return args


def _check_folds(args: argparse.Namespace) -> None:
    if args.folds and args.val_fraction is not None:
        raise UserError("--folds says what is validated on: leave --val-fraction out")
    if args.fold is not None and (args.folds is None or args.fold >= args.folds):
        raise UserError(f"--fold {args.fold} needs --folds with more than that")


def _check_task(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing for the task."""
    if args.task == "classify" and args.transform:
        raise UserError("--transform needs --task transform")
    if args.task == "classify":
        return
    if args.transform is None and (args.folds or args.skip_bad_images or args.image_column or args.label_column):
        raise UserError(
            "--folds, --skip-bad-images, --image-column and --label-column do nothing for pairs: leave them out, or "
            "give --transform"
        )
    for_classes = {"label_smoothing": 0.0, "train_sizes": None, "tta": "none", "coarse": False, "ensemble": False}
    for_classes |= {"pretrained": None, "input_size": None, "freeze": "none"}
    odd = [f"--{name.replace('_', '-')}" for name, default in for_classes.items() if getattr(args, name) != default]
    if odd:
        raise UserError(f"{', '.join(odd)}: of no use for --task transform; leave it out")


def parse_infer(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse infer.py's options.

    Raises:
        UserError: an unknown option, a value out of range, or an option of --explain without it.
    """
    args = infer_parser().parse_args(argv)
    odd = [f"--{name.replace('_', '-')}" for name in EXPLAINS if getattr(args, name) is not None]
    if odd and args.explain is None:
        raise UserError(f"{', '.join(odd)}: of use with --explain alone; name its methods, or leave it out")
    args.explain = explain.parse(args.explain) if args.explain is not None else []
    args.explain_count = args.explain_count or explain.COUNT
    return args


def bench_parser() -> Parser:
    """The options of bench.py."""
    parser = Parser(prog="bench.py", description="Measure models, the loop (with --compile, compiled) and data.")
    add = parser.add_argument
    add("--what", nargs="+", choices=BENCHES, metavar="BENCH", help=f"some of {', '.join(BENCHES)} (default: all)")
    add("--check", action="store_true", help="run loop alone; exit code 1 under 0.9 of the bare model's speed")
    add("--rounds", type=POSITIVE, default=5, metavar="N", help="times that each is measured (default: %(default)s)")
    add(
        "--budget",
        type=POSITIVE,
        default=120,
        metavar="SECONDS",
        help="for all benches together: what does not fit is measured in fewer rounds or left out, and a line says so "
        "(default: %(default)s)",
    )
    add(
        "--recipe",
        type=path,
        metavar="NAME|FILE",
        help="model, batch size, optimizer and the rest from a recipe of train.py",
    )
    add(
        "--weights",
        type=weights_file,
        nargs="+",
        metavar="FILE|RUN",
        help="run transform alone, on the test images of the run that these best.pth are from; several are compared "
        "(default: models that learn for seconds, on made-up images)",
    )
    add("--data-dir", metavar="DIR", help="where the data set of --weights is now (default: as in training)")
    add_model(add)
    add("--batch-sizes", type=POSITIVE, nargs="+", default=[128], metavar="N", help="(default: 128)")
    add("--image-size", type=number(int, 4, 2048), default=32, metavar="PIXELS", help="(default: %(default)s)")
    add("--channels", type=int, choices=(1, 3), default=3, help="of the images, 1 or 3 (default: %(default)s)")
    add(
        "--augment",
        type=in_words(parse_augment),
        default="flip,crop",
        metavar="LIST",
        help="in loop, as train.py has it (default: %(default)s)",
    )
    add_speed(add)
    add("--output-dir", type=path, metavar="DIR", help="for bench.json and bench.png (default: runs/bench-TIME)")
    return parser


def parse_bench(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse bench.py's options; what it has no option for is as train.py has it, from the recipe or by default.

    Raises:
        UserError: an unknown option, a value out of range, --check with another bench than loop, or --weights
            with another than transform.
    """
    parser = bench_parser()
    args = parser.parse_args(argv)
    trained = parse_train([f"--recipe={args.recipe}"] if args.recipe else [])
    if args.recipe:
        parser.set_defaults(**_from_recipe(trained, args))
        args = parser.parse_args(argv)
    if args.check and args.what not in (None, ["loop"]):
        raise UserError("--check measures loop alone: leave --what out")
    if args.weights and (args.check or args.what not in (None, ["transform"])):
        raise UserError("--weights is for transform alone: leave --what and --check out")
    alone = ["loop"] if args.check else ["transform"] if args.weights else None
    args.what = alone or list(dict.fromkeys(args.what or BENCHES))
    args.batch_sizes = list(dict.fromkeys(args.batch_sizes))
    args.model_arg = dict(args.model_arg)
    return argparse.Namespace(**(vars(trained) | vars(args)))


def _from_recipe(trained: argparse.Namespace, args: argparse.Namespace) -> dict:
    """What a recipe says of the options that bench.py has too; the others it takes from there as they are."""
    # What is timed is one step of all layers on images of one size, their own; a micro-batch counts as a step.
    trained.train_sizes, trained.freeze = None, "none"
    if trained.batch_size:
        trained.batch_size //= trained.accumulate
    trained.accumulate = 1
    own = {"output_dir", "data_dir"}
    found = {name: value for name, value in vars(trained).items() if name in args and name not in own}
    found["model_arg"] = list(trained.model_arg.items())
    if trained.batch_size:
        found["batch_sizes"] = [trained.batch_size]
    return {name: value for name, value in found.items() if value is not None}


def parse_compare(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse compare.py's options.

    Raises:
        UserError: an unknown option.
    """
    parser = Parser(prog="compare.py", description="Compare runs: options that differ, results, curves.")
    add = parser.add_argument
    add("runs", type=path, nargs="+", metavar="RUN|FOLDER", help="folders of runs, or folders that hold some")
    add(
        "--output-dir",
        type=path,
        metavar="DIR",
        help="where the comparison goes (default: the folder that holds them all)",
    )
    return parser.parse_args(argv)


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
