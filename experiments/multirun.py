"""Several runs from one command: seeds, folds, a grid of options; each a full run in a folder of its own.

A group's folder holds a folder for each run and what compares them. `--resume auto` skips the runs that are done and
goes on with the one that was stopped.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from common.console import say
from common.errors import ImpossibleOptions, UserError
from common.files import exists
from data.dataset import changed_parts
from data.sources import find_source
from engine import final_test, load
from engine.checkpoints import best_weights
from engine.output import run_dir
from engine.runtime import agreement, signals
from engine.runtime.accelerator import start_accelerator
from engine.runtime.sharing import from_one
from experiments import comparison, ensemble
from options.groups import OPTIONS, TrainOptions
from tasks import task_class


def run_all(
    args: TrainOptions,
    runs: dict[str, TrainOptions],
    failed: dict[str, str],
    train: Callable[[TrainOptions, float], dict],
    began: float,
) -> dict:
    """Train every run, one after another, then compare them.

    A run whose numbers stop being numbers, or whose options turn out not to go together, does not end the others: it
    is listed, and the exit code is then 1 at the end.

    Args:
        args: the options of all.
        runs, failed: what `options.multirun.members` found.
        train: does one run and returns its results.
        began: see `StopRequest`.

    Returns:
        "folder" of the group, and "runs": the results of each by its name.

    Raises:
        UserError: the group's folder is another's.
        SystemExit: asked to stop (as a single run), or a run has failed.
    """
    with signals.StopRequest(args.max_time, began):
        accelerator, args = start_accelerator(args)
        agreement.check_options(args)
        group = _choose_group(args)
        results = {}
        for number, (name, member) in enumerate(runs.items(), 1):
            member = replace(member, output_dir=str(group), run_name=name, member_of=group.name)
            done = _is_done(group / name, member, accelerator)
            if accelerator.is_main_process:
                say(f"\n== run {number} of {len(runs)}: {name}{' is done' if done else ''}\n")
            try:
                results[name] = final_test.reported(group / name) if done else train(member, began)
            except ImpossibleOptions as error:
                failed[name] = str(error)
            except SystemExit as end:
                if end.code != 1:  # 1: not finite, on all processes
                    raise
                failed[name] = "the loss or gradient was not finite"
        finished = [group / name for name in results]
        if accelerator.is_main_process:
            comparison.report(group, finished, group, failed)
            if group.exists() and not any(group.iterdir()):
                group.rmdir()
        if args.ensemble and finished:
            ensemble.report(args, accelerator, group, finished)
        accelerator.wait_for_everyone()  # a process that exits with 1 ends the others, of which one still compares
    if failed:
        sys.exit(1)
    return {"folder": str(group), "runs": results}


def _choose_group(args: TrainOptions) -> Path:
    """The folder of the group, the same on all processes.

    Raises:
        UserError: it exists and is not to be resumed.
    """
    group = run_dir.choose_folder(args, find_source(args.dataset, args.data_dir).name)
    if args.run_name is None:
        run_dir.check_folder(group, parameters=0, may_exist=True, keep=0)
        group = run_dir.make_new(group) if PartialState().is_main_process else group
    elif args.resume is None and exists(group):
        raise UserError(f"{group} exists: give another --run-name, or --resume auto to go on with its runs")
    return Path(broadcast_object_list([str(group)])[0])


def _is_done(folder: Path, member: TrainOptions, accelerator: Accelerator) -> bool:
    """Whether a run has its whole report; the main process looks, for all.

    Raises:
        UserError: it was done with other options or images.
    """
    wanted = ("best.pth", *task_class(vars(member)).report_parts())
    if not broadcast_object_list([all(exists(folder / name) for name in wanted)])[0]:
        return False
    before = yaml.safe_load(from_one(lambda: (folder / "args.yaml").read_text(encoding="utf-8")))
    now = run_dir.options_of_a_run(member)
    for name, found in OPTIONS.items():
        if found.filled_in and now[name] is None:
            now[name] = before.get(name)
    if now["mixed_precision"] == "auto":
        now["mixed_precision"] = before.get("mixed_precision", "auto")
    differing = [key for key in now if OPTIONS[key].must_match and before.get(key, now[key]) != now[key]]
    if differing:
        raise UserError(f"{folder} was done with other options ({', '.join(differing)}): give another --run-name")
    known = best_weights.load(folder / "best.pth").get("fingerprints", {})  # younger than some runs
    changed = changed_parts(known, load.load_data(member, accelerator).fingerprints())
    if changed:
        raise UserError(
            f"{folder} was done with other images, those of --dataset {before['dataset']} as they were: the {changed} "
            f"images of {member.dataset} are others; bring them back, or give another --run-name"
        )
    return before["epochs"] == member.epochs
