"""A convolution whose output has one position is nn.Conv2d: the same outputs, gradients and state dict."""

import copy

import pytest
import torch
from torch import nn

from models.factory import create_model
from models.layers import one_position
from models.layers.one_position import OnePositionConv2d
from models.layers.swap import become, give_back
from tests.rounding import assert_rounds_like, longest_sum, times_of_sums


@pytest.mark.parametrize(
    ("side", "options"),
    [
        ((1, 1), {"kernel_size": 3, "padding": 1}),
        ((1, 1), {"kernel_size": 3, "padding": "same"}),
        ((2, 2), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((1, 2), {"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 3), "bias": False}),
        ((2, 1), {"kernel_size": 2, "padding": (0, 1), "stride": (1, 3)}),
    ],
)
def test_the_results_are_conv2ds(side: tuple[int, int], options: dict) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 5, **options).double()
    ours = copy.deepcopy(plain)
    become(ours, OnePositionConv2d)
    images = torch.randn(4, 6, *side, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert one_position.pays(images, ours)
    results = []
    for convolution in (ours, plain):
        given = images.clone().requires_grad_()
        outputs = convolution(given)
        grads = torch.autograd.grad(outputs.square().sum(), [given, *convolution.parameters()])
        results.append([outputs, *grads])
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "options"),
    [
        ((2, 2), {"kernel_size": 3, "padding": 1}),  # four positions
        ((3, 3), {"kernel_size": 3, "padding": 0}),  # no tap on padding
        ((4, 4), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((1, 1), {"kernel_size": 3, "padding": 1, "groups": 2}),
        ((1, 1), {"kernel_size": 3, "padding": 2, "dilation": 2}),
    ],
)
def test_elsewhere_it_is_conv2d_itself(side: tuple[int, int], options: dict) -> None:
    images = torch.randn(2, 4, *side)
    assert not one_position.pays(images, nn.Conv2d(4, 4, **options))
    with torch.no_grad():
        assert not one_position.pays(torch.randn(2, 4, 1, 1), nn.Conv2d(4, 4, 3, padding=1))


def test_a_resnet_on_small_images_learns_what_it_did() -> None:
    torch.manual_seed(0)
    ours = create_model("timm/resnet18", input_shape=(3, 32, 32), num_classes=4)
    plain = copy.deepcopy(ours)
    give_back(plain)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    met = []
    for module in ours.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda conv, inputs: met.append(one_position.pays(inputs[0], conv)))
    images = torch.randn(8, 3, 32, 32)
    grads = []
    for net in (ours, plain, copy.deepcopy(plain).double()):
        net(images.to(next(net.parameters()).dtype)).square().sum().backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
    assert sum(met) == 4  # all 3x3 convolutions of the last stage
    assert_rounds_like(*grads, times_of_sums(longest_sum(plain)))
