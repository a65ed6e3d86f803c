"""The command line of bench.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.errors import UserError
from data.augment.spec import parse as parse_augment
from options.groups import ModelOptions, SpeedOptions, TrainOptions
from options.parser import Parser
from options.schema import add_arguments, option
from options.train import parse_train
from options.values import POSITIVE, in_words, number, path, weights_file

CHECKED = ("loop", "beside", "layers", "infer")  # what --check has bounds for; the last two only where they are named
BENCHES = ("forward", "train", "loop", "data", "decode", "conv", "transform")
ON_REQUEST = ("beside", "layers", "infer", "scaling", "ddp")  # long, or in need of all cores, or GPUs


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured, and how; what train.py has too has defaults of its own."""

    what: list[str] = option(
        [],
        f"benchmarks to run: {', '.join(BENCHES + ON_REQUEST)} (default: all but {', '.join(ON_REQUEST)})",
        nargs="+",
        choices=BENCHES + ON_REQUEST,
        metavar="BENCH",
    )
    check: bool = option(
        False,
        "run loop and beside, or what --what names of these, layers and infer; exit with 1 where the loop has less "
        "than 0.9 of the bare model's speed or takes more than 2.2 times as long beside a busy process, a step with "
        "our layers less than 1.5 times the speed of one with PyTorch's, or infer.py than timm's loader and model",
        action="store_true",
    )
    rounds: int = option(5, "measurements of each variant", type=POSITIVE, metavar="N")
    budget: int = option(
        120,
        "time for all benchmarks together; what does not fit gets fewer rounds or is left out, with a line",
        type=POSITIVE,
        metavar="SECONDS",
    )
    recipe: str | None = option(
        None,
        "recipe of train.py for model, batch size, optimizer and the rest",
        type=path,
        metavar="NAME|FILE",
    )
    weights: list[str] = option(
        [],
        "run transform alone with these best.pth, on their run's test images; several are compared (default: "
        "models trained for seconds on made-up images)",
        type=weights_file,
        nargs="+",
        metavar="FILE|RUN",
    )
    data_dir: str | None = option(None, "folder of the data set of --weights (default: as in training)", metavar="DIR")
    batch_sizes: list[int] = option([128], "images per step (default: 128)", type=POSITIVE, nargs="+", metavar="N")
    image_size: int = option(32, "side of the images", type=number(int, 4, 2048), metavar="PIXELS")
    channels: int = option(3, "channels of the images, 1 or 3", type=int, choices=(1, 3))
    processes: list[int] = option(
        [2, 4],
        "processes of scaling, and of ddp the most of them (default: 2 4)",
        type=POSITIVE,
        nargs="+",
        metavar="N",
    )
    bandwidth: list[float] = option(
        [1.0, 10.0, 100.0],
        "networks for which scaling predicts, in Gbit/s (default: 1 10 100)",
        type=number(float, 0, open_low=True),
        nargs="+",
        metavar="GBIT",
    )
    augment: str = option(
        "flip,crop", "augmentations of loop, as in train.py", type=in_words(parse_augment), metavar="LIST"
    )
    output_dir: str | None = option(
        None, "folder for bench.json and bench.png (default: runs/bench-TIME)", type=path, metavar="DIR"
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions(MeasureOptions, TrainOptions):
    """All options of bench.py, and those of train.py that it has none for: from the recipe, or as they are there."""


def bench_parser() -> Parser:
    """The options of bench.py."""
    parser = Parser(
        prog="bench.py",
        usage="%(prog)s [options]",
        description="Measure models, the loop (with --compile, compiled) and data.",
    )
    for group in (MeasureOptions, ModelOptions, SpeedOptions):
        add_arguments(parser.add_argument, group)
    return parser


def parse_bench(argv: Sequence[str] | None = None) -> BenchOptions:
    """Parse bench.py's options; what it has no option for is as train.py has it, from the recipe or by default.

    Raises:
        UserError: an unknown option, a value out of range, --check with a bench that it is not for, or --weights
            with another than transform.
    """
    parser = bench_parser()
    args = parser.parse_args(argv)
    trained = parse_train([f"--recipe={args.recipe}"] if args.recipe else [])
    # What is timed is one step of all layers on images of one size, their own; a micro-batch counts as a step.
    batch_size = trained.batch_size and trained.batch_size // (trained.accumulate or 1)
    trained = replace(trained, train_sizes=None, freeze="none", batch_size=batch_size, accumulate=1)
    if args.recipe:
        parser.set_defaults(**_from_recipe(trained, args))
        args = parser.parse_args(argv)
    if args.check and not {*args.what} <= {*CHECKED}:
        raise UserError(f"--check is for {', '.join(CHECKED)}: leave other names out of --what")
    if args.weights and (args.check or args.what not in ([], ["transform"])):
        raise UserError("--weights is for transform alone: leave --what and --check out")
    by_default = CHECKED[:2] if args.check else ["transform"] if args.weights else BENCHES
    args.what = list(dict.fromkeys(args.what or by_default))
    args.batch_sizes = list(dict.fromkeys(args.batch_sizes))
    args.processes = sorted(set(args.processes))
    return BenchOptions(**(vars(trained) | vars(args)))


def timm_model(args: BenchOptions, otherwise: str) -> str:
    """--model where it is one of timm's, else `otherwise`: for benches of what timm's models gain here."""
    return args.model if args.model.startswith("timm/") else otherwise


def _from_recipe(trained: TrainOptions, args: argparse.Namespace) -> dict:
    """What a recipe says of the options that bench.py has too; the others it takes from there as they are."""
    own = {"output_dir", "data_dir"}
    found = {name: value for name, value in vars(trained).items() if name in args and name not in own}
    if trained.batch_size:
        found["batch_sizes"] = [trained.batch_size]
    return {name: value for name, value in found.items() if value is not None}
