"""The grammar of options: numbers with bounds, key=value, recipes, and refusals of one line."""

import argparse
import ast
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from common.console import ignore_closed_stdout, say
from common.errors import UserError
from common.files import exists, is_folder
from common.hub import is_on_hub
from common.suggest import did_you_mean, near
from common.version import VERSION
from data.augment.spec import make_a_whole

# option -> what the same is called in other programs, as far as the names are unlike
ELSEWHERE = {
    "lr": ("learning-rate",),
    "batch-size": ("bs", "train-batch-size", "per-device-train-batch-size"),
    "epochs": ("num-epochs", "num-train-epochs", "max-epochs"),
    "optimizer": ("opt", "optim"),
    "weight-decay": ("wd",),
    "accumulate": ("gradient-accumulation-steps", "accumulate-grad-batches", "grad-accum-steps"),
    "clip-grad": ("max-grad-norm", "gradient-clip-val", "grad-clip"),
    "label-smoothing": ("smoothing",),
    "schedule": ("lr-scheduler", "lr-scheduler-type", "sched", "scheduler"),
    "warmup": ("warmup-epochs", "warmup-steps", "warmup-ratio"),
    "workers": ("num-workers", "dataloader-num-workers"),
    "mixed-precision": ("amp", "fp16", "bf16", "precision"),
    "dataset": ("data", "dataset-name", "train-dir", "data-path"),
    "image-size": ("img-size", "imsize", "resolution"),
    "model": ("arch", "model-name", "model-name-or-path"),
    "output-dir": ("output", "save-dir", "log-dir"),
    "run-name": ("name", "experiment", "exp-name"),
    "pretrained": ("checkpoint", "finetune", "initial-checkpoint"),
    "resume": ("resume-from-checkpoint",),
    "track": ("report-to", "with-tracking", "logger"),
}
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose help shows every default."""

    in_recipes: Collection[str] = ()  # names of the options that a recipe may hold

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", lambda prog: argparse.HelpFormatter(prog, max_help_position=32))
        super().__init__(allow_abbrev=False, **kwargs)
        self.add_argument("--version", action="version", version=f"Sameloop {VERSION}")

    def error(self, message: str) -> None:
        unknown = message.removeprefix("unrecognized arguments: ")
        hint = did_you_mean(self.nearest(unknown.split()[0]), before=": ") if unknown != message else ""
        raise UserError(f"{message}{hint} (see {self.prog} --help)")

    def nearest(self, name: str) -> list[str]:
        """The options that a mistyped one, or one of another program's, may have meant."""
        wanted = name.split("=")[0].strip("-").replace("_", "-").lower()
        own = [text.removeprefix("--") for action in self._actions for text in action.option_strings]
        meant = [option for option in own if wanted == option or wanted in ELSEWHERE.get(option, ())]
        return [f"--{option}" for option in meant or near(wanted, own, 2)]

    def print_help(self, file: TextIO | None = None) -> None:
        with ignore_closed_stdout():
            super().print_help(file)
            (file or sys.stdout).flush()


class Answer(argparse.Action):
    """An option that prints what `answer()` returns and ends the program, as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, answer: Callable[[], str], **kwargs) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **kwargs)
        self.answer = answer

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        say(self.answer())
        parser.exit()


class KeyValues(argparse.Action):
    """An option that collects what `key_value` parses in a dict, also of several uses of it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), **dict(values)})


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


FLAG = argparse.BooleanOptionalAction
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


def recipe_argv(parser: Parser, recipe: str) -> list[str]:
    """A recipe as the command line that it stands for, so that one parser checks both."""
    file = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not exists(file):
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml"))) or "none"
        raise UserError(f"--recipe {recipe}: there is no file {file.name}; the recipes are: {known}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"--recipe {recipe}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"--recipe {recipe}: must hold lines of 'option: value'")
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    argv = []
    for key, value in content.items():
        action = actions.get(str(key).replace("-", "_"))
        if action is None or action.dest not in parser.in_recipes:
            hint = did_you_mean([name.removeprefix("--") for name in parser.nearest(str(key))[:1]], after=" ")
            raise UserError(f"--recipe {recipe}: unknown option '{key}': {hint}the names are those of train.py --help")
        argv += _as_argv(action, value, recipe)
    return argv


def _as_argv(action: argparse.Action, value: object, recipe: str) -> list[str]:
    name = action.option_strings[0]
    if value is None or value == {}:
        return []
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise UserError(f"--recipe {recipe}: {name.removeprefix('--')} is true or false, not '{value}'")
        return _switch(name, value)
    if isinstance(value, bool):  # YAML reads an unquoted no, as in "mixed-precision: no", as false
        value = "yes" if value else "no"
    if isinstance(value, dict):
        if action.dest == "sweep":
            value = {key: _joined(inner) for key, inner in value.items()}
        return [name, *(f"{key}={inner}" for key, inner in value.items())]
    return [name, _joined(value)] if isinstance(value, list) else [f"{name}={value}"]


def _joined(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def setting_argv(parser: Parser, key: str, value: str) -> list[str]:
    """One point on an axis of --sweep as it would be typed: an option of the parser, else an argument of the model."""
    option = next((a for a in parser._actions if a.option_strings and a.dest == key), None)
    if option is None:
        return ["--model-arg", f"{key}={value}"]
    name = option.option_strings[0]
    if not isinstance(option, argparse.BooleanOptionalAction):
        return [f"{name}={value}"]
    if value not in ("true", "false"):
        raise UserError(f"--sweep {key}: the values are true and false, not '{value}'")
    return _switch(name, value == "true")


def _switch(name: str, on: bool) -> list[str]:
    return [name if on else f"--no-{name.removeprefix('--')}"]
