"""Mistakes that a user can make and mend: one line on stderr, exit code 2, nothing written."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine import console


class UserError(Exception):
    """Something the user can put right. The message is one line: the thing, then the remedy."""


class ImpossibleOptions(UserError):
    """Options that do not go together with these images or this machine.

    Every process finds it out alike, before anything is written: of several runs this one alone has no result.
    """


@contextmanager
def user_errors_end_the_program() -> Iterator[None]:
    """Turn a UserError, or a full disk, into one line on stderr (from a machine's first process) and exit code 2.

    Every other exception passes through: a fault of ours must show its traceback.
    """
    console.open_closed_streams()
    try:
        yield
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        first = (os.environ.get("LOCAL_RANK") or "0") in ("0", "-1")
        if first or not os.environ.get("RANK"):  # a LOCAL_RANK alone is left over from elsewhere
            message = " ".join(str(error).split())
            console.clear()
            print(f"error: {message}", file=sys.stderr, flush=True)
        sys.exit(2)
