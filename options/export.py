"""The command line of export.py, and the names of the formats that it writes."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.hub import is_id
from options.parser import Parser
from options.schema import Role, add_arguments, declared, given, option
from options.values import POSITIVE, number, path, weights_file

FORMATS = ("onnx", "pt2", "torchscript", "safetensors")
# Rounding differs by 1e-6 from library to library; a wrong mean, resizing or temperature makes hundreds of times this.
TOLERANCE = 1e-4
OF_CARD = ("weights", "output", "push", "card_only", "license", "private")  # of use with --push and --card-only


def parse_formats(text: str) -> list[str]:
    """An argparse type: names of FORMATS, separated by commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"unknown format '{name}': give some of {', '.join(FORMATS)}, separated by commas"
            )
    return names


def hub_id(text: str) -> str:
    """An argparse type: the name of a repository on the Hub."""
    if not is_id(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not OWNER/NAME, as in me/pets")
    return text


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """All options of export.py."""

    weights: str = option(
        None,
        "a run's best.pth, its folder, or hf:OWNER/NAME on the Hugging Face Hub",
        type=weights_file,
        required=True,
        metavar="FILE|RUN",
        role=Role.COMMAND,
    )
    format: list[str] = option(
        ["onnx"],
        f"formats to write, separated by commas: {', '.join(FORMATS)} (default: onnx)",
        type=parse_formats,
        metavar="LIST",
    )
    int8: bool = option(
        False,
        "also write an ONNX file of 8-bit weights and activations, calibrated on training images",
        action="store_true",
    )
    calibrate: int = option(200, "training images that --int8 is calibrated on", type=POSITIVE, metavar="N")
    output: str | None = option(None, "folder for the files (default: beside the weights)", type=path, metavar="DIR")
    check: list[str] = option(
        [],
        "images and folders to check the files by (default: the test split that the weights were tested on)",
        type=path,
        nargs="+",
        metavar="IMAGE|FOLDER",
    )
    limit_test: int | None = option(
        None, "test images to check the files by, spread evenly (default: all)", type=POSITIVE, metavar="N"
    )
    tolerance: float = option(
        TOLERANCE,
        "largest difference of a probability from the model's own, on images of its size, beyond which nothing is "
        "kept; of --int8 it is only reported",
        type=number(float, 0, 1),
        metavar="X",
    )
    batch_size: int | None = option(
        None, "images per batch of the check (default: as in training)", type=POSITIVE, metavar="N"
    )
    push: str | None = option(
        None,
        "upload weights and a model card to the Hugging Face Hub, as huggingface_hub is logged in there",
        type=hub_id,
        metavar="OWNER/NAME",
    )
    card_only: bool = option(False, "write the folder that --push uploads, and upload nothing", action="store_true")
    license: str | None = option(None, "license that the model card names, as the Hub calls it", metavar="NAME")
    private: bool = option(False, "make a new repository of --push private", action="store_true")
    data_dir: str | None = option(
        None,
        "where the run's data set is now: the folder that holds it, or, for your own images, that folder itself "
        "(default: as in training, else $SAMELOOP_DATA)",
        metavar="DIR",
    )


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Parse export.py's options.

    Raises:
        UserError: an unknown option, a value out of range, --int8 without onnx, --limit-test with --check, or
            options of exported files with --push or --card-only.
    """
    parser = Parser(
        prog="export.py",
        usage="%(prog)s --weights FILE|RUN [options]",
        description="Write a trained classifier as a file that other programs run, and check it against the model.",
    )
    add_arguments(parser.add_argument, ExportOptions)
    args = parser.parse_args(argv)
    if args.int8 and "onnx" not in args.format:
        raise UserError("--int8 quantizes the ONNX file: add onnx to --format, or leave it out")
    if args.check and args.limit_test:
        raise UserError("--limit-test is of the test split, and --check names other images: leave one of them out")
    _check_card(args)
    return ExportOptions(**vars(args))


def _check_card(args: argparse.Namespace) -> None:
    if args.push and args.card_only:
        raise UserError("--push uploads what --card-only only writes: leave one of them out")
    options = declared(ExportOptions)
    if args.push or args.card_only:
        odd = given({name: options[name] for name in options if name not in OF_CARD}, args)
        if odd:
            raise UserError(f"{', '.join(odd)}: of exported files, and --push and --card-only make none: leave it out")
    elif args.license:
        raise UserError("--license is of the model card: give --push or --card-only too")
    if args.private and not args.push:
        raise UserError("--private is of the repository of --push: give that too")
