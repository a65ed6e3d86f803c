"""Files that are either whole or not there: written beside their place, flushed to disk, renamed."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path` in one step.

    Raises:
        OSError: no room or no right to write; `path` is then as it was.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        write(unfinished)
        flush(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # writing alone does not say where
    finally:
        unfinished.unlink(missing_ok=True)
    flush(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN) atomically."""
    text = json.dumps(strict(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda staged: staged.write_text(text, encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """Write a text, atomically.

    File names that are not UTF-8 reach Python as lone surrogates, which no encoding can hold: they are escaped.
    """
    encoded = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda staged: staged.write_bytes(encoded))


def strict(value: Any) -> Any:
    """The same value with what JSON has no word for, NaN and infinities, as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return value


def exists(path: Path) -> bool:
    """Whether there is such a file or folder: no for a name that no disk can hold, of which `Path.exists` raises."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder: no for a name that no disk can hold, of which `Path.is_dir` raises."""
    try:
        return path.is_dir()
    except OSError:
        return False


def deepest_existing(path: Path) -> Path:
    """`path`, or the nearest above it that there is.

    Raises:
        OSError: a name that is too long, or a folder that may not be entered.
    """
    return next(place for place in (path, *path.parents) if place.exists())


def flush(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, survive a loss of power."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder and needs no flush of it
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
