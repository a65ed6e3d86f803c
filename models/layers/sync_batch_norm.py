"""Batch norm whose statistics in training are those of all processes' images, on CPUs as on GPUs."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; every process must take part, in the backward pass too."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, grad)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What `nn.SyncBatchNorm` is on GPUs, on CPUs, for processes with equally many images each.

    In evaluation, and in a single process, it is plain batch norm. Shapes: float (B, C, ...) -> the same.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 on."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        dims, shape = [0, *range(2, input.ndim)], [1, -1, *[1] * (input.ndim - 2)]
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _SumOverProcesses.apply(values.sum(dims)) / count
        centred = values - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = torch.addcmul(self.bias.view(shape), normalised, self.weight.view(shape))
        return normalised.to(input.dtype)

    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics, float (C,), as `nn.BatchNorm2d` does."""
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(unbiased_variance.to(self.running_var), share)


class SyncBatchNormAct(SyncBatchNorm):
    """The same for timm's batch norm with an activation in it."""

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Put synchronised batch norm in the place of every batch norm in `model`, with its very weights and statistics.

    Args:
        model: on any device.
        device: where it will be: PyTorch's own (and timm's) are for GPUs, the ones of this file for CPUs.

    Returns:
        The model, or what takes its place where it is a batch norm itself.
    """
    if device.type != "cpu":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        return _synchronized(model)
    for name, child in model.named_children():
        setattr(model, name, synchronize_batch_norm(child, device))
    return model


def in_words(model: nn.Module, why: str) -> str | None:
    """Whose images several processes' batch norm takes its statistics from, in a line; None where there is none.

    `why` says of synchronized batch norm what it comes from.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return None
    if isinstance(norms[0], SyncBatchNorm | nn.SyncBatchNorm):
        return f"batch norm over the images of all processes ({why})"
    return (
        "batch norm over each process's own images, its running statistics averaged over processes: another number of "
        "processes gives other weights, by more than rounding (--sync-bn: over the images of all)"
    )


def _synchronized(norm: nn.Module) -> SyncBatchNorm:
    with_activation = hasattr(norm, "act") and hasattr(norm, "drop")  # timm's BatchNormAct2d
    kind = SyncBatchNormAct if with_activation else SyncBatchNorm
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if with_activation:
        new.act, new.drop = norm.act, norm.drop
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(norm, name))
    return new.train(norm.training)
