"""The moving average of the weights."""

import copy

import torch
from accelerate import Accelerator
from torch import nn

from engine.runtime.sharding import divide_model, own_part


class EMA:
    """An exponential moving average of a model's weights, which is what gets evaluated and kept.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that a short run does not average in its start (as in
    TensorFlow's ExponentialMovingAverage with num_updates). Buffers (batch-norm statistics) are copied.

    Args:
        model: before it is prepared.
        decay: of the average.
        accelerator: where it shards models, it shards the average alike; None: it does not.
    """

    def __init__(self, model: nn.Module, decay: float, accelerator: Accelerator | None = None) -> None:
        average = copy.deepcopy(model).eval().requires_grad_(False)
        self.model = average if accelerator is None else divide_model(average, accelerator)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = ([own_part(parameter) for parameter in of.parameters()] for of in (self.model, model))
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for my_buffer, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            my_buffer.copy_(buffer)
