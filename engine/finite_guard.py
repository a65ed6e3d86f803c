"""The end of a run whose numbers are no longer numbers, before they reach the weights."""

import sys
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils import get_total_norm

from common import console
from engine.optim.muon import Muon
from engine.runtime.sharding import whole


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
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        waits_anyway = accelerator.device.type == "cpu" or accelerator.scaler is not None
        self.look_every = 1 if waits_anyway else 10
        skips = optimizer.param_groups[0].get("fused") or isinstance(optimizer.optimizer, Muon)
        self.defers = self.look_every > 1 and bool(skips)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=accelerator.device)
        self.loss_is_finite = torch.ones((), dtype=torch.bool, device=accelerator.device)

    def observe(self, loss: Tensor) -> None:
        """Take note of a micro-batch's loss."""
        self.loss_is_finite = self.loss_is_finite & _is_finite(loss.detach())

    def check(self, step: int) -> None:
        """To be called between backward and update of `step` (from 0).

        Raises:
            SystemExit: with a line that names the step, the processes and their samples.
        """
        finite = self.loss_is_finite
        if self.accelerator.scaler is None:  # with fp16 a gradient overflows as a matter of course: the scaler's job
            norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            finite = finite & _is_finite(whole(norm))
        self.bad_step = torch.where(finite | (self.bad_step >= 0), self.bad_step, step)
        if self.defers:
            self.optimizer.optimizer.found_inf = (self.bad_step >= 0).float()
        if not self.defers or step % self.look_every == 0:
            self.raise_if_nonfinite()

    def raise_if_nonfinite(self) -> None:
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
            console.note(f"error: {message}")
        sys.exit(1)


def _is_finite(value: Tensor) -> Tensor:
    """`torch.isfinite` in two operations instead of four, asked at every step: infinity less itself is not a number."""
    return value - value == 0
