"""The command line of compare.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.parser import Parser
from options.schema import add_arguments, option
from options.values import path


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """All options of compare.py."""

    runs: list[str] = option(
        [], "runs, or folders of runs", type=path, nargs="+", metavar="RUN|FOLDER", positional=True
    )
    output_dir: str | None = option(
        None, "folder for the comparison (default: the folder of the runs)", type=path, metavar="DIR"
    )


def parse_compare(argv: Sequence[str] | None = None) -> CompareOptions:
    """Parse compare.py's options.

    Raises:
        UserError: an unknown option.
    """
    parser = Parser(prog="compare.py", description="Compare runs: options that differ, results, curves.")
    add_arguments(parser.add_argument, CompareOptions)
    return CompareOptions(**vars(parser.parse_args(argv)))
