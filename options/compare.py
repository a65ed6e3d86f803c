"""The command line of compare.py."""

import argparse
from collections.abc import Sequence

from options.parser import Parser, path


def parse_compare(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse compare.py's options.

    Raises:
        UserError: an unknown option.
    """
    parser = Parser(prog="compare.py", description="Compare runs: options that differ, results, curves.")
    add = parser.add_argument
    add("runs", type=path, nargs="+", metavar="RUN|FOLDER", help="runs, or folders of runs")
    add(
        "--output-dir",
        type=path,
        metavar="DIR",
        help="folder for the comparison (default: the folder of the runs)",
    )
    return parser.parse_args(argv)
