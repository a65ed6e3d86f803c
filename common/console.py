"""What a person reads in a terminal or a log: lines, a line that is rewritten in place, and how figures are written.

Nothing heavy is imported, so that the first line can be there before torch is.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

COLORS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

listener: Callable[[str], None] | None = None  # is given each line as well: `common/run_log.py` keeps them

_live = ""  # the text that the next line is to take the place of


def open_closed_streams() -> None:
    """Let what is printed to a closed stream (`train.py >&-`) go nowhere.

    Without it the next files that are opened would get the streams' numbers, and what is printed would end in them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def say(text: str) -> None:
    """Print a line, in the place of the live one, whether anybody reads it or not."""
    clear()
    with ignore_closed_stdout():
        print(printable(text), flush=True)
    _pass_on(text)


def note(text: str) -> None:
    """Print a line on standard error, which is no part of what a script answers."""
    clear()
    with ignore_closed_stdout():
        print(_encodable(text, sys.stderr), file=sys.stderr, flush=True)
    _pass_on(text)


def note_at_once(text: str) -> None:
    """Print a line on standard error from the first process, in one system call, so that a signal's handler may."""
    if is_first_process():
        over_the_live_line = "\r\x1b[K" if is_live() else ""
        with ignore_closed_stdout():
            os.write(2, f"{over_the_live_line}{text}\n".encode(errors="backslashreplace"))
        _pass_on(text)


def _pass_on(text: str) -> None:
    if listener is not None:
        listener(text)


def is_live() -> bool:
    """Whether this process may show a line that is rewritten: the first one, on a terminal that can."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and is_first_process()


def is_first_process() -> bool:
    """Whether this is the process of several that speaks, as far as can be told before they have met."""
    ranks = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
    return all((os.environ.get(name) or "0") == "0" for name in ranks)


def status(text: str) -> None:
    """Show what is under way in a line that the next one replaces; nothing where that cannot be done.

    The cursor stays at its beginning, so that what others print takes its place as well.
    """
    global _live
    if not is_live():
        return
    text = _encodable(text, sys.stderr)[: width() - 1]
    with ignore_closed_stdout():
        print(f"\r{text.ljust(len(_live))}", end="\r", file=sys.stderr, flush=True)
    _live = text


def clear() -> None:
    """Take the live line away."""
    global _live
    if _live:
        with ignore_closed_stdout():
            print(f"\r{' ' * len(_live)}", end="\r", file=sys.stderr, flush=True)
        _live = ""


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    for stream in (sys.stderr, sys.stdout):
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):  # no terminal, closed, or replaced by what has no descriptor
            continue
    return 80


def paint(text: str, *names: str) -> str:
    """The text in these of COLORS, where standard output is a terminal that has them and NO_COLOR is not set."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{';'.join(COLORS[name] for name in names)}m{text}\x1b[0m"


@contextmanager
def ignore_closed_stdout() -> Iterator[None]:
    """Print, but go on where nobody reads any more: a closed terminal, or `train.py | head`. The folder has it all."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:  # the signal that says so may come later
            leave_the_terminal()
        elif error.errno == errno.EPIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            raise


def leave_the_terminal() -> None:
    """Let what is printed to a terminal go nowhere: it was closed, so that to print there would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def printable(text: str) -> str:
    """The text with what standard output's encoding lacks, as names of files may have, shown by number."""
    return _encodable(text, sys.stdout)


def can_show(text: str) -> bool:
    """Whether standard error's encoding has these characters."""
    return _encodable(text, sys.stderr) == text


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 0..1 as people read it, `98.55 %`; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def plain_number(value: object) -> str:
    """A value as text, a number without the tail that binary fractions have: 0.30000000000000004 is 0.3."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`4.9 s`, `59 s`, `2:05`, `1:02:33`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
