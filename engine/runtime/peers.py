"""The other processes of a run: when one of them fails, all end, and each machine says which one it was and why.

Left alone, the others would wait for it in their next exchange: for ever, or until a launcher or a time limit of half
an hour ends them. So each process leaves word in the store by which they once found each other, and looks there.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from common import console, failures
from common.errors import RunFailed, UserError, is_first_of_machine

if TYPE_CHECKING:
    from accelerate import Accelerator

LOOK_EVERY = 0.5  # seconds
WAIT_UNTOLD = 10.0
FAILED = "sameloop/failed"  # the store's key for [rank, reason, exit code]
GONE = "it was killed, or its machine cannot be reached"
GRACE = 3.0  # seconds in which a process that all have the same trouble with may find it itself

_watch: "Watch | None" = None


class Watch(threading.Thread):
    """Looks for word of another process's failure, and then ends this one, which may be waiting in an exchange.

    Args:
        rank, num_processes: of this process, and of how many.
        store: by which the processes have found each other.
    """

    def __init__(self, rank: int, num_processes: int, store: object) -> None:
        super().__init__(daemon=True, name="watch over the other processes")
        self.rank, self.num_processes, self.store = rank, num_processes, store.clone()
        self.over = threading.Event()
        self.seen: RunFailed | None = None  # what has been told may not be there to be read again

    def run(self) -> None:
        """Until `over` is set or a process has failed."""
        while not self.over.wait(LOOK_EVERY):
            failure = self.failure()
            if failure is not None and not self.over.wait(GRACE):
                failure.print()
                os._exit(failure.exit_code)

    def failure(self) -> RunFailed | None:
        """Another process's failure, if there is word of one."""
        self.seen = self.seen or self._read()
        return self.seen

    def _read(self) -> RunFailed | None:
        try:
            self.store.add(_alive(self.rank), 1)
            if not self.store.check([FAILED]):
                return None
            rank, reason, code = json.loads(self.store.get(FAILED))
        except RuntimeError:  # the process that keeps the store is gone
            return self._gone([0])
        if rank == self.rank:
            return None
        return RunFailed(self._in_words(rank, reason), code, is_first_of_machine())

    def loss(self) -> RunFailed:
        """What to say where an exchange failed, as another process is gone, perhaps without a word."""
        failure = self.failure()
        if failure is not None:
            return failure
        others = [rank for rank in range(self.num_processes) if rank != self.rank]
        try:
            before = [self.store.add(_alive(rank), 0) for rank in others]
            for _ in range(5):
                time.sleep(LOOK_EVERY)
                self.store.add(_alive(self.rank), 1)  # the others may be finding out the same
            gone = [
                rank for rank, beats in zip(others, before, strict=True) if self.store.add(_alive(rank), 0) == beats
            ]
        except RuntimeError:
            gone = [0]
        self._leave_word(gone[0] if gone else None, GONE, 1)
        return self._gone(gone)

    def _gone(self, ranks: list[int]) -> RunFailed:
        # The one that would print for its machine may be one of them.
        heir = self.rank == min({*range(self.num_processes)} - {*ranks})
        return RunFailed(self._in_words(ranks[0] if ranks else None, GONE), 1, heir or is_first_of_machine())

    def tell(self, error: BaseException) -> None:
        """Leave word that this process fails, unless another was first."""
        code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
        self._leave_word(self.rank, _reason(error), code if isinstance(code, int) else 1)
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(4 * LOOK_EVERY)  # the store ends with this process: the others must have looked

    def _leave_word(self, rank: int | None, reason: str, code: int) -> None:
        with suppress(RuntimeError):  # nobody is left to be told
            self.store.compare_set(FAILED, "", json.dumps([rank, reason, code]))

    def _in_words(self, rank: int | None, reason: str) -> str:
        which = "another process" if rank is None else f"process {rank}"
        return f"{which} has failed, so process {self.rank} ends too: {reason}"


def _alive(rank: int) -> str:
    return f"sameloop/alive/{rank}"


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"ended with code {error.code}"
    if isinstance(error, UserError | RunFailed):
        return str(error)
    return failures.in_one_line(error) or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


@contextmanager
def saying_that_it_waits() -> Iterator[None]:
    """Say so where the processes have not found each other after some seconds."""
    processes, meeting = (os.environ.get(name) for name in ("WORLD_SIZE", "MASTER_ADDR"))
    text = f"waiting for the other processes: {processes} in all, at {meeting}:{os.environ.get('MASTER_PORT')}"
    timer = threading.Timer(WAIT_UNTOLD, console.note, [text])
    timer.daemon = True
    if (processes or "1") != "1" and is_first_of_machine():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def watch(accelerator: "Accelerator") -> None:
    """Look after the other processes from here to `part`."""
    global _watch
    if accelerator.num_processes == 1 or _watch is not None:
        return
    from torch.distributed.distributed_c10d import _get_default_store  # the only way to it

    _watch = Watch(accelerator.process_index, accelerator.num_processes, _get_default_store())
    _watch.start()


def part() -> None:
    """Stop looking after the others: from here each may end when it likes."""
    global _watch
    if _watch is not None:
        _watch.over.set()
        _watch = None


@contextmanager
def failing_together() -> Iterator[None]:
    """Tell the other processes when this one fails; where it fails for want of another, say which and why.

    Raises:
        RunFailed: another process is gone.
    """
    try:
        yield
    except BaseException as error:
        if _watch is None:
            raise
        _watch.over.set()  # from here this process ends by itself
        if failures.is_lost_connection(error):
            raise _watch.loss() from error
        _watch.tell(error)
        raise
    finally:
        part()
