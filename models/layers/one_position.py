"""Convolutions over maps so small that the output has one position: a matrix product with the taps that meet the map.

The last stage of a ResNet comes to that on images of 32 pixels: a 3x3 kernel over one pixel. PyTorch's own convolution
multiplies the padding too, and its backward pass by nine taps of ten million weights takes 40 % of a training step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.swap import become
from models.layers.training_on_cpus import trains_on_cpu

MANY_CHANNELS = 64  # below, a step has nothing to gain


def pays(images: Tensor, convolution: nn.Conv2d) -> bool:
    """Whether it is a step of training on CPUs, the output has one position, and some taps lie on padding."""
    if not trains_on_cpu(images) or images.ndim != 4 or convolution.dilation != (1, 1) or convolution.groups != 1:
        return False
    left, right, top, bottom = convolution._reversed_padding_repeated_twice
    pairs = zip(images.shape[2:], ((top, bottom), (left, right)), convolution.kernel_size, strict=True)
    beyond = [side + before + after - kernel for side, (before, after), kernel in pairs]
    one = all(0 <= rest < step for rest, step in zip(beyond, convolution.stride, strict=True))
    taps = convolution.kernel_size[0] * convolution.kernel_size[1]
    return one and images.shape[2] * images.shape[3] < taps


def convolve(images: Tensor, convolution: nn.Conv2d) -> Tensor:
    """(B, C, H, W) -> (B, O, 1, 1), the same as the convolution but for rounding, where `pays` says so."""
    left, _, top, _ = convolution._reversed_padding_repeated_twice
    rows = min(images.shape[2], convolution.kernel_size[0] - top)
    columns = min(images.shape[3], convolution.kernel_size[1] - left)
    met = convolution.weight[:, :, top : top + rows, left : left + columns]
    product = F.linear(images[:, :, :rows, :columns].flatten(1), met.flatten(1), convolution.bias)
    return product[:, :, None, None]


class OnePositionConv2d(nn.Conv2d):
    """`nn.Conv2d` that pads with zeros, in one group; faster in training on CPUs where its output has one position.

    The same state dict and, but for rounding, the same results. Everywhere else it is `nn.Conv2d` itself.
    """

    replaces = nn.Conv2d

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting() or not self._another_way_pays(images):
            # Not super(), which TorchScript does not find from a subclass.
            return F.conv2d(images, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return self._another_way(images)

    @torch.jit.unused
    def _another_way_pays(self, images: Tensor) -> bool:
        return pays(images, self)

    @torch.jit.unused
    def _another_way(self, images: Tensor) -> Tensor:
        return convolve(images, self)


def mend_small_maps(model: nn.Module) -> None:
    """Make the plain padded convolutions between many channels the ones above, with the weights that they have."""
    for module in model.modules():
        if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or module.groups > 1:
            continue
        if min(module.in_channels, module.out_channels) < MANY_CHANNELS:
            continue
        if max(module.kernel_size) > 1 and module.dilation == (1, 1) and any(module._reversed_padding_repeated_twice):
            become(module, OnePositionConv2d)
