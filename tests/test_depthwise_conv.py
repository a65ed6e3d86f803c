"""DepthwiseConv2d is nn.Conv2d, and its Same is timm's: the same state dict, outputs and gradients; mended or not."""

import copy
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from models.factory import create_model
from models.layers.depthwise_conv import DepthwiseConv2d, DepthwiseConv2dSame, _Strided
from tests.rounding import assert_rounds_like, in_float64, longest_sum, times_of_sums


@pytest.mark.parametrize(
    ("shape", "kernel", "padding", "dilation"),
    [((2, 3, 7, 8), 3, (1, 1), (1, 1)), ((1, 4, 9, 6), 5, (2, 0), (1, 1)), ((2, 2, 9, 9), 3, (0, 0), (2, 1))],
)
def test_the_gradients_are_conv2ds_exactly(shape: tuple, kernel: int, padding: tuple, dilation: tuple) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[1], 1, kernel, kernel, generator=generator, dtype=torch.float64, requires_grad=True)
    geometry = (2, 2), padding, dilation
    ours, plain = _Strided.apply(images, weight, *geometry), F.conv2d(images, weight, None, *geometry, shape[1])
    assert torch.equal(ours, plain)
    grad = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    found, expected = (torch.autograd.grad(outputs, (images, weight), grad) for outputs in (ours, plain))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("pad_type", "kind"), [("", DepthwiseConv2d), ("same", DepthwiseConv2dSame)])
def test_a_net_of_timm_is_the_same_net_with_them(pad_type: str, kind: type) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv2_035", num_classes=4, pad_type=pad_type)
    arguments = {"input_shape": (3, 33, 33), "num_classes": 4, "pad_type": pad_type}
    mended = create_model("timm/mobilenetv2_035", **arguments)
    mended.load_state_dict(plain.state_dict())
    assert sum(type(module) is kind for module in mended.modules()) == 4
    images = torch.randn(4, 3, 33, 33).contiguous(memory_format=torch.channels_last)
    assert torch.equal(mended.eval()(images), plain.eval()(images))
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and still asked for
        scripted = torch.jit.script(mended)(images)
    assert_rounds_like(scripted, plain(images), in_float64(plain, images), times_of_sums(longest_sum(plain)))
    outputs, grads = [], []
    for net in (mended.train(), plain.train(), copy.deepcopy(plain).double()):
        dtype = net.conv_stem.weight.dtype
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            outputs.append(net(images.to(dtype)).to(dtype))
        outputs[-1].square().sum().backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
    assert torch.equal(*outputs[:2])
    assert_rounds_like(*grads, 2)  # in bf16 either way, and a rounding more or less


def test_they_are_used_where_they_pay_alone() -> None:
    conv = nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False)
    conv.__class__ = DepthwiseConv2d
    images = torch.randn(1, 4, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert "_Strided" in type(conv(images).grad_fn).__name__
        with torch.no_grad():
            assert conv(images).grad_fn is None
    assert "_Strided" not in type(conv(images).grad_fn).__name__
    torch.testing.assert_close(torch.jit.trace(conv, images)(images), conv(images))
