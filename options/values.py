"""What options take: numbers between bounds, paths, words and lists, read and refused in words."""

import argparse
import ast
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from common.files import is_folder
from common.hub import is_on_hub
from data.augment.spec import make_a_whole


def number(kind: type, low: float, high: float = float("inf"), *, open_low: bool = False) -> Callable:
    """An argparse type: a number of `kind` between bounds, with a refusal in words."""

    def convert(text: str) -> float:
        words = "a whole number" if kind is int else "a number"
        above = "above" if open_low else "of at least"
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not {words}") from None
        if not (math.isfinite(value) and low <= value <= high) or (open_low and value == low):
            limit = f" and at most {high:g}" if high < float("inf") else ""
            raise argparse.ArgumentTypeError(f"{text} is out of range: give {words} {above} {low:g}{limit}")
        return value

    return convert


POSITIVE = number(int, 1)


def auto_or(kind: Callable) -> Callable:
    """An argparse type: the word auto, which is None, for a run to fill in, or what `kind` takes."""
    return lambda text: None if text == "auto" else kind(text)


TOLD = ("input_shape", "num_classes", "output_shape", "conv")  # what models.create_model is told without asking


def key_value(text: str) -> tuple[str, object]:
    """An argparse type: `key=value` of a model, the value a Python literal where it is one, else a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"'{text}' is not key=value")
    if key in TOLD:
        raise argparse.ArgumentTypeError(f"{key} follows from --model, its images and classes: leave it out")
    try:
        found = ast.literal_eval(value)
        return key, list(found) if isinstance(found, tuple) else found  # checkpoints and recipes know no tuples
    except (ValueError, SyntaxError):
        return key, {"true": True, "false": False, "none": None}.get(value.lower(), value)


def weights_file(text: str) -> str:
    """An argparse type: a file of weights, the folder of a run, which stands for the best.pth in it, or hf:OWNER/NAME.

    Raises:
        UserError: what begins with hf: is not hf:OWNER/NAME.
    """
    if is_on_hub(text):
        return text
    file = Path(path(text))
    return str(file / "best.pth" if is_folder(file) else file)


def in_words(check: Callable) -> Callable:
    """An argparse type from a function that raises ValueError with a message worth showing."""

    def convert(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return convert


def path(text: str) -> str:
    """An argparse type: a path, with ~ for the home folder where shells leave it: in recipes and --output-dir=~/x."""
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # nobody of that name has a home: a file whose name begins so
        return text


def duration(text: str) -> float:
    """An argparse type: seconds from a number with s, m or h behind it."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    if unit is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time: give a number with s, m or h behind it, as in 90m")
    return number(float, 0, open_low=True)(text[:-1]) * unit


def parse_freeze(text: str) -> list[tuple[str, float]]:
    """Read `--freeze`, such as "head" or "head=0.2,none=0.8": (what, share of the epochs), in order.

    Raises ValueError, with one line, for an unknown word, or shares that do not add up to 1.
    """
    parts = []
    for item in text.split(","):
        what, has_share, share = item.partition("=")
        try:
            parts.append((what, float(share) if has_share else 1.0))
        except ValueError:
            raise ValueError(f"--freeze: '{item}' is not WHAT=SHARE, as in head=0.2") from None
        if what not in ("none", "head") and not re.fullmatch("[0-9]+", what):
            raise ValueError(f"--freeze: '{what}' is not none, head, or how many groups of layers are frozen")
    if not make_a_whole([share for _, share in parts]):
        raise ValueError(f"--freeze: '{text}' needs shares of the epochs that add up to 1, as in head=0.2,none=0.8")
    return parts


LOSSES = ("ce", "bce", "focal", "asymmetric")
FOCUS = {"focal": 2.0, "asymmetric": 4.0}  # gamma, as the authors of each chose it


def parse_loss(text: str) -> tuple[str, float]:
    """Read `--loss`, such as "focal=2": (a name of LOSSES, gamma).

    Raises ValueError, with one line, for an unknown name or a gamma that is no number from 0.
    """
    name, has_gamma, gamma = text.partition("=")
    if name not in LOSSES or (has_gamma and name not in FOCUS):
        raise ValueError(f"--loss: '{text}' is none of ce, bce, focal and asymmetric, focal=GAMMA and asymmetric=GAMMA")
    try:
        found = float(gamma) if has_gamma else FOCUS.get(name, 0.0)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"--loss: '{gamma}' is no gamma: give a number from 0, as in focal=2")
    return name, found


def parse_class_weights(text: str) -> str | float | dict[str, float]:
    """Read `--class-weights`: "auto", a beta such as 0.999, or weights by the names of classes.

    Raises ValueError, with one line, for what is none of these.
    """
    if text == "auto":
        return text
    if "=" not in text:
        try:
            beta = float(text)
        except ValueError:
            beta = math.nan
        if not 0 < beta < 1:
            raise ValueError(f"--class-weights: '{text}' is not auto, a beta between 0 and 1, or CLASS=WEIGHT,...")
        return beta
    weights = {}
    for item in text.split(","):
        name, _, weight = item.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = math.nan
        if not name or not 0 <= weights[name] < math.inf:
            raise ValueError(f"--class-weights: '{item}' is not CLASS=WEIGHT, with a weight from 0, as in cat=3")
    return weights


def by_epoch(parts: Sequence[tuple], epochs: int) -> list:
    """What is in force in each epoch, from (what, share of the epochs) in order; an epoch is cut at its middle."""
    ends = [sum(share for _, share in parts[: index + 1]) for index in range(len(parts))]
    return [
        next(what for (what, _), end in zip(parts, ends, strict=True) if epoch + 0.5 < end * epochs or end == ends[-1])
        for epoch in range(epochs)
    ]


def number_list(kind: type, low: float, high: float, *, open_low: bool = False) -> Callable:
    """An argparse type: numbers of `kind` between bounds, separated by commas."""
    return lambda text: [number(kind, low, high, open_low=open_low)(part) for part in text.split(",")]


def seed_list(text: str) -> list[int]:
    """An argparse type: different whole numbers from 0, separated by commas."""
    seeds = [number(int, 0, 2**31 - 1)(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"'{text}' names a seed twice")
    return seeds


def axis(text: str) -> tuple[str, list[str]]:
    """An argparse type: `key=value,value,...`, values that hold commas in brackets; the values as they were typed."""
    key, equals, rest = text.partition("=")
    values = [part.strip("[]") for part in re.findall(r"\[[^\]]*\]|[^,\[\]]+", rest)]
    if not equals or not key or not values or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"'{text}' is not OPTION=VALUE,VALUE with different values")
    return key.replace("-", "_"), values


def epoch_or_steps(text: str) -> str | int:
    """An argparse type: the word epoch, or a positive number of steps."""
    return text if text == "epoch" else number(int, 1)(text)
