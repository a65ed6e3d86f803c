"""Requests to end a run early: signals, and the clock."""

import math
import os
import signal
import socket
import sys
import threading
import time

import torch
from accelerate import Accelerator

from common import console
from common.console import leave_the_terminal, note_at_once
from common.errors import is_first_of_machine
from engine.runtime import launcher

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: what was asked for is not done, and the same command will go on with it
GRACE = 3.0  # seconds that the main thread has to obey a signal, and after which a second one is no copy of the first


class StopRequest:
    """Remembers that the run was asked to stop: by SIGTERM, SIGINT, a closed terminal (SIGHUP) or --max-time.

    SIGUSR1 asks for the same, and to be started again: schedulers send it some time before a job's time is over. It
    alone ends a run with the code REQUEUE, by which a job script knows that there is more to do.

    Used in a `with` statement: signals are heard inside it, and mean what they meant before when it is left. Until
    `patient` is set a signal ends the process at once: nothing has been computed yet. Later ones are noted, and the
    loop asks `exit_code_on_all_ranks` after each step. Signals that are repeated at once change nothing, as torchrun
    hands on a Ctrl-C that the terminal has given to every process already; one more some seconds later ends the process
    as it is.

    Python hears a signal only between two of its own instructions. An exchange with other processes, which they may
    keep waiting for half an hour, is one of them: a thread sees to it that a signal ends the process there too.

    Attributes:
        words: what is said of it when a signal ends the process at once.

    Args:
        max_seconds: from `began` on; None for no limit.
        began: when the run did, as time.monotonic() tells it.
    """

    def __init__(self, max_seconds: float | None = None, began: float = 0.0) -> None:
        self.patient = False
        self.words = "before the first step: nothing is lost"
        self.exit_code: int | None = None
        self.deadline = math.inf if max_seconds is None else began + max_seconds
        self._before: dict[int, object] = {}
        self._left = threading.Event()
        self._told: socket.socket | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # no other may hear signals
            for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
                number = getattr(signal, name, None)  # Windows has neither SIGHUP nor SIGUSR1
                if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._before[number] = signal.signal(number, self._note)
            ours, self._told = socket.socketpair()
            self._told.setblocking(False)
            self._told_before = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._insist, args=(ours,), daemon=True).start()
        launcher.follow()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._left.set()
        if self._told is not None:
            signal.set_wakeup_fd(self._told_before)
            self._told.close()
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        # Compiled libraries that are converting arguments when a signal comes take its SystemExit for an argument of a
        # wrong type (pybind11, so matplotlib): the end that it asked for, and has been told of, stands.
        if isinstance(error, Exception) and self.exit_code is not None and not self.patient:
            sys.exit(self.exit_code)

    def _note(self, number: int, _frame: object) -> None:
        if number == getattr(signal, "SIGHUP", None):
            leave_the_terminal()
        self.exit_code = _exit_code(number)
        if not self.patient:
            note_at_once(f"stopped {self.words}")
            sys.exit(self.exit_code)

    def _insist(self, told: socket.socket) -> None:
        """End the process where a signal does not; `told` gives the number of each as a byte."""
        first = None
        while number := int.from_bytes(told.recv(1)):
            if number not in self._before:
                continue
            now = time.monotonic()
            if self.patient and (first is None or now - first < GRACE):
                first = first or now
            elif self._left.wait(GRACE):
                return
            else:
                words = "without saving the step under way" if self.patient else self.words
                if is_first_of_machine():
                    console.note(f"stopped {words} (it was waiting for other processes, or for a library)")
                os._exit(_exit_code(number))

    def exit_code_on_all_ranks(self, accelerator: Accelerator) -> int | None:
        """The exit code to stop with once any process was asked to, the same on all processes; else None.

        To be called by all processes at the same step. Running out of time is no failure: its code is 0. Of several
        wishes the highest code counts: SIGTERM, which wants an end, before SIGUSR1, and that before the time.
        """
        code = self.exit_code
        if code is None and time.monotonic() > self.deadline:
            code = 0
        if accelerator.num_processes == 1:
            return code
        wish = torch.tensor(-1 if code is None else code, device=accelerator.device)
        torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
        return None if wish.item() < 0 else int(wish.item())


def _exit_code(number: int) -> int:
    """What a run ends with that a signal has ended: as a shell says it, but for SIGUSR1."""
    return REQUEUE if number == getattr(signal, "SIGUSR1", None) else 128 + number
