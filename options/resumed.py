"""What --resume means on the command line: the run's own options, below what is typed. Nothing heavy is imported."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from common.errors import UserError
from common.files import exists
from common.suggest import did_you_mean, near
from data.sources import found_again
from options.groups import OPTIONS
from options.parser import Parser, recipe_argv
from options.schema import Role

OPTIONS_FILE = "args.yaml"
NAMED_AT_ONCE = 5  # runs in a message


def typed_options(parser: Parser, argv: Sequence[str]) -> dict:
    """The options that `argv` names, by name: none of the defaults."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def argv_of_the_run(parser: Parser, asked: argparse.Namespace, typed: dict) -> list[str]:
    """The options of the run that --resume names, as they would be typed; none where it is a new one.

    `--resume PATH` without --run-name goes on in the run's own folder.

    Args:
        parser: of train.py.
        asked: all options as parsed.
        typed: those that were typed, from `typed_options`.

    Raises:
        UserError: there is no such run, or it is several.
    """
    if asked.resume is None or (asked.resume == "auto" and asked.run_name is None):
        return []
    folder = _folder_of(asked)
    if exists(folder / OPTIONS_FILE):
        options = [*_earlier(), *recipe_argv(parser, str(folder / OPTIONS_FILE))]  # what is kept wins
        in_its_folder = asked.resume != "auto" and asked.run_name is None
        own_folder = [f"--output-dir={folder.parent}", f"--run-name={folder.name}"] if in_its_folder else []
        return options + own_folder
    if asked.seeds or asked.sweep or asked.folds:
        return []  # they are several, each with its own options
    inside = runs_in(folder)
    if inside:
        raise UserError(
            f"{folder} holds several runs ({_listed(inside)}): start them again with the same options, or go on with "
            f"one by --resume {quote(str(folder / inside[0]))}"
        )
    if asked.resume != "auto":
        if not exists(Path(asked.resume)):
            raise UserError(f"--resume {asked.resume} does not exist{_hint(folder)}")
    elif not any(_says_what_to_train(name) for name in typed) and runs_in(folder.parent):
        raise UserError(f"--run-name {folder.name}: no such run{_hint(folder)}; to start it, give its options")
    return []


def _earlier() -> list[str]:
    """What options that are younger than a run were in it, as it would be typed."""
    return [f"{found.flag}={found.earlier}" for found in OPTIONS.values() if found.earlier is not None]


def _says_what_to_train(name: str) -> bool:
    return name == "recipe" or (OPTIONS[name].role is Role.RESULT and name != "cpu")


def _folder_of(asked: argparse.Namespace) -> Path:
    """The folder of the run that --resume names, by its name or by a path to it or to one of its checkpoints."""
    if asked.resume == "auto":
        return Path(asked.output_dir) / asked.run_name
    path = Path(asked.resume)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent.parent if path.absolute().parent.name == "checkpoints" else path


def keep_found(args: argparse.Namespace, before: argparse.Namespace, typed: dict) -> None:
    """Let `args` have what the run, whose options are `before`, has filled in where the same is asked for again."""
    for name, value in typed.items():
        if value is None and OPTIONS[name].filled_in:
            setattr(args, name, getattr(before, name))


def find_moved_data(args: argparse.Namespace, typed: dict) -> None:
    """Let `args`, with the options of an earlier run in them, name its data set where that is now."""
    if "dataset" not in typed:
        trained_with = None if "data_dir" in typed else args.data_dir
        args.dataset, args.data_dir = found_again(args.dataset, trained_with, typed.get("data_dir"))


def near_runs(folder: Path) -> list[str]:
    """The runs beside `folder` whose names are most like its own."""
    others = [name for name in runs_in(folder.parent) if name != folder.name]
    return [quote(str(folder.parent / name)) for name in near(folder.name, others)]


def _hint(folder: Path) -> str:
    hint, names = did_you_mean(near_runs(folder), before=": "), runs_in(folder.parent)
    if hint:
        return hint
    return f": the runs in {folder.parent} are {_listed(names)}" if names else ""


def runs_in(folder: Path) -> list[str]:
    """The names of the folders in `folder` that hold a run, or several."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        return [path.name for path in inside if (path / OPTIONS_FILE).is_file() or any(path.glob(f"*/{OPTIONS_FILE}"))]
    except OSError:  # no folder, or none that may be looked into: whoever has to write there says so
        return []


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED_AT_ONCE]) + (", ..." if len(names) > NAMED_AT_ONCE else "")
