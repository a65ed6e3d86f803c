"""The command line of clean.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.parser import Parser
from options.schema import add_arguments, option
from options.values import POSITIVE, number, path

RADIUS = 4  # bits of 64


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """All options of clean.py."""

    runs: str = option("", "folder of the runs of train.py --folds", type=path, metavar="FOLDER", positional=True)
    radius: int = option(
        RADIUS,
        "near duplicates: images whose 64-bit perceptual hashes differ in at most so many bits, and whose pixels "
        "correlate; 0 looks for exact duplicates only",
        type=number(int, 0, 8),
        metavar="BITS",
    )
    output_dir: str | None = option(
        None, "folder for the lists (default: the folder of the runs)", type=path, metavar="DIR"
    )
    data_dir: str | None = option(
        None,
        "where the runs' data set is now: the folder that holds it, or, for your own images, that folder itself "
        "(default: as in training, else $SAMELOOP_DATA)",
        metavar="DIR",
    )
    batch_size: int | None = option(None, "images per batch (default: as in training)", type=POSITIVE, metavar="N")
    cpu: bool = option(False, "use the CPU even if there is an accelerator", action="store_true")
    mixed_precision: str | None = option(
        None, "precision (default: as in training)", choices=("auto", "no", "fp16", "bf16")
    )


def parse_clean(argv: Sequence[str] | None = None) -> CleanOptions:
    """Parse clean.py's options.

    Raises:
        UserError: an unknown option, or a value out of range.
    """
    parser = Parser(
        prog="clean.py",
        usage="%(prog)s [options] FOLDER",
        description="Name images whose label is probably wrong, duplicates, blank and tiny images.",
    )
    add_arguments(parser.add_argument, CleanOptions)
    return CleanOptions(**vars(parser.parse_args(argv)))
