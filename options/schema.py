"""How an option is declared: once, as a field of a dataclass, with its default, help, type, and what it is.

Whoever treats options differently, at a resume, in a comparison, in a sweep, asks the declaration, and keeps no list.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping
from copy import copy
from enum import Enum, auto
from typing import Any, get_args


class Role(Enum):
    """What an option is about."""

    RESULT = auto()  # what is computed: kept with the run, compared, and must match at a resume unless it may change
    OUTPUT = auto()  # where and how often things are read and written: kept, never compared, may change
    COMMAND = auto()  # this command alone: not kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """A declared option.

    Attributes:
        name: as in `--name`, with underscores.
        positional: typed without its name.
        default: where nothing is given, and no `default_by`.
        help: None for what is set by the program alone.
        parse: arguments of argparse's `add_argument`.
        role: see `Role`.
        may_change: at a resume, though it is of role RESULT.
        compared: whether runs that differ in it are told apart.
        swept: whether --sweep takes it.
        in_recipes: whether a recipe may hold it.
        of_test: whether it says what is tested on.
        repeat: whether runs that differ in it alone are repetitions of one another.
        filled_in: whether a run fills it in from data or weights where it is None.
        classes_only: whether it is of use for classes alone.
        per_machine: whether it may differ from machine to machine of one run.
        earlier: its value in runs that are older than the option is; None: its default.
        environment: the variable that holds its default, read when a command line is parsed; None where there is none.
        default_by: (another option, its value -> the default then, the default else); None where there is none.
    """

    name: str
    default: Any
    help: str | None
    parse: Mapping[str, Any]
    positional: bool = False
    role: Role = Role.RESULT
    may_change: bool = False
    compared: bool = True
    swept: bool = True
    in_recipes: bool = True
    of_test: bool = False
    repeat: bool = False
    filled_in: bool = False
    classes_only: bool = False
    per_machine: bool = False
    earlier: Any = None
    environment: str | None = None
    default_by: tuple[str, Mapping[str, Any], Any] | None = None

    @property
    def flag(self) -> str:
        """As it is typed, and as argparse wants it."""
        return self.name if self.positional else f"--{self.name.replace('_', '-')}"

    @property
    def is_kept(self) -> bool:
        """Whether it is part of a run, so that args.yaml holds it."""
        return self.role is not Role.COMMAND

    @property
    def must_match(self) -> bool:
        """Whether a resumed run must have the same."""
        return self.role is Role.RESULT and not self.may_change

    @property
    def is_compared(self) -> bool:
        """Whether it may be a column of a comparison."""
        return self.role is Role.RESULT and self.compared

    @property
    def can_be_swept(self) -> bool:
        """Whether it may be an axis of --sweep."""
        return self.role is not Role.COMMAND and self.swept


PARSE = ("type", "choices", "nargs", "action", "const", "metavar", "required")


def option(default: Any, help: str | None, **declaration: Any) -> Any:
    """A field of a group of options: a frozen dataclass, so that options are changed by `dataclasses.replace` alone.

    Args:
        default: its default.
        help: for --help; the default is added where the text does not tell it.
        declaration: argparse's arguments (PARSE), and attributes of `Option`.
    """
    parse = {key: declaration.pop(key) for key in PARSE if key in declaration}
    metadata = {"help": help, "parse": parse, **declaration}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def declared(*groups: type) -> dict[str, Option]:
    """The options of dataclasses by name, in order."""
    found = {}
    for field in (field for group in groups for field in dataclasses.fields(group)):
        metadata = dict(field.metadata)
        parse = metadata.pop("parse")
        if bool in (field.type, *get_args(field.type)):
            parse = {"action": argparse.BooleanOptionalAction, **parse}
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        found[field.name] = Option(name=field.name, default=default, parse=parse, **metadata)
    return found


def add_arguments(add: Callable, group: type) -> None:
    """Add a dataclass's options to a parser, or a group of one, by its `add_argument`."""
    for found in declared(group).values():
        default = os.environ.get(found.environment, found.default) if found.environment else found.default
        if found.help is not None:
            add(found.flag, default=default, help=_help(found, found.help), **found.parse)


def _help(found: Option, text: str) -> str:
    """The text for --help, with the default."""
    if "(default:" in text or found.positional or (found.role is Role.COMMAND and found.default is None):
        return text
    if found.default_by is not None:
        _, values, other = found.default_by
        return f"{text} (default: {other:g}; {', '.join(f'{key} {value:g}' for key, value in values.items())})"
    if isinstance(found.default, bool):
        return f"{text} (default: {'yes' if found.default else 'no'})"
    return f"{text} (default: {'none' if found.default in (None, [], {}) else '%(default)s'})"


def fill_in_defaults(options: Mapping[str, Option], args: argparse.Namespace) -> None:
    """While options are parsed, give options that nobody gave the defaults that follow from others."""
    for found in options.values():
        if found.default_by is not None and getattr(args, found.name) is None:
            other, values, otherwise = found.default_by
            setattr(args, found.name, values.get(getattr(args, other), otherwise))


def given(options: Mapping[str, Option], args: argparse.Namespace) -> list[str]:
    """Those that differ from their defaults, and from what they were before there was such an option, as typed."""
    return [found.flag for name, found in options.items() if getattr(args, name) not in (found.default, found.earlier)]
