"""PackedConv2d is nn.Conv2d: the same state dict, outputs and gradients; packed or not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.layers.packed_conv import PackedConv2d, _Conv3x3, pack
from tests.rounding import assert_rounds_like


@pytest.mark.parametrize("shape", [(4, 3, 7, 7), (8, 2, 3, 5), (12, 1, 1, 1)])
def test_the_gradients_are_conv2ds_exactly(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, shape[1], 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.equal(_Conv3x3.apply(images, weight), F.conv2d(images, weight, padding=1))
    grad = torch.randn(shape[0], 6, *shape[2:], generator=generator, dtype=torch.float64)
    packed = torch.autograd.grad(_Conv3x3.apply(images, weight), (images, weight), grad)
    plain = torch.autograd.grad(F.conv2d(images, weight, padding=1), (images, weight), grad)
    for found, expected in zip(packed, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(_Conv3x3.apply, (images[:4, :, :3, :3], weight[:2]))


def test_packed_rows_hold_four_images_with_zeros_between() -> None:
    images = torch.arange(1, 1 + 8 * 2 * 2 * 3).view(8, 2, 2, 3)
    rows = pack(images)
    assert rows.shape == (2, 2, 2, 16)
    for number in range(4):
        assert torch.equal(rows[1, :, :, 4 * number : 4 * number + 3], images[4 + number])
        assert not rows[1, :, :, 4 * number + 3].any()


def test_it_is_nn_conv2d_with_its_state_dict_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    packed, plain = PackedConv2d(128, 128), nn.Conv2d(128, 128, 3, padding=1, bias=False)
    plain.load_state_dict(packed.state_dict())
    images = torch.randn(8, 128, 7, 7)
    assert torch.equal(packed(images), plain(images))
    found, expected, exact = [], [], []
    for conv, seen in ((packed, found), (plain, expected), (copy.deepcopy(plain).double(), exact)):
        inputs = images.to(conv.weight.dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=seen is not exact):
            outputs = conv(inputs)
        outputs.to(conv.weight.dtype).square().sum().backward()
        seen += [outputs, inputs.grad, conv.weight.grad]
    assert "_Conv3x3" in type(found[0].grad_fn).__name__  # what is compared here was packed
    for results in zip(found, expected, exact, strict=True):
        assert_rounds_like(*results, 2)  # images, kernels and results are rounded to bf16 either way


def test_what_is_large_narrow_or_of_an_odd_count_is_not_packed() -> None:
    def packs(channels: int, *shape: int) -> bool:
        with torch.autocast("cpu", torch.bfloat16):
            return PackedConv2d(channels, channels)._pays(torch.zeros(shape[0], channels, *shape[1:]))

    assert packs(128, 4, 8, 8)
    assert not packs(128, 4, 8, 9)
    assert not packs(64, 4, 8, 8)
    assert not packs(128, 6, 8, 8)
    with torch.no_grad():
        assert not packs(128, 4, 8, 8)
