"""Strided depthwise convolutions whose input gradient is computed in fp32, which on CPUs is far faster than in bf16."""

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.swap import become
from models.layers.training_on_cpus import trains_in_bf16


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, stride: tuple, padding: tuple, dilation: tuple) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(images, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        geometry = None, *ctx.geometry, False, (0, 0), len(weight)
        backward = torch.ops.aten.convolution_backward
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            wide = torch.promote_types(images.dtype, torch.float32)
            like_images = torch.empty_like(images, dtype=wide)  # only its shape is used
            of_images = backward(grad.to(wide), like_images, weight.to(wide), *geometry, (True, False, False))[0]
            of_images = of_images.to(images.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = backward(grad, images, weight, *geometry, (False, True, False))[1]
        return of_images, of_weight, None, None, None


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with a filter for each channel, a stride, and padding by zeros; faster in training.

    oneDNN 3 takes a kernel for dense convolutions to compute the bf16 input gradient of these, which is 30 to 400 times
    as slow as its fp32 one. The same state dict and, but for rounding, the same results.
    """

    replaces = nn.Conv2d

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting() or bias is not None or not self._pays(images):
            # Not super(), which TorchScript does not find from a subclass.
            return F.conv2d(images, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return self._strided(images)

    @torch.jit.unused
    def _pays(self, images: Tensor) -> bool:
        """In training on CPUs in bf16, where autocast chooses it."""
        return trains_in_bf16(images)

    @torch.jit.unused
    def _strided(self, images: Tensor) -> Tensor:
        return _Strided.apply(images.bfloat16(), self.weight.bfloat16(), self.stride, self.padding, self.dilation)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """The same of timm's `Conv2dSame`, which pads as TensorFlow does before it convolves without padding."""

    replaces = Conv2dSame

    def forward(self, images: Tensor) -> Tensor:
        padded = pad_same(images, self.kernel_size, self.stride, self.dilation)
        return self._conv_forward(padded, self.weight, self.bias)


def mend_depthwise(model: nn.Module) -> None:
    """Make the strided depthwise convolutions in a model of timm's the ones above, with the weights that they have."""
    mended = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}
    for module in model.modules():
        if type(module) not in mended or max(module.stride) == 1:
            continue
        if isinstance(module.padding, str) or module.padding_mode != "zeros":
            continue
        if module.groups == module.in_channels == module.out_channels > 1:
            become(module, mended[type(module)])
