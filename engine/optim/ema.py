"""The moving average of the weights."""

import copy

import torch
from torch import nn

from engine.runtime.sharding import whole


class EMA:
    """An exponential moving average of a model's weights, which is what gets evaluated and kept.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that a short run does not average in its start (as in
    TensorFlow's ExponentialMovingAverage with num_updates). Buffers (batch-norm statistics) are copied. Where the model
    is sharded the average is not: each process has all of it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine = list(self.model.parameters())
        theirs = [whole(parameter).to(mine[0].device) for parameter in model.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for my_buffer, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            my_buffer.copy_(buffer)
