"""The runs that --seeds, --folds and --sweep stand for, parsed before the first of them starts."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace

from common.errors import UserError
from options.groups import OPTIONS, MultirunOptions, TrainOptions
from options.parser import setting_argv
from options.train import parse_train, train_parser


def asked_for(args: TrainOptions) -> bool:
    """Whether the options ask for several runs.

    Raises:
        UserError: --ensemble without them, --resume of one checkpoint with them, or --resume without their name.
    """
    several = bool(args.seeds or args.sweep or (args.folds and args.fold is None))
    if args.ensemble and not several:
        raise UserError("--ensemble needs several runs: give --seeds, --folds or --sweep")
    if several and args.resume not in (None, "auto"):
        raise UserError("several runs are resumed together: give --resume auto and their --run-name")
    if several and args.resume and args.run_name is None:
        raise UserError("--resume auto needs the --run-name of the runs to go on with")
    return several


def members(args: MultirunOptions, argv: Sequence[str] | None) -> tuple[dict[str, TrainOptions], dict[str, str]]:
    """The runs, parsed before the first starts as far as they can be alone; `argv` None: the command line's.

    Returns:
        The options of each run by the name of its folder, and, by the same names, why other combinations of --sweep
        are impossible though each of their values is possible in some.

    Raises:
        UserError: an axis of --sweep that cannot be one, or a value that is possible in no combination.
    """
    argv = sys.argv[1:] if argv is None else argv
    axes = _axes(args)
    parser = train_parser()
    runs, impossible = {}, {}
    possible: dict[str, set] = {key: set() for key in axes}
    for values in itertools.product(*axes.values()):
        setting = dict(zip(axes, values, strict=True))
        extra = [word for key, value in setting.items() for word in setting_argv(parser, key, str(value))]
        try:
            member = parse_train([*argv, *extra])
        except UserError as error:
            impossible[_name(setting)] = (setting, error)
            continue
        runs[_name(setting)] = replace(member, seeds=None, sweep=[], ensemble=False)
        for key, value in setting.items():
            possible[key].add(value)
    for setting, error in impossible.values():
        if any(value not in possible[key] for key, value in setting.items()):
            raise error
    return runs, {name: str(error) for name, (_, error) in impossible.items()}


def _axes(args: MultirunOptions) -> dict[str, list]:
    """What the runs differ in: the values of each option, or argument of the model, of --sweep, --seeds and --folds."""
    axes: dict[str, list] = {}
    for key, values in args.sweep:
        known = OPTIONS.get(key)
        if key in axes or key in ("help", "version") or (known is not None and not known.can_be_swept):
            raise UserError(f"--sweep {key}: cannot be swept, or is named twice")
        axes[key] = values
    other_test = sorted(key for key in axes if key in OPTIONS and OPTIONS[key].of_test)
    if args.ensemble and other_test:
        raise UserError(f"--ensemble needs the same test images, which --sweep {other_test[0]} changes: leave one out")
    if args.seeds and "seed" in axes:
        raise UserError("--sweep seed and --seeds say the same: leave one out")
    if args.seeds:
        axes["seed"] = args.seeds
    if args.folds and args.fold is None:
        axes["fold"] = list(range(args.folds))
    return axes


def _name(setting: dict) -> str:
    """Of a run's folder: `seed-0`, `fold-3`, `lr=0.1_width=32_seed-0`."""
    dashed = ("seed", "fold")
    return "_".join(f"{key}{'-' if key in dashed else '='}{value}" for key, value in setting.items()).replace("/", "-")
