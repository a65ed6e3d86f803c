"""Several runs from one command: seeds, folds, a grid of options; each a full run in a folder of its own.

A group's folder holds a folder for each run and what compares them. `--resume auto` skips the runs that are done and
goes on with the one that was stopped.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.console import say
from engine.errors import UserError
from engine.options import parse_train, train_parser
from engine.parsing import setting_argv

NOT_SWEPT = ("recipe", "list_models", "list_datasets", "output_dir", "run_name", "resume", "max_time")
NOT_SWEPT += ("seeds", "folds", "fold", "sweep", "ensemble", "help", "model_arg")

# Options that say what is tested on.
OF_THE_TEST = {"dataset", "data_dir", "coarse", "image_column", "label_column", "image_size", "skip_bad_images"}


def asked_for(args: argparse.Namespace) -> bool:
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


def members(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, argparse.Namespace]:
    """The options of each run by the name of its folder: parsed before the first starts, as far as they can be alone.

    Raises:
        UserError: an axis of --sweep that cannot be one, or a value that its option refuses.
    """
    axes: dict[str, list] = {}
    for key, values in args.sweep:
        if key in NOT_SWEPT or key in axes:
            raise UserError(f"--sweep {key}: cannot be swept, or is named twice")
        axes[key] = values
    other_test = sorted(OF_THE_TEST & axes.keys())
    if args.ensemble and other_test:
        raise UserError(f"--ensemble needs the same test images, which --sweep {other_test[0]} changes: leave one out")
    if args.seeds and "seed" in axes:
        raise UserError("--sweep seed and --seeds say the same: leave one out")
    if args.seeds:
        axes["seed"] = args.seeds
    if args.folds and args.fold is None:
        axes["fold"] = list(range(args.folds))
    parser = train_parser()
    runs = {}
    for values in itertools.product(*axes.values()):
        setting = dict(zip(axes, values, strict=True))
        extra = [word for key, value in setting.items() for word in setting_argv(parser, key, str(value))]
        member = parse_train([*argv, *extra])
        member.seeds, member.sweep, member.ensemble = None, [], False
        runs[_name(setting)] = member
    return runs


def _name(setting: dict) -> str:
    """Of a run's folder: `seed-0`, `fold-3`, `lr=0.1_width=32_seed-0`."""
    dashed = ("seed", "fold")
    return "_".join(f"{key}{'-' if key in dashed else '='}{value}" for key, value in setting.items()).replace("/", "-")


def run_all(args: argparse.Namespace, argv: Sequence[str] | None, train: Callable[[argparse.Namespace], None]) -> None:
    """Train every run, one after another, then compare them.

    A run whose numbers stop being numbers does not end the others; the exit code is then 1 at the end.

    Args:
        args, argv: the options, parsed and as typed (None: the command line's).
        train: does one run.

    Raises:
        UserError: as `members`, or the group's folder is another's.
        SystemExit: asked to stop (as a single run), or a run has failed.
    """
    runs = members(args, sys.argv[1:] if argv is None else argv)
    # Imported only now, as they take seconds: what is mistyped is answered at once.
    from accelerate.state import AcceleratorState

    from engine import comparison, ensemble, runtime

    accelerator = runtime.start(args)
    group = _choose_group(args)
    failed = []
    for number, (name, member) in enumerate(runs.items(), 1):
        member.output_dir, member.run_name, member.member_of = str(group), name, group.name
        done = _is_done(group / name, member)
        if accelerator.is_main_process:
            say(f"\n== run {number} of {len(runs)}: {name}{' is done' if done else ''}\n")
        if done:
            continue
        AcceleratorState._reset_state()  # else a run could not have another precision than the first
        try:
            train(member)
        except SystemExit as end:
            if end.code != 1:  # 1: not finite, on all processes
                raise
            failed.append(name)
    finished = [group / name for name in runs if name not in failed]
    if accelerator.is_main_process and finished:
        comparison.report(group, finished, group)
    if args.ensemble and finished:
        ensemble.report(args, accelerator, group, finished)
    if failed:
        if accelerator.is_main_process:
            print(f"error: not finite, so without a result: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def _choose_group(args: argparse.Namespace) -> Path:
    """The folder of the group, the same on all processes.

    Raises:
        UserError: it exists and is not to be resumed.
    """
    from accelerate.utils import broadcast_object_list

    from data.sources import find_source
    from engine import folder
    from engine.files import exists

    name = find_source(args.dataset, args.data_dir).name
    group = Path(broadcast_object_list([str(folder.choose_folder(args, name))])[0])
    if args.resume is None and exists(group):
        raise UserError(f"{group} exists: give another --run-name, or --resume auto to go on with its runs")
    return group


def _is_done(place: Path, member: argparse.Namespace) -> bool:
    """Whether a run has its whole report; the main process looks, for all.

    Raises:
        UserError: it was done with other options.
    """
    import yaml
    from accelerate.utils import broadcast_object_list

    from engine import folder, pretrained, state
    from engine.files import exists
    from engine.reports import REPORTS

    wanted = ("test.json", *REPORTS[member.task].PICTURES)
    if not broadcast_object_list([all(exists(place / name) for name in wanted)])[0]:
        return False
    before = yaml.safe_load((place / "args.yaml").read_text(encoding="utf-8"))
    now = folder.options_of_a_run(member)
    for key in ("batch_size", *(pretrained.FILLED_IN if member.pretrained else ())):
        now[key] = before.get(key) if now[key] is None else now[key]  # the run had filled it in
    differing = [key for key in now if key not in state.FREE_OPTIONS and before.get(key, now[key]) != now[key]]
    if differing:
        raise UserError(f"{place} was done with other options ({', '.join(differing)}): give another --run-name")
    return before["epochs"] == member.epochs
