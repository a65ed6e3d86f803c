"""Max-pooling that keeps little for the backward pass: not its input, of which but the shape is looked at there."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.training_on_cpus import trains_on_cpu


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, side: int) -> Tensor:
        pooled, places = torch.ops.aten.max_pool2d_with_indices(images, [side, side])
        pixels = images.shape[-2] * images.shape[-1]
        ctx.save_for_backward(places.to(torch.int16 if pixels <= 2**15 else torch.int32))  # from int64
        ctx.shape, ctx.side = images.shape, side
        return pooled

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        channels_last = places.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        like_images = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=memory_format)
        side = [ctx.side, ctx.side]
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(grad, like_images, side, side, [0, 0], [1, 1], False, places.long()), None


class MaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` of squares side by side, which in a training step on CPUs keeps less.

    That was its input and the places of the maxima in 64 bits (bf16: 16 bytes for four pixels; now 2). The same
    results, bit for bit. Everywhere else it is `nn.MaxPool2d` itself.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side)

    def forward(self, images: Tensor) -> Tensor:
        if torch.jit.is_scripting() or not self._trains(images):
            return F.max_pool2d(images, self.kernel_size)
        return self._pooled(images)

    @torch.jit.unused
    def _trains(self, images: Tensor) -> bool:
        return trains_on_cpu(images)

    @torch.jit.unused
    def _pooled(self, images: Tensor) -> Tensor:
        return _MaxPool.apply(images, self.kernel_size)
