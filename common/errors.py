"""What ends the program in one line: mistakes that a user can make and mend, and what fails around a run."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common import console, failures


class UserError(Exception):
    """Something the user can put right. The message is one line: the thing, then the remedy."""

    exit_code = 2


class RunFailed(Exception):
    """What ended a run from outside the program, in one line.

    Attributes:
        exit_code: that the process ends with.
        prints: whether this process is the one to say it.
    """

    def __init__(self, message: str, exit_code: int = 1, prints: bool = True) -> None:
        super().__init__(message)
        self.exit_code, self.prints = exit_code, prints

    def print(self) -> None:
        """The line, on stderr."""
        if self.prints:
            console.note(f"error: {' '.join(str(self).split())}")


def is_first_of_machine() -> bool:
    """Whether this process is the one that speaks for its machine."""
    first = (os.environ.get("LOCAL_RANK") or "0") in ("0", "-1")
    return first or not os.environ.get("RANK")  # a LOCAL_RANK alone is left over from elsewhere


class ImpossibleOptions(UserError):
    """Options that do not go together with these images or this machine.

    Every process finds it out alike, before anything is written: of several runs this one alone has no result.
    """


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn what is not the program's own fault into one line on stderr and an exit code.

    A UserError or a full disk is said by a machine's first process and ends with 2, want of memory or a lost process by
    whoever meets it and with 1, Ctrl-C where nothing listens to it yet with 130. Every other exception passes through:
    a fault of ours must show its traceback.
    """
    console.open_closed_streams()
    try:
        yield
    except Exception as error:
        ended = _ended(error)
        if ended is None:
            raise
        ended.print()
        sys.exit(ended.exit_code)
    except KeyboardInterrupt:
        console.note_at_once("stopped")
        sys.exit(128 + signal.SIGINT)


def _ended(error: Exception) -> RunFailed | None:
    if isinstance(error, RunFailed):
        return error
    full_disk = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, UserError) or full_disk:
        return RunFailed(str(error), 2, is_first_of_machine())
    line = failures.in_one_line(error)
    return line and RunFailed(line)
