"""Where a convolution may take another way to the same gradients: in training on CPUs in bf16."""

import torch
from torch import Tensor


def trains_in_bf16(images: Tensor) -> bool:
    """Whether `images` lie on a CPU and a training step computes in bf16 there; never while a model is compiled."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return images.device.type == "cpu" and bf16
