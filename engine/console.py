"""Standard output and error: closed from the start, read by nobody any more, or unable to show a character."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def outliving_its_reader() -> Iterator[None]:
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
    """The text with what the terminal's encoding lacks, as names of files may have, shown by number."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def say(text: str) -> None:
    """Print, whether anybody reads it or not."""
    with outliving_its_reader():
        print(printable(text), flush=True)
