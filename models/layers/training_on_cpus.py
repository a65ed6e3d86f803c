"""Where a layer may take another way to the same gradients: in training on CPUs."""

import torch
from torch import Tensor


def trains_on_cpu(images: Tensor) -> bool:
    """Whether `images` lie on a CPU and are part of a training step; never while a model is compiled or traced."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return images.device.type == "cpu"


def trains_in_bf16(images: Tensor) -> bool:
    """Whether that step computes in bf16."""
    bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return trains_on_cpu(images) and bf16
