"""Activation checkpointing: in training most of what a net computes is computed again for the gradient, not kept.

Chen et al. 2016, arXiv:1604.06174. The same bits as without it: dropout draws the same again, and batch norm takes in
each batch once.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import ImpossibleOptions
from models.layers.swap import become


class CheckpointedSequential(nn.Sequential):
    """A sequence of n layers that keeps what goes into each run of about sqrt(n) of them, in training."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        for run in _runs(self):
            input = checkpoint(_run_through, run, input, use_reentrant=False) if _keeps_much(run) else run[0](input)
        return input


def checkpoint_activations(model: nn.Module) -> None:
    """Switch it on: as timm does for its own models, else for the sequences that are children of the net.

    To be called when no layer is replaced any more.

    Raises:
        ImpossibleOptions: the net has no such part.
    """
    if hasattr(model, "set_grad_checkpointing"):
        try:
            model.set_grad_checkpointing(True)
        except AssertionError as error:
            raise ImpossibleOptions(f"--grad-checkpointing: timm has none for this model ({error})") from error
    else:
        sequences = [child for child in model.children() if type(child) is nn.Sequential]
        sequences = [sequence for sequence in sequences if any(map(_keeps_much, _runs(sequence)))]
        if not sequences:
            raise ImpossibleOptions("--grad-checkpointing: this model has no sequence of layers to do it for")
        for sequence in sequences:
            become(sequence, CheckpointedSequential)
    for module in model.modules():
        if _follows_batches(module):
            module.register_forward_pre_hook(_copy_statistics)
            module.register_forward_hook(_put_statistics_back, always_call=True)


def check(model: nn.Module, inputs: Tensor) -> None:
    """Try it on a copy; `inputs` are float32 (B, C, H, W). No random state is used up.

    Raises:
        ImpossibleOptions: it cannot be done, or a layer would take in each batch twice.
    """
    model = copy.deepcopy(model).train()
    checkpoint_activations(model)
    with torch.random.fork_rng([]), torch.enable_grad():
        outputs = model(inputs)
        before = [buffer.clone() for buffer in model.buffers()]
        outputs.float().sum().backward()
    if not all(torch.equal(*pair) for pair in zip(before, model.buffers(), strict=True)):
        raise ImpossibleOptions("--grad-checkpointing: a layer of this model would take in each batch twice")


def _runs(sequence: nn.Sequential) -> list[list[nn.Module]]:
    layers, length = list(sequence), max(1, math.isqrt(len(sequence)))
    return [layers[start : start + length] for start in range(0, len(layers), length)]


def _keeps_much(run: list[nn.Module]) -> bool:
    """Whether it keeps more than what goes into it, which a plain layer does not."""
    return len(run) > 1 or any(run[0].children())


def _run_through(layers: list[nn.Module], input: Tensor) -> Tensor:
    for layer in layers:
        input = layer(input)
    return input


def _follows_batches(module: nn.Module) -> bool:
    """Whether it has running statistics of its own, as batch norm does."""
    return any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))


def _copy_statistics(norm: nn.Module, _inputs: tuple) -> None:
    """Have a norm that is computed again, as it is within a backward pass, change copies of its running statistics."""
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        norm._kept = dict(norm._buffers)
        norm._buffers.update({name: value.clone() for name, value in norm._kept.items() if value is not None})


def _put_statistics_back(norm: nn.Module, _inputs: tuple, _output: object) -> None:
    norm._buffers.update(norm.__dict__.pop("_kept", {}))
