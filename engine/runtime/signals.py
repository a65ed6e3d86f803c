"""Reasons to end a run early: signals, the clock, and numbers that are no longer numbers."""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from common import console
from common.console import leave_the_terminal, note_at_once
from common.errors import is_first_of_machine
from engine.optim.muon import Muon
from engine.runtime import launcher
from engine.runtime.sharding import whole

GRACE = 3.0  # seconds that the main thread has to obey a signal, and after which a second one is no copy of the first


class StopRequest:
    """Remembers that the run was asked to stop: by SIGTERM, SIGINT, a closed terminal (SIGHUP) or --max-time.

    Used in a `with` statement: signals are heard inside it, and mean what they meant before when it is left. Until
    `patient` is set a signal ends the process at once: nothing has been computed yet. Later ones are noted, and the
    loop asks `agreed` after each step. Signals that are repeated at once change nothing, as torchrun hands on a Ctrl-C
    that the terminal has given to every process already; one more some seconds later ends the process as it is.

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
            for name in ("SIGTERM", "SIGINT", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._before[number] = signal.signal(number, self._note)
            ours, self._told = socket.socketpair()
            self._told.setblocking(False)
            self._told_before = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._insist, args=(ours,), daemon=True).start()
        launcher.follow()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._told is not None:
            signal.set_wakeup_fd(self._told_before)
            self._told.close()
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, _frame: object) -> None:
        if number == getattr(signal, "SIGHUP", None):
            leave_the_terminal()
        self.exit_code = 128 + number
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
                os._exit(128 + number)

    def agreed(self, accelerator: Accelerator) -> int | None:
        """The exit code to stop with once any process was asked to, the same on all processes; else None.

        To be called by all processes at the same step. Running out of time is no failure: its code is 0.
        """
        code = self.exit_code
        if code is None and time.monotonic() > self.deadline:
            code = 0
        if accelerator.num_processes == 1:
            return code
        wish = torch.tensor(-1 if code is None else code, device=accelerator.device)
        torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
        return None if wish.item() < 0 else int(wish.item())


class FiniteGuard:
    """Ends a run at the first step whose loss or gradient is not finite, before its update.

    The gradient is the same on every process, so all of them see the fault at the same step. Looking makes a GPU
    wait, so there the optimizer is told on the device to skip that update and all later ones, and the host looks
    at every tenth step only: it finds the weights as they were before the fault.

    Args:
        accelerator: of the run.
        optimizer: a fused one, or Muon, can skip an update on the device; with another one every step is looked at.
        ids_at: step -> this process's sample ids, to name them.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: AcceleratedOptimizer,
        ids_at: Callable[[int], np.ndarray],
    ) -> None:
        self.accelerator, self.optimizer, self.ids_at = accelerator, optimizer, ids_at
        waits_anyway = accelerator.device.type == "cpu" or accelerator.scaler is not None
        self.look_every = 1 if waits_anyway else 10
        skips = optimizer.param_groups[0].get("fused") or isinstance(optimizer.optimizer, Muon)
        self.defers = self.look_every > 1 and bool(skips)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=accelerator.device)
        self.loss_is_finite = torch.ones((), dtype=torch.bool, device=accelerator.device)

    def watch(self, loss: Tensor) -> None:
        """Take note of a micro-batch's loss."""
        self.loss_is_finite = self.loss_is_finite & torch.isfinite(loss.detach())

    def check(self, model: nn.Module, step: int) -> None:
        """To be called between backward and update of `step` (from 0).

        Raises:
            SystemExit: with a line that names the step, the processes and their samples.
        """
        finite = self.loss_is_finite
        if self.accelerator.scaler is None:  # with fp16 a gradient overflows as a matter of course: the scaler's job
            norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            finite = finite & torch.isfinite(whole(norm))
        self.bad_step = torch.where(finite | (self.bad_step >= 0), self.bad_step, step)
        if self.defers:
            self.optimizer.optimizer.found_inf = (self.bad_step >= 0).float()
        if not self.defers or step % self.look_every == 0:
            self.look()

    def look(self) -> None:
        """End the run if anything was not finite; called by all processes at the same step."""
        bad_step = self.bad_step
        if self.accelerator.num_processes > 1:
            bad_step = bad_step.clone()
            torch.distributed.all_reduce(bad_step, torch.distributed.ReduceOp.MAX)
        step = int(bad_step.item())
        if step < 0:
            return
        rank = self.accelerator.process_index
        mine = None if self.loss_is_finite.item() else f"process {rank}, samples {self.ids_at(step).tolist()}"
        where = "; ".join(filter(None, gather_object([mine]))) or "all processes, in the gradient only"
        message = (
            f"the loss or gradient is not finite at step {step} ({where}). The weights were not updated and the last "
            "checkpoint stays; a smaller --lr, --clip-grad 1, or --mixed-precision no may help"
        )
        if self.accelerator.is_main_process:
            print(f"error: {message}", file=sys.stderr, flush=True)
        sys.exit(1)
