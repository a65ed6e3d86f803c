"""3x3 convolutions that in fp32 training on CPUs take a third to a sixth of the multiplications."""

import torch
from torch import Tensor, nn

from models.layers import one_position, winograd
from models.layers.one_position import OnePositionConv2d
from models.layers.swap import become
from models.layers.training_on_cpus import trains_on_cpu


class WinogradConv2d(OnePositionConv2d):
    """`nn.Conv2d` of 3x3 pixels that moves by one and pads with zeros; faster in training in fp32 on CPUs, and as
    `OnePositionConv2d` is where its output has one position.

    The same state dict and, but for rounding, the same results. Everywhere else it is `nn.Conv2d` itself.
    """

    @torch.jit.unused
    def _another_way_pays(self, images: Tensor) -> bool:
        return one_position.pays(images, self) or self._few_products_pay(images)

    @torch.jit.unused
    def _another_way(self, images: Tensor) -> Tensor:
        return one_position.convolve(images, self) if one_position.pays(images, self) else self._winograd(images)

    @torch.jit.unused
    def _few_products_pay(self, images: Tensor) -> bool:
        """In training on CPUs without autocast, between many channels."""
        if not trains_on_cpu(images) or torch.is_autocast_enabled("cpu") or images.ndim != 4:
            return False
        return _many_channels(self) and winograd.pays(images, self.weight, self._reversed_padding_repeated_twice)

    @torch.jit.unused
    def _winograd(self, images: Tensor) -> Tensor:
        return winograd.convolve(images, self.weight, self.bias, self._reversed_padding_repeated_twice)


def _many_channels(convolution: nn.Conv2d) -> bool:
    """As measured: 64 to 256 and 128 to 128 pay, 64 to 128 do not."""
    ins, outs = convolution.in_channels, convolution.out_channels
    return min(ins, outs) >= 64 and ins * outs >= 128 * 128


def save_products(model: nn.Module) -> None:
    """Make the plain 3x3 convolutions between many channels the ones above, with the weights that they have."""
    for module in model.modules():
        if type(module) is not nn.Conv2d or module.kernel_size != (3, 3) or module.padding_mode != "zeros":
            continue
        if module.stride == module.dilation == (1, 1) and module.groups == 1 and _many_channels(module):
            become(module, WinogradConv2d)
