"""The command line of every script: refusals of one line, hints at what was meant, recipes."""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from common.console import ignore_closed_stdout, say
from common.errors import UserError
from common.files import exists
from common.suggest import did_you_mean, near
from common.version import VERSION

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
FLAG = argparse.BooleanOptionalAction
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
