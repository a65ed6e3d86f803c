"""The bare model: one forward pass, and one training step without anything around it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from engine.optim.factory import build_optimizer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """PyTorch's own autocast for "no", "bf16" or "fp16"."""
    return torch.autocast(device.type, dtype=DTYPES.get(precision), enabled=precision in DTYPES)


def training_step(
    model: Callable[[Tensor], Tensor],
    parameters: nn.Module,
    options: object,
    precision: str,
    batch: tuple[Tensor, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[], None]:
    """A call that trains `model` on one batch that lies ready.

    The learning rate is 0, which costs the same as any other: else the one batch would be learnt by heart and the
    gradients would end as numbers too small to compute with at full speed.

    Args:
        model: what is called.
        parameters: the module whose parameters are trained.
        options: `optimizer`, `momentum` and `weight_decay` are used.
        precision: "no", "bf16" or "fp16".
        batch: inputs float32 (B, C, H, W) and targets, on the device.
        loss: of outputs and targets.
    """
    inputs, targets = batch
    optimizer = build_optimizer(
        parameters, options.optimizer, lr=0.0, momentum=options.momentum, weight_decay=options.weight_decay
    )
    scaler = torch.amp.GradScaler(inputs.device.type, enabled=precision == "fp16")

    def step() -> None:
        with autocast(inputs.device, precision):
            outputs = model(inputs)
        scaler.scale(loss(outputs, targets)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step
