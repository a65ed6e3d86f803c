"""The command line of `python -m benches.peers`."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import UserError
from options.parser import KeyValues, Parser
from options.schema import add_arguments, option
from options.values import POSITIVE, number, path, weights_file

PEER_JOBS = ("cifar", "photos", "minutes")


def _of_peer(kind: Callable[[str], object], what: str) -> Callable[[str], tuple[str, object]]:
    """An argparse type: NAME=VALUE of a peer."""

    def convert(text: str) -> tuple[str, object]:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise argparse.ArgumentTypeError(f"'{text}' is not NAME={what}")
        return name, kind(value)

    return convert


def _absolute(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - a link to an interpreter stays one


@dataclass(frozen=True, kw_only=True)
class PeersOptions:
    """All options of benches.peers."""

    job: str = option(
        None,
        "cifar: ResNet-18 at 32 px; photos: MobileNetV2 at 224 px; minutes: best accuracy on CIFAR-10 in --minutes",
        positional=True,
        choices=PEER_JOBS,
        metavar="JOB",
    )
    peers: list[str] = option([], "peers to run, by name (default: all)", nargs="+", metavar="NAME")
    python: dict[str, str] = option(
        {},
        "interpreters that peers are installed for (default: this one)",
        type=_of_peer(_absolute, "PATH"),
        nargs="+",
        action=KeyValues,
        metavar="NAME=PATH",
    )
    script: dict[str, str] = option(
        {},
        "peers' own scripts; without its script a peer is left out, with a line that says which one it is",
        type=_of_peer(_absolute, "PATH"),
        nargs="+",
        action=KeyValues,
        metavar="NAME=PATH",
    )
    rounds: int = option(3, "trainings of each peer, in turn", type=POSITIVE, metavar="N")
    train_images: int | None = option(
        None, "images to train on; a quarter as many to validate on (default: the job's)", type=POSITIVE, metavar="N"
    )
    minutes: float = option(
        5.0, "of job minutes, from a process's start", type=number(float, 0, open_low=True), metavar="N"
    )
    epochs: dict[str, int] = option(
        {},
        "epochs that a peer's schedule counts on in job minutes (default: what fits, found by two epochs)",
        type=_of_peer(POSITIVE, "N"),
        nargs="+",
        action=KeyValues,
        metavar="NAME=N",
    )
    weights: str | None = option(
        None,
        "timm's mobilenetv2_100 as .safetensors, for the peers that take it in job photos (default: from scratch)",
        type=weights_file,
        metavar="FILE",
    )
    data_dir: str | None = option(
        None, "folder of the data set, as in train.py", metavar="DIR", environment="SAMELOOP_DATA"
    )
    lock: str | None = option(
        None,
        "file that is locked, as flock(1) does, while a peer trains: for a shared machine",
        type=path,
        metavar="FILE",
    )
    output_dir: str | None = option(
        None,
        "folder for images, logs and peers.json; more rounds are added to those in it (default: runs/peers-TIME)",
        type=path,
        metavar="DIR",
    )


def parse_peers(argv: Sequence[str] | None = None) -> PeersOptions:
    """Parse the options.

    Raises:
        UserError: an unknown option or job, or a value out of range.
    """
    parser = Parser(
        prog="python -m benches.peers",
        usage="%(prog)s JOB [options]",
        description="Train with train.py and with what else people use, in turn, each a process of its own.",
    )
    add_arguments(parser.add_argument, PeersOptions)
    args = parser.parse_args(argv)
    if args.minutes != 5.0 and args.job != "minutes":
        raise UserError("--minutes is of job minutes: leave it out")
    return PeersOptions(**vars(args))
