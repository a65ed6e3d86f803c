"""A run's folder: its name, and the files that say what ran, where and with which options."""

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

import psutil
import torch
import yaml
from accelerate import Accelerator

from common import console
from common.errors import UserError
from common.files import deepest_existing, write_atomically, write_json
from common.version import VERSION
from engine.runtime import versions
from engine.runtime.hardware import cpu_name
from options.groups import OPTIONS, TrainOptions

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LONGEST_NAME = 200  # of a run, in bytes; file systems take 255, and files are written under longer names at first


def choose_folder(args: TrainOptions, dataset: str) -> Path:
    """Where the run will be written: --output-dir/--run-name, or a name from data, model and time."""
    if args.run_name is not None:
        if not re.fullmatch(r"[^/\\\0]+", args.run_name) or args.run_name in (".", ".."):
            raise UserError(f"--run-name '{args.run_name}' must be the name of one folder, without slashes")
        if len(os.fsencode(args.run_name)) > LONGEST_NAME:
            raise UserError(f"--run-name {args.run_name}: give {LONGEST_NAME} bytes or less")
        return Path(args.output_dir) / args.run_name
    model = args.model.replace("/", "-") + ("-smoke-test" if args.smoke_test else "")
    return Path(args.output_dir) / f"{dataset}-{model}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def to_go_on(folder: Path, member_of: str | None, num_processes: int) -> str:
    """How to go on with a run that was stopped, in words that hold the command.

    Args:
        folder: of the run.
        member_of: the name of the several runs that it is one of.
        num_processes: that it was trained by.
    """
    if member_of is not None:
        return f"to go on, start again with the same options and --run-name {quote(member_of)} --resume auto"
    start = "python train.py" if num_processes == 1 else "start train.py as before, with no more options than"
    return f"to go on: {start} --resume {quote(str(folder))}"


def check_folder(folder: Path, parameters: int, may_exist: bool, keep: int) -> None:
    """Find out before anything is written whether the run can be.

    Args:
        folder: of the run.
        parameters: of the model; a checkpoint takes up to 16 bytes for each (weights, average, two moments).
        may_exist: whether it may be a run's already: of one that is resumed, or that `make_new` gives another name.
        keep: checkpoints that are kept.

    Raises:
        UserError: it is another run's, cannot be made, or the disk is too full.
    """
    existing = _deepest_existing(folder)
    if not may_exist and (folder / "args.yaml").exists():
        raise UserError(f"the run {folder} exists: give another --run-name, or --resume auto to go on with it")
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {existing}: give another --output-dir")
    wanted = 16 * parameters * (keep + 1) + 20_000_000
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise UserError(
            f"a run needs about {wanted / 1e6:,.0f} MB and {existing} has {free / 1e6:,.0f} MB free: make room, or "
            "give another --output-dir"
        )


def _deepest_existing(folder: Path) -> Path:
    try:
        return deepest_existing(folder)
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise UserError(f"cannot write in {folder}: {error.strerror}; give another folder or --run-name") from error


def make_new(folder: Path) -> Path:
    """Make a folder that no other run has: `folder`, or where it exists with -2, -3, ... behind its name.

    The names that runs get by themselves end in a second, in which several may start, as of a job array.
    """
    for number in itertools.count(1):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path


def claim(folder: Path) -> int | None:
    """Make the folder and keep any other run out of it until `release` of what is returned, or the process's end.

    Where the system or the file system has no such locks (Windows, some network drives) nothing is kept out.

    Raises:
        UserError: another run is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)  # of the folder itself, so that no lock file is left behind
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"the run {folder} is under way in another process: wait for it, or stop it first") from None
    except OSError as error:  # ENOSYS, ENOLCK, EOPNOTSUPP, EBADF: each file system says it in its own way
        console.note(
            f"warning: nothing keeps another run out of {folder}, as its file system has no locks ({error.strerror})"
        )
    return descriptor


def release(claim: int | None) -> None:
    """Let other runs into the folder that was claimed."""
    if claim is not None:
        os.close(claim)


def describe_run(folder: Path, args: TrainOptions, accelerator: Accelerator, facts: dict) -> None:
    """Write args.yaml and environment.json (versions, hardware, commit, command, facts)."""
    write_options(folder, args)
    write_json(folder / "environment.json", {**environment(accelerator), **facts})


def write_options(folder: Path, args: TrainOptions) -> None:
    """Write args.yaml: every option as resolved but for those that ask for something else than a run.

    So it serves as a --recipe that does the run again.
    """
    text = yaml.safe_dump(options_of_a_run(args), sort_keys=True, allow_unicode=True)
    write_atomically(folder / "args.yaml", lambda staged: staged.write_text(text, encoding="utf-8"))


def options_of_a_run(args: TrainOptions) -> dict:
    """The options but for those that ask for something else than a run."""
    return {name: value for name, value in vars(args).items() if name in OPTIONS and OPTIONS[name].is_kept}


def environment(accelerator: Accelerator) -> dict:
    """Versions, hardware and the code's commit, for people who compare results."""
    return {
        "sameloop": VERSION,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions.packages(),
        "cpu": cpu_name(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": accelerator.device.type,
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "num_processes": accelerator.num_processes,
        "threads_per_process": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
    }


def _git_commit() -> str | None:
    """The commit of the code, with a + when files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
