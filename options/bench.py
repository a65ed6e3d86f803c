"""The command line of bench.py."""

import argparse
from collections.abc import Sequence

from common.errors import UserError
from data.augment.spec import parse as parse_augment
from options.groups import ModelOptions, SpeedOptions
from options.parser import POSITIVE, Parser, in_words, number, path, weights_file
from options.schema import Options, add_arguments, replaced
from options.train import parse_train

BENCHES = ("forward", "train", "loop", "data", "conv", "transform")


def bench_parser() -> Parser:
    """The options of bench.py."""
    parser = Parser(
        prog="bench.py",
        usage="%(prog)s [options]",
        description="Measure models, the loop (with --compile, compiled) and data.",
    )
    add = parser.add_argument
    add(
        "--what",
        nargs="+",
        choices=BENCHES,
        metavar="BENCH",
        help=f"benchmarks to run: {', '.join(BENCHES)} (default: all)",
    )
    add("--check", action="store_true", help="run loop alone; exit with 1 below 0.9 of the bare model's speed")
    add("--rounds", type=POSITIVE, default=5, metavar="N", help="measurements of each variant (default: %(default)s)")
    add(
        "--budget",
        type=POSITIVE,
        default=120,
        metavar="SECONDS",
        help="time for all benchmarks together; what does not fit gets fewer rounds or is left out, with a line "
        "(default: %(default)s)",
    )
    add(
        "--recipe",
        type=path,
        metavar="NAME|FILE",
        help="recipe of train.py for model, batch size, optimizer and the rest",
    )
    add(
        "--weights",
        type=weights_file,
        nargs="+",
        metavar="FILE|RUN",
        help="run transform alone with these best.pth, on their run's test images; several are compared (default: "
        "models trained for seconds on made-up images)",
    )
    add("--data-dir", metavar="DIR", help="folder of the data set of --weights (default: as in training)")
    add_arguments(add, ModelOptions)
    add("--batch-sizes", type=POSITIVE, nargs="+", default=[128], metavar="N", help="images per step (default: 128)")
    add(
        "--image-size",
        type=number(int, 4, 2048),
        default=32,
        metavar="PIXELS",
        help="side of the images (default: %(default)s)",
    )
    add("--channels", type=int, choices=(1, 3), default=3, help="channels of the images, 1 or 3 (default: %(default)s)")
    add(
        "--augment",
        type=in_words(parse_augment),
        default="flip,crop",
        metavar="LIST",
        help="augmentations of loop, as in train.py (default: %(default)s)",
    )
    add_arguments(add, SpeedOptions)
    add("--output-dir", type=path, metavar="DIR", help="folder for bench.json and bench.png (default: runs/bench-TIME)")
    return parser


def parse_bench(argv: Sequence[str] | None = None) -> Options:
    """Parse bench.py's options; what it has no option for is as train.py has it, from the recipe or by default.

    Raises:
        UserError: an unknown option, a value out of range, --check with another bench than loop, or --weights
            with another than transform.
    """
    parser = bench_parser()
    args = parser.parse_args(argv)
    trained = parse_train([f"--recipe={args.recipe}"] if args.recipe else [])
    # What is timed is one step of all layers on images of one size, their own; a micro-batch counts as a step.
    batch_size = trained.batch_size and trained.batch_size // trained.accumulate
    trained = replaced(trained, train_sizes=None, freeze="none", batch_size=batch_size, accumulate=1)
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
    return replaced(trained, **vars(args))


def _from_recipe(trained: argparse.Namespace, args: argparse.Namespace) -> dict:
    """What a recipe says of the options that bench.py has too; the others it takes from there as they are."""
    own = {"output_dir", "data_dir"}
    found = {name: value for name, value in vars(trained).items() if name in args and name not in own}
    found["model_arg"] = list(trained.model_arg.items())
    if trained.batch_size:
        found["batch_sizes"] = [trained.batch_size]
    return {name: value for name, value in found.items() if value is not None}
