"""The command line of infer.py, and the names of the methods that explain a class."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from options.parser import Parser
from options.schema import Role, add_arguments, declared, given, option
from options.training import TTA
from options.values import POSITIVE, number, path, weights_file

CAMS = ("gradcam", "gradcam++", "scorecam", "eigencam")  # of a layer's feature maps
OF_PIXELS = ("integrated-gradients", "occlusion")  # of the pixels themselves, for any model
EXPORTED = (".onnx", ".pt2", ".torchscript")  # files of export.py that run by themselves
COUNT = 10  # images that a metric is taken from, of each class where they have one
METHODS = (*CAMS, *OF_PIXELS)


def parse_methods(text: str) -> list[str]:
    """An argparse type: names of METHODS, separated by commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(
                f"unknown method '{name}': give some of {', '.join(METHODS)}, separated by commas"
            )
    return names


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is predicted, with what, and where the predictions go."""

    images: list[str] = option(
        [],
        "images and folders to predict (default: the test split that the weights were tested on)",
        type=path,
        nargs="*",
        metavar="IMAGE|FOLDER",
        positional=True,
    )
    weights: str = option(
        None,
        "a run's best.pth, its folder, or hf:OWNER/NAME on the Hub; or a file of export.py (.onnx, .pt2, .torchscript)",
        type=weights_file,
        required=True,
        metavar="FILE|RUN",
        role=Role.COMMAND,
    )
    topk: int = option(5, "number of classes per image", type=POSITIVE, metavar="K")
    reject: float | None = option(
        None,
        "answer 'unknown' where the likeliest class is less likely than this",
        type=number(float, 0, 1),
        metavar="PROBABILITY",
    )
    output: str | None = option(
        None,
        ".csv or .json file for the predictions (default: print them); for a model that makes images, the folder "
        "for them (default: beside the weights)",
        type=path,
        metavar="FILE|FOLDER",
    )
    batch_size: int | None = option(None, "images per batch (default: as in training)", type=POSITIVE, metavar="N")
    tta: str | None = option(
        None,
        "test-time augmentation: average over flipped, or also shifted views (default: as in training)",
        choices=TTA,
    )
    exact: bool = option(
        False,
        "give each photo the bits of the run's own test: slower on CPUs, where convolutions else do the work of the "
        "batch norm and the activation after them, which changes about a millionth",
        action="store_true",
    )
    cpu: bool = option(False, "use the CPU even if there is an accelerator", action="store_true")
    mixed_precision: str | None = option(
        None, "precision (default: as in training)", choices=("auto", "no", "fp16", "bf16")
    )
    data_dir: str | None = option(
        None,
        "where the run's data set is now: the folder that holds it, or, for your own images, that folder itself "
        "(default: as in training, else $SAMELOOP_DATA)",
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """On which labelled set the weights are judged."""

    dataset: str | None = option(
        None, "judge the weights on a labelled data set: a name, Hub id (owner/name) or folder", metavar="NAME|PATH"
    )
    split: str | None = option(
        None, "split of --dataset (default: test, or validation, or all there is)", metavar="NAME"
    )
    labels: str | None = option(
        None,
        "table of the labels of a folder of images (default: its folders are the classes)",
        type=path,
        metavar="FILE",
    )
    split_column: str | None = option(None, "column of --labels that says which split", metavar="NAME")
    image_column: str | None = option(None, "image column of a table (default: image, or the only one)", metavar="NAME")
    label_column: str | None = option(
        None, "label column of a table (default: label, or the only ClassLabel)", metavar="NAME"
    )
    hub_config: str | None = option(None, "which data set, where --dataset holds several", metavar="NAME")
    ignore_classes: bool = option(
        False, "leave out images of classes that the weights do not know (default: refuse them)", action="store_true"
    )
    skip_bad_images: bool = option(
        False, "leave out images that cannot be decoded or have no label (default: refuse them)", action="store_true"
    )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """What --explain shows."""

    explain: list[str] = option(
        [],
        "explain predictions by these methods, separated by commas: "
        + ", ".join(METHODS)
        + "; pictures go into the folder --output (default: beside the weights)",
        type=parse_methods,
        metavar="LIST",
    )
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


@dataclass(frozen=True, kw_only=True)
class InferOptions(ExplainOptions, JudgeOptions, PredictOptions):
    """All options of infer.py."""


def infer_parser() -> Parser:
    """The options of infer.py."""
    parser = Parser(
        prog="infer.py",
        usage="%(prog)s --weights FILE|RUN [options] [IMAGE|FOLDER ...]",
        description="Predict or explain images, or a whole test split, with trained weights.",
    )
    add_arguments(parser.add_argument, PredictOptions)
    add_arguments(parser.add_argument_group("judging").add_argument, JudgeOptions)
    add_arguments(parser.add_argument_group("explanations").add_argument, ExplainOptions)
    return parser


def parse_infer(argv: Sequence[str] | None = None) -> InferOptions:
    """Parse infer.py's options.

    Raises:
        UserError: an unknown option, a value out of range, or an option of --explain or --dataset without it.
    """
    args = infer_parser().parse_args(argv)
    odd = [flag for flag in given(declared(ExplainOptions), args) if flag != "--explain"]
    if odd and not args.explain:
        raise UserError(f"{', '.join(odd)}: of use with --explain alone; name its methods, or leave it out")
    odd = [flag for flag in given(declared(JudgeOptions), args) if flag != "--dataset"]
    if odd and args.dataset is None:
        raise UserError(f"{', '.join(odd)}: of use with --dataset alone; give that too, or leave it out")
    if args.dataset is not None and (args.images or args.explain):
        other = "--explain" if args.explain else "images"
        raise UserError(f"--dataset and {other} are two questions: leave one out")
    if args.split_column is not None and args.labels is None:
        raise UserError("--split-column is of the table --labels: give that too, or leave it out")
    args.explain_count = args.explain_count or COUNT
    return InferOptions(**vars(args))
