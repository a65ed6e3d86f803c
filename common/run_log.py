"""What a run says, kept in a file: every line, warning and error, with its time.

Lines come before there is a folder to keep them in, and wait for it in memory. A run that is refused never has one.
"""

import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from common import console

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

_waiting: list[tuple[str, str]] | None = None  # (time, line); None where there is nothing to wait for
_file: int | None = None
_speaker = ""
_told = False  # that the file cannot be written


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is said, warned of and logged in this process, until the end, and the traceback that may be the end.

    What `console` says, Python's warnings, and records of `logging` from WARNING on, whatever their logger's handlers.
    """
    global _waiting
    _waiting = []
    shows, makes = warnings.showwarning, logging.getLogRecordFactory()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: object) -> None:
        shows(message, category, filename, lineno, *more)
        add(f"{category.__name__}: {message} ({filename}:{lineno})")

    def make(*args: object, **kwargs: object) -> logging.LogRecord:
        record = makes(*args, **kwargs)
        if record.levelno >= logging.WARNING:
            add(f"{record.levelname.lower()}: {_message(record)} ({record.name})")
        return record

    warnings.showwarning, console.listener = show, add
    logging.setLogRecordFactory(make)
    try:
        yield
    except Exception:
        add(traceback.format_exc())
        raise
    finally:
        warnings.showwarning, console.listener = shows, None
        logging.setLogRecordFactory(makes)
        close()
        _waiting = None


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit, of which logging itself tells when it prints
        return str(record.msg)


def write_to(path: Path, speaker: str = "") -> None:
    """Write what was said so far, and what will be, at the end of a file.

    Args:
        path: made where it is not there.
        speaker: put before each line, to tell the processes that write there apart.
    """
    global _file, _speaker, _waiting
    if _waiting is None:
        return
    close()
    _speaker = speaker
    try:
        _file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _tell(error)
        give_up()
        return
    said, _waiting = _waiting, []
    _write(said)


def close() -> None:
    """End the file: what is said from here on waits for the next one."""
    global _file, _told
    if _file is not None:
        os.close(_file)
    _file, _told = None, False


def give_up() -> None:
    """Keep nothing any more: this process has nowhere to write."""
    global _waiting
    close()
    _waiting = None


def add(text: str) -> None:
    """Keep a text, line by line, without colours; a signal's handler may, as it takes one system call."""
    if _waiting is None:
        return
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    lines = [(now, line.rstrip()) for line in ESCAPES.sub("", text).splitlines() if line.strip()]
    if _file is None:
        _waiting.extend(lines)
    else:
        _write(lines)


def _write(lines: list[tuple[str, str]]) -> None:
    # At once, so that lines of several processes do not end up in one another.
    text = "".join(f"{time} {_speaker}{line}\n" for time, line in lines)
    try:
        os.write(_file, text.encode(errors="backslashreplace"))
    except OSError as error:
        _tell(error)


def _tell(error: OSError) -> None:
    """Say once that lines are lost, as on a full disk: what the run itself has to write there decides on its end."""
    global _told
    if not _told:
        _told = True
        console.note(f"warning: lines of the run's log.txt are lost: {error.strerror}")
