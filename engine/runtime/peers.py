"""The other processes of a run: when one of them fails, all end, and each machine says which one it was and why.

Left alone, the others would wait for it in their next exchange: for ever, or until a launcher or a time limit of half
an hour ends them. So each process leaves word in the store by which they once found each other, and looks there.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from common import console, failures
from common.errors import RunFailed, UserError, is_first_of_machine
from engine.runtime import launcher

if TYPE_CHECKING:
    from accelerate import Accelerator

LOOK_EVERY = 0.5  # seconds
WAIT_UNTOLD = 10.0
SILENT = 30.0  # seconds without a sign of life after which a machine is taken to be lost
FAILED = "sameloop/failed"  # the store's key for [rank, reason, exit code]
KILLED = "it was killed, or its machine cannot be reached"
LOST = f"nothing was heard of it for {SILENT:.0f} seconds, so its machine is off or cut off from the network"
GRACE = 3.0  # seconds in which a process that all have the same trouble with may find it itself

_watch: "Watch | None" = None


class Watch(threading.Thread):
    """Looks for word of another process's failure, and then ends this one, which may be waiting in an exchange.

    A machine that is switched off or cut off leaves no word, and connections to it stay open in silence. The first
    process, which keeps the store, counts the others' signs of life; the others see whether the store answers.

    Args:
        rank: of this process.
        hosts: the name of each process's machine, by rank.
        store: by which the processes have found each other.

    Attributes:
        to_go_on: what to do where a process was lost; empty before there is anything to go on from.
    """

    def __init__(self, rank: int, hosts: Sequence[str], store: object) -> None:
        super().__init__(daemon=True, name="watch over the other processes")
        self.rank, self.hosts, self.num_processes, self.store = rank, hosts, len(hosts), store.clone()
        self.over, self.parted = threading.Event(), threading.Event()
        self.seen: RunFailed | None = None  # what has been told may not be there to be read again
        self.to_go_on = ""
        # Looks since the store answered, and since each process gave a sign of life. Counted, not timed: while this
        # machine sleeps, or the process is stopped, nothing is heard either.
        self.unanswered = 0
        self.beats = [(0, 0)] * self.num_processes

    def run(self) -> None:
        """Until `over` is set or a process has failed."""
        threading.Thread(target=self._mind_silence, daemon=True, name="silence of the store").start()
        while not self.over.wait(LOOK_EVERY):
            failure = self.failure() or self._silent()
            self.unanswered = 0
            if failure is not None and not self.over.wait(GRACE):
                self._end(failure)

    def _mind_silence(self) -> None:
        """End this process where the store has stopped to answer, also while it fails by itself and wants to say so."""
        while not self.parted.wait(LOOK_EVERY):
            self.unanswered += 1
            if self.unanswered * LOOK_EVERY > SILENT:
                launcher.end_hanging_launcher()
                self._end(self._gone([0], LOST))

    def _end(self, failure: RunFailed) -> None:
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
            return self._gone([0], KILLED)
        if rank == self.rank:
            return None
        return RunFailed(self._in_words(rank, reason), code, is_first_of_machine())

    def _silent(self) -> RunFailed | None:
        """The loss of a process that has given no sign of life for long, which the first process finds out for all."""
        if self.rank != 0:
            return None
        try:
            beats = [self.store.add(_alive(rank), 0) for rank in range(self.num_processes)]
        except RuntimeError:  # it ends just now
            return None
        self.beats = [
            (now, looks + 1 if now == last else 0) for now, (last, looks) in zip(beats, self.beats, strict=True)
        ]
        lost = [rank for rank, (_, looks) in enumerate(self.beats) if looks * LOOK_EVERY > SILENT]
        if not lost:
            return None
        self._leave_word(lost[0], self._lost_in_words(LOST), 1)
        return self._gone(lost, LOST)

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
        self._leave_word(gone[0] if gone else None, self._lost_in_words(KILLED), 1)
        return self._gone(gone, KILLED)

    def _gone(self, ranks: list[int], reason: str) -> RunFailed:
        ranks = [rank for rank in ranks if rank != self.rank]  # the store of the first is kept by its launcher
        # The one that would print for its machine may be one of them.
        heir = self.rank == min({*range(self.num_processes)} - {*ranks})
        words = self._in_words(ranks[0] if ranks else None, self._lost_in_words(reason))
        return RunFailed(words, 1, heir or is_first_of_machine())

    def tell(self, error: BaseException) -> None:
        """Leave word that this process fails, unless another was first."""
        code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
        self._leave_word(self.rank, _reason(error), code if isinstance(code, int) else 1)
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(4 * LOOK_EVERY)  # the store ends with this process: the others must have looked

    def _leave_word(self, rank: int | None, reason: str, code: int) -> None:
        with suppress(RuntimeError):  # nobody is left to be told
            self.store.compare_set(FAILED, "", json.dumps([rank, reason, code]))

    def _lost_in_words(self, reason: str) -> str:
        return "; ".join(filter(None, [reason, self.to_go_on]))

    def _in_words(self, rank: int | None, reason: str) -> str:
        which = "another process" if rank is None else f"process {rank}"
        if rank is not None and len({*self.hosts}) > 1:
            which = f"{which} on {self.hosts[rank]}"
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
def meeting() -> Iterator[None]:
    """Say so where the processes have not found each other after some seconds, or cannot reach each other.

    Raises:
        RunFailed: this process has found the others and does not get through to them.
    """
    rank, processes, host, port = (
        os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    )
    text = f"waiting for the other processes: {processes} in all, at {host}:{port}"
    timer = threading.Timer(WAIT_UNTOLD, console.note, [text])
    timer.daemon = True
    if (processes or "1") != "1" and is_first_of_machine():
        timer.start()
    try:
        yield
    except RuntimeError as error:
        if not failures.is_lost_connection(error):
            raise
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "an interface that was not chosen")
        raise RunFailed(
            f"process {rank} has found the others at {host}:{port} but does not get through to them by {interface}: "
            "let all ports between the machines through the firewall, or name the interface (see 'ip address') in "
            "GLOO_SOCKET_IFNAME, and for GPUs in NCCL_SOCKET_IFNAME"
        ) from error
    finally:
        timer.cancel()


def watch(accelerator: "Accelerator") -> None:
    """Look after the other processes from here to `part`."""
    global _watch
    if accelerator.num_processes == 1 or _watch is not None:
        return
    from accelerate.utils import gather_object
    from torch.distributed.distributed_c10d import _get_default_store  # the only way to it

    _watch = Watch(accelerator.process_index, gather_object([socket.gethostname()]), _get_default_store())
    _watch.start()


def say_how_to_go_on(words: str) -> None:
    """Have these words said, too, where another process is lost from here on."""
    if _watch is not None:
        _watch.to_go_on = words


def part() -> None:
    """Stop looking after the others: from here each may end when it likes."""
    global _watch
    if _watch is not None:
        _watch.over.set()
        _watch.parted.set()
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
