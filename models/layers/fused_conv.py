"""Convolutions that do the work of the batch norm and the activation after them, for prediction on CPUs in fp32.

A network of many cheap layers, such as MobileNet, waits for memory: each layer reads and writes all of its maps. Batch
norm in evaluation is a factor and a term for each channel, which a convolution's weights take in, and oneDNN applies
the activation before the outputs have left the cache.
"""

import copy
import sys
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.layers.swap import become, give_back

# What oneDNN calls each, with its arguments, as PyTorch's own compiler hands them to it.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float], str]] = {
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
}
TOLERANCE = 1e-4  # of the largest output; other orders of sums change about 1e-6 of it, a layer left out far more


class FusedConv2d(nn.Conv2d):
    """`nn.Conv2d` followed by an activation, in prediction on CPUs.

    Attributes:
        activation: one of the values of ACTIVATIONS.
    """

    activation: tuple[str, list[float], str]

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = self.padding, self.stride, self.dilation, self.groups
        return torch.ops.mkldnn._convolution_pointwise(images, weight, bias, *geometry, *self.activation)


def fused(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of a model whose convolutions do what follows them too; the model itself where they cannot.

    What follows which layer is told by the tensors: one that comes out of a layer and goes into the next. That it goes
    nowhere else is not told, so the outputs for `inputs` are compared.

    Args:
        model: in evaluation, in fp32 on a CPU.
        inputs: (B, C, H, W), with something of everything in them; the copy takes images of this height and width.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return model
    made = copy.deepcopy(model)
    give_back(made)
    with torch.no_grad():
        _pad_evenly(made, inputs)
        for convolution, norm in _followers(made, inputs, (nn.BatchNorm2d,)):
            _take_in(made, convolution, norm)
        for convolution, activation in _followers(made, inputs, tuple(ACTIVATIONS)):
            convolution.__class__, convolution.activation = FusedConv2d, ACTIVATIONS[type(activation)]
            _replace(made, activation, nn.Identity())
        expected, found = model(inputs), made(inputs)
    close = torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    return made if close else model


def _followers(
    model: nn.Module, inputs: Tensor, kinds: tuple[type[nn.Module], ...]
) -> list[tuple[nn.Conv2d, nn.Module]]:
    """The plain convolutions whose output, as it is, a layer of these kinds is given; each layer is used just once."""
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # tensors are kept, else another could have the same number
    found: list[tuple[nn.Conv2d, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()

    def remember(module: nn.Conv2d, _inputs: tuple, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module, output, output._version

    def look_up(module: nn.Module, args: tuple) -> None:
        calls[module] += 1
        convolution, output, version = made.get(id(args[0]), (None, None, 0))
        if convolution is not None and output._version == version:  # nothing was added to it in place
            found.append((convolution, module))

    hooks = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(remember))
        elif isinstance(module, kinds):
            hooks.append(module.register_forward_pre_hook(look_up))
    model(inputs)
    for hook in hooks:
        hook.remove()
    return [pair for pair in found if all(calls[module] == 1 for module in pair)]


def _take_in(model: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Have a convolution do what the batch norm after it does."""
    if norm.running_mean is None:  # its statistics are those of the batch
        return
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
    convolution.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    _replace(model, norm, getattr(norm, "act", nn.Identity()))  # timm's batch norm has an activation in it


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def _pad_evenly(model: nn.Module, inputs: Tensor) -> None:
    """Make timm's `Conv2dSame` plain convolutions, whose kernels have zeros at the sides where less is padded.

    To pad images of many channels by one pixel takes as long as to convolve them.
    """
    layers = sys.modules.get("timm.layers")  # a model that has such convolutions has imported it
    if layers is None:
        return
    sizes: dict[nn.Conv2d, torch.Size] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, args: sizes.update({module: args[0].shape[2:]}))
        for module in model.modules()
        if type(module) is layers.Conv2dSame and module.dilation == (1, 1)
    ]
    model(inputs)
    for hook in hooks:
        hook.remove()
    for convolution, size in sizes.items():
        sides = zip(size, convolution.kernel_size, convolution.stride, strict=True)
        padded = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side, kernel, stride in sides]
        down, across = (total % 2 for total in padded)  # that one pixel more is padded at the end than at the start
        convolution.weight = nn.Parameter(F.pad(convolution.weight, (across, 0, down, 0)))
        convolution.padding = tuple(-(-total // 2) for total in padded)
        convolution.kernel_size = tuple(convolution.weight.shape[2:])
        become(convolution, nn.Conv2d)
