"""Several runs from one command: seeds, folds, a grid of options; each a full run in a folder of its own.

A group's folder holds a folder for each run and what compares them. `--resume auto` skips the runs that are done and
goes on with the one that was stopped.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.console import say
from common.errors import ImpossibleOptions, UserError
from options.parser import setting_argv
from options.train import parse_train, train_parser

if TYPE_CHECKING:
    from accelerate import Accelerator

NOT_SWEPT = ("recipe", "list_models", "list_datasets", "output_dir", "run_name", "resume", "max_time")
NOT_SWEPT += ("seeds", "folds", "fold", "sweep", "ensemble", "help", "model_arg")

# Options that say what is tested on.
OF_THE_TEST = {"dataset", "data_dir", "coarse", "image_column", "label_column", "image_size", "skip_bad_images"}
OF_THE_TEST |= {"limit_test", "smoke_test"}


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


def members(
    args: argparse.Namespace, argv: Sequence[str] | None
) -> tuple[dict[str, argparse.Namespace], dict[str, str]]:
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
        member.seeds, member.sweep, member.ensemble = None, [], False
        runs[_name(setting)] = member
        for key, value in setting.items():
            possible[key].add(value)
    for setting, error in impossible.values():
        if any(value not in possible[key] for key, value in setting.items()):
            raise error
    return runs, {name: str(error) for name, (_, error) in impossible.items()}


def _axes(args: argparse.Namespace) -> dict[str, list]:
    """What the runs differ in: the values of each option, or argument of the model, of --sweep, --seeds and --folds."""
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
    return axes


def _name(setting: dict) -> str:
    """Of a run's folder: `seed-0`, `fold-3`, `lr=0.1_width=32_seed-0`."""
    dashed = ("seed", "fold")
    return "_".join(f"{key}{'-' if key in dashed else '='}{value}" for key, value in setting.items()).replace("/", "-")


def run_all(
    args: argparse.Namespace,
    runs: dict[str, argparse.Namespace],
    failed: dict[str, str],
    train: Callable[[argparse.Namespace, float], dict],
    began: float,
) -> dict:
    """Train every run, one after another, then compare them.

    A run whose numbers stop being numbers, or whose options turn out not to go together, does not end the others: it
    is listed, and the exit code is then 1 at the end.

    Args:
        args: the options of all.
        runs, failed: what `members` found.
        train: does one run and returns its figures.
        began: see `StopRequest`.

    Returns:
        "folder" of the group, and "runs": the figures of each by its name.

    Raises:
        UserError: the group's folder is another's.
        SystemExit: asked to stop (as a single run), or a run has failed.
    """
    # Imported only now, as they take seconds: what is mistyped is answered at once.
    from engine import final_test
    from engine.runtime import agreement, signals
    from engine.runtime.accelerator import start_accelerator
    from experiments import comparison, ensemble

    with signals.StopRequest(args.max_time, began):
        accelerator = start_accelerator(args)
        agreement.check_options(args)
        group = _choose_group(args)
        figures = {}
        for number, (name, member) in enumerate(runs.items(), 1):
            member.output_dir, member.run_name, member.member_of = str(group), name, group.name
            done = _is_done(group / name, member, accelerator)
            if accelerator.is_main_process:
                say(f"\n== run {number} of {len(runs)}: {name}{' is done' if done else ''}\n")
            try:
                figures[name] = final_test.reported(group / name) if done else train(member, began)
            except ImpossibleOptions as error:
                failed[name] = str(error)
            except SystemExit as end:
                if end.code != 1:  # 1: not finite, on all processes
                    raise
                failed[name] = "the loss or gradient was not finite"
        finished = [group / name for name in figures]
        if accelerator.is_main_process:
            comparison.report(group, finished, group, failed)
            if group.exists() and not any(group.iterdir()):
                group.rmdir()
        if args.ensemble and finished:
            ensemble.report(args, accelerator, group, finished)
        accelerator.wait_for_everyone()  # a process that exits with 1 ends the others, of which one still compares
    if failed:
        sys.exit(1)
    return {"folder": str(group), "runs": figures}


def _choose_group(args: argparse.Namespace) -> Path:
    """The folder of the group, the same on all processes.

    Raises:
        UserError: it exists and is not to be resumed.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from common.files import exists
    from data.sources import find_source
    from engine.output import run_dir

    group = run_dir.choose_folder(args, find_source(args.dataset, args.data_dir).name)
    if args.run_name is None:
        run_dir.check_folder(group, parameters=0, may_exist=True, keep=0)
        group = run_dir.make_new(group) if PartialState().is_main_process else group
    elif args.resume is None and exists(group):
        raise UserError(f"{group} exists: give another --run-name, or --resume auto to go on with its runs")
    return Path(broadcast_object_list([str(group)])[0])


def _is_done(place: Path, member: argparse.Namespace, accelerator: "Accelerator") -> bool:
    """Whether a run has its whole report; the main process looks, for all.

    Raises:
        UserError: it was done with other options or images.
    """
    import yaml
    from accelerate.utils import broadcast_object_list

    from common.files import exists
    from data.dataset import changed_parts
    from engine import build
    from engine.checkpoints import best_weights, pretrained, resume
    from engine.output import run_dir
    from engine.runtime.sharing import from_one
    from tasks.reports import parts

    wanted = ("best.pth", *parts(member.task))
    if not broadcast_object_list([all(exists(place / name) for name in wanted)])[0]:
        return False
    before = yaml.safe_load(from_one(lambda: (place / "args.yaml").read_text(encoding="utf-8")))
    now = run_dir.options_of_a_run(member)
    for key in ("batch_size", "image_size", *(pretrained.FILLED_IN if member.pretrained else ())):
        now[key] = before.get(key) if now[key] is None else now[key]  # the run had filled it in
    if now["mixed_precision"] == "auto":
        now["mixed_precision"] = before.get("mixed_precision", "auto")
    differing = [key for key in now if key not in resume.FREE_OPTIONS and before.get(key, now[key]) != now[key]]
    if differing:
        raise UserError(f"{place} was done with other options ({', '.join(differing)}): give another --run-name")
    known = best_weights.load(place / "best.pth").get("fingerprints", {})  # younger than some runs
    changed = changed_parts(known, build.load_data(member, accelerator).fingerprints())
    if changed:
        raise UserError(
            f"{place} was done with other images, those of --dataset {before['dataset']} as they were: the {changed} "
            f"images of {member.dataset} are others; bring them back, or give another --run-name"
        )
    return before["epochs"] == member.epochs
