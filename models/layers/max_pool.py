"""Max-pooling that keeps little for the backward pass on CPUs, and gives the same bits each time on GPUs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.training_on_cpus import trains_on_cpu

# PyTorch counts places in 64 bits, four times the maxima's own bf16; so there are those of so many images at a time.
IMAGES_AT_ONCE = 128


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, side: int) -> Tensor:
        height, width = images.shape[-2:]
        pooled = _empty(images, (*images.shape[:2], height // side, width // side), images.dtype)
        # Places are below the number of pixels, whatever PyTorch counts them in.
        positions = torch.empty_like(pooled, dtype=torch.int16 if height * width <= 2**15 else torch.int32)
        for some, pooled_out, positions_out in _parts(images, pooled, positions):
            found = torch.empty_like(positions_out, dtype=torch.int64)
            torch.ops.aten.max_pool2d_with_indices.out(some, [side, side], out=pooled_out, indices=found)
            positions_out.copy_(found)
        ctx.save_for_backward(positions)
        ctx.shape, ctx.side = images.shape, side
        return pooled

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        grad_images = _empty(positions, ctx.shape, grad.dtype)
        side = [ctx.side, ctx.side]
        backward = torch.ops.aten.max_pool2d_with_indices_backward.grad_input
        for some, found, out in _parts(grad, positions, grad_images):
            backward(some, out, side, side, [0, 0], [1, 1], False, found.long(), grad_input=out)
        return grad_images, None


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same images of each, some at a time."""
    return zip(*(tensor.split(IMAGES_AT_ONCE) for tensor in tensors), strict=True)


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor in the memory format of `like`."""
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, memory_format=memory_format)


class MaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` of squares side by side, which in a training step on CPUs keeps less.

    That was its input and the places of the maxima in 64 bits (bf16: 16 bytes for four pixels; now 2). The same
    results, bit for bit. Everywhere else it is `nn.MaxPool2d` itself.
    """

    replaces = nn.MaxPool2d

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


class GlobalMaxPool(nn.AdaptiveMaxPool2d):
    """`nn.AdaptiveMaxPool2d(1)`, of which PyTorch has no deterministic gradient on GPUs: there it is a plain maximum.

    Of equal pixels both choose the first, so the bits are the same. On CPUs PyTorch's own is up to five times as fast.
    """

    replaces = nn.AdaptiveMaxPool2d

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu":
            return F.adaptive_max_pool2d(images, 1)
        return images.flatten(2).max(-1)[0][:, :, None, None]
