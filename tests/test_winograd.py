"""Winograd's convolution is nn.Conv2d's but for rounding, gradients and theirs too; and it is used where it pays."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
from models.layers import winograd
from models.layers.winograd_conv import WinogradConv2d, save_products
from tests.graphs import FORMS, in_form, steps_back

ALL = (1, 1, 1, 1)
# Images, their height and width, padding (left, right, top, bottom), and the side of the tiles.
CASES = [
    (1, (4, 4), ALL, 3),  # of all sizes, as few tiles need the kernels brought for
    (100, (3, 3), ALL, 3),
    (100, (4, 8), ALL, 4),
    (150, (5, 10), ALL, 5),  # in parts, of which the last may be smaller
    (300, (5, 6), ALL, 6),
    (310, (7, 13), ALL, 7),
    (100, (6, 2), (2, 2, 0, 0), 4),
    (20, (4, 6), (0, 2, 1, 0), 3),
    (1, (3, 3), (0, 0, 0, 0), 3),  # one pixel
    (1, (1, 2), (2, 2, 2, 2), 3),
]


def inputs(images: int, size: tuple[int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = (images, 5, *size), (6, 5, 3, 3)
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def plain(images: torch.Tensor, weight: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    return F.conv2d(F.pad(images, padding), weight)


@pytest.mark.parametrize(("images", "size", "padding", "side"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_conv2ds(
    images: int, size: tuple, padding: tuple, side: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 64 // torch.get_num_threads())
    arguments = inputs(images, size, dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = winograd.convolve(arguments[0].contiguous(memory_format=layout), arguments[1], None, padding)
        expected = plain(*arguments, padding)
        assert winograd._tiling((images, *found.shape[2:]))[0] == side
        assert found.is_contiguous(memory_format=torch.channels_last)
        grad = torch.randn(found.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        found_grads, expected_grads = (torch.autograd.grad(y, arguments, grad) for y in (found, expected))
        tolerance = 2e-5 if dtype == torch.float32 else 1e-13
        for one, other in zip((found, *found_grads), (expected, *expected_grads), strict=True):
            assert one.shape == other.shape
            assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize(("images", "size", "padding", "side"), [case for case in CASES if case[0] < 4])
def test_gradients_are_those_of_the_function_and_so_are_theirs(
    images: int, size: tuple, padding: tuple, side: int
) -> None:
    arguments = inputs(images, size, torch.float64)

    def convolve(*arguments: torch.Tensor) -> torch.Tensor:
        return winograd.convolve(*arguments, None, padding)

    assert torch.autograd.gradcheck(convolve, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(convolve, arguments, fast_mode=True)


def test_the_tiles_are_those_with_the_fewest_products() -> None:
    found = {size: winograd._tiling((1000, size, size)) for size in (3, 4, 5, 6, 7, 8, 15, 16, 28)}
    one = {size: (size, 1, 1) for size in (3, 4, 5, 6, 7)}
    assert found == one | {8: (4, 2, 2), 15: (5, 3, 3), 16: (4, 4, 4), 28: (7, 4, 4)}
    assert winograd._tiling((16, 7, 7)) == (4, 2, 2)  # of few images, smaller ones: kernels are brought to less space


def net() -> nn.Sequential:
    torch.manual_seed(0)
    wide = nn.Conv2d(128, 128, 3, padding=1)
    return nn.Sequential(wide, nn.ReLU(), nn.Conv2d(128, 128, 3, padding="same", bias=False))


def test_a_model_with_it_has_the_same_state_dict_results_and_gradients() -> None:
    ours, theirs = net(), net()
    save_products(ours)
    assert [type(layer) for layer in ours] == [WinogradConv2d, nn.ReLU, WinogradConv2d]
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(80, 128, 8, 8).contiguous(memory_format=torch.channels_last)
    assert steps_back(ours(images)).count("_Winograd") == 2
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    outputs = [ours(images), theirs(images)]
    for y in outputs:
        y.square().sum().backward()
    found, expected = ((y, *(p.grad for p in m.parameters())) for y, m in zip(outputs, (ours, theirs), strict=True))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 2e-5 * other.norm()


def test_what_is_computed_again_is_the_same_bit_for_bit() -> None:
    layer = WinogradConv2d(128, 128, 3, padding=1)
    images = torch.randn(80, 128, 8, 8)
    grads = []
    for one in (layer, copy.deepcopy(layer)):
        one(images).square().sum().backward()
        grads.append(one.weight.grad)
    assert torch.equal(*grads)


def test_it_is_used_where_it_pays_alone() -> None:
    layer = WinogradConv2d(128, 128, 3, padding=1)
    images = torch.randn(64, 128, 8, 8)
    assert "_Winograd" in steps_back(layer(images))
    assert "_Winograd" not in steps_back(layer(images[:10]))  # few tiles
    assert "_Winograd" not in steps_back(layer(torch.randn(300, 128, 2, 2)))
    assert "_Winograd" not in steps_back(WinogradConv2d(64, 128, 3, padding=1)(images[:, :64]))
    assert "_Winograd" in steps_back(WinogradConv2d(64, 256, 3, padding=1)(images[:, :64]))
    with torch.autocast("cpu", torch.bfloat16):
        assert "_Winograd" not in steps_back(layer(images))
    for other in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "reflect"}):
        model = nn.Sequential(nn.Conv2d(128, 128, 3, **{"padding": 1, **other}))
        save_products(model)
        assert type(model[0]) is nn.Conv2d, other


@pytest.mark.parametrize("how", FORMS)
def test_it_traces_scripts_exports_and_compiles(how: str) -> None:
    model, images = net(), torch.randn(80, 128, 8, 8)
    save_products(model)
    torch.testing.assert_close(in_form(how, model, images)(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("cnn", 3), ("whitened_cnn", 6), ("timm/resnet18", 9)])
def test_our_models_and_timms_have_it(name: str, count: int) -> None:
    model = models.create_model(name, input_shape=(3, 32, 32), num_classes=10)
    assert sum(isinstance(module, WinogradConv2d) for module in model.modules()) == count
