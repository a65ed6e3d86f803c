"""The command line of infer.py, and the names of the methods that explain a class."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from options.parser import POSITIVE, Parser, in_words, path, weights_file
from options.schema import Options, add_arguments, declared, given, option
from options.training import TTA

CAMS = ("gradcam", "gradcam++", "scorecam", "eigencam")  # of a layer's feature maps
OF_PIXELS = ("integrated-gradients", "occlusion")  # of the pixels themselves, for any model
COUNT = 10  # images that a figure is taken from, of each class where they have one
METHODS = (*CAMS, *OF_PIXELS)


@dataclass
class ExplainOptions:
    """What --explain goes by."""

    explain_class: str | None = option(
        None,
        "classes to explain beside the predicted one; for the test split, the only ones (default: none; all)",
        metavar="LIST",
    )
    explain_layer: str | None = option(
        None,
        f"module whose feature maps {', '.join(CAMS)} use (default: the last one suitable)",
        metavar="NAME",
    )
    explain_count: int | None = option(
        None,
        f"number of images for faithfulness and mean maps; for the test split, per class (default: {COUNT})",
        type=POSITIVE,
        metavar="N",
    )


def infer_parser() -> Parser:
    """The options of infer.py."""
    parser = Parser(
        prog="infer.py",
        usage="%(prog)s --weights FILE|RUN [options] [IMAGE|FOLDER ...]",
        description="Predict or explain images, or a whole test split, with trained weights.",
    )
    add = parser.add_argument
    add(
        "images",
        type=path,
        nargs="*",
        metavar="IMAGE|FOLDER",
        help="images and folders to predict (default: the test split that the weights were tested on)",
    )
    add("--weights", type=weights_file, required=True, metavar="FILE|RUN", help="a run's best.pth, or its folder")
    add("--topk", type=POSITIVE, default=5, metavar="K", help="number of classes per image (default: %(default)s)")
    add(
        "--output",
        type=path,
        metavar="FILE|FOLDER",
        help=".csv or .json file for the predictions (default: print them); for a model that makes images, the folder "
        "for them (default: beside the weights)",
    )
    add("--batch-size", type=POSITIVE, metavar="N", help="images per batch (default: as in training)")
    add(
        "--tta",
        choices=TTA,
        help="test-time augmentation: average over flipped, or also shifted views (default: as in training)",
    )
    add("--cpu", action="store_true", help="use the CPU even if there is an accelerator (default: no)")
    add("--mixed-precision", choices=("auto", "no", "fp16", "bf16"), help="precision (default: as in training)")
    add(
        "--data-dir",
        metavar="DIR",
        help="where the run's data set is now: the folder that holds it, or, for your own images, that folder itself "
        "(default: as in training, else $SAMELOOP_DATA)",
    )
    add = parser.add_argument_group("explanations").add_argument
    add(
        "--explain",
        type=in_words(parse_methods),
        metavar="LIST",
        help="explain predictions by these methods, separated by commas: "
        + ", ".join(METHODS)
        + "; pictures go into the "
        "folder --output (default: beside the weights)",
    )
    add_arguments(add, ExplainOptions)
    return parser


def parse_infer(argv: Sequence[str] | None = None) -> Options:
    """Parse infer.py's options.

    Raises:
        UserError: an unknown option, a value out of range, or an option of --explain without it.
    """
    args = infer_parser().parse_args(argv)
    odd = given(declared(ExplainOptions), args)
    if odd and args.explain is None:
        raise UserError(f"{', '.join(odd)}: of use with --explain alone; name its methods, or leave it out")
    args.explain = parse_methods(args.explain) if args.explain is not None else []
    args.explain_count = args.explain_count or COUNT
    return Options(**vars(args))


def parse_methods(text: str) -> list[str]:
    """The methods of --explain, separated by commas, each once.

    Raises:
        ValueError: an unknown one.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method '{name}': give some of {', '.join(METHODS)}, separated by commas")
    return names
