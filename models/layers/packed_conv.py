"""A 3x3 convolution whose weight gradient is computed on several small images laid side by side."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.training_on_cpus import trains_in_bf16
from models.layers.winograd_conv import WinogradConv2d

PACKED = 4  # images side by side


def pack(images: Tensor) -> Tensor:
    """(B, C, H, W) -> channels_last (B / 4, C, H, 4 (W + 1)): each image is followed by a column of zeros.

    The zeros are what padding by one pixel would put between the images, so that a 3x3 convolution of the row is that
    of each image.
    """
    batch, channels, height, width = images.shape
    row = images.new_zeros(batch // PACKED, height, PACKED, width + 1, channels)
    row[:, :, :, :width] = images.permute(0, 2, 3, 1).unflatten(0, (-1, PACKED)).transpose(1, 2)
    return row.flatten(2, 3).permute(0, 3, 1, 2)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return F.conv2d(images, weight, padding=1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        grads = []
        for wanted, of_images in zip(ctx.needs_input_grad, (True, False), strict=True):
            inputs = (grad, images) if of_images else (pack(grad), pack(images))
            mask = (of_images, not of_images, False)
            both = torch.ops.aten.convolution_backward(
                *inputs, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, mask
            )
            grads.append(both[0 if of_images else 1] if wanted else None)
        return tuple(grads)


class PackedConv2d(WinogradConv2d):
    """`nn.Conv2d` of 3x3 pixels, padding 1 and no bias, faster in training where images are small.

    oneDNN's bf16 weight gradient is slow on maps of few pixels; four of them in a row are one wide map. The same state
    dict and, but for rounding, the same results. Everywhere else it is `nn.Conv2d` itself.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        if torch.jit.is_scripting() or not self._pays(images):
            return self._conv_forward(images, self.weight, self.bias)
        return self._packed(images)

    @torch.jit.unused
    def _pays(self, images: Tensor) -> bool:
        """On CPUs in bf16 with at least 128 channels on maps of at most 8x8 pixels, as measured; and in training."""
        small = max(images.shape[-2:]) <= 8 and min(self.weight.shape[:2]) >= 128
        return trains_in_bf16(images) and small and len(images) % PACKED == 0

    @torch.jit.unused
    def _packed(self, images: Tensor) -> Tensor:
        return _Conv3x3.apply(images.bfloat16(), self.weight.bfloat16())
