"""Winograd's convolution is nn.Conv2d's but for rounding, gradients and theirs too; and it is used where it pays."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.factory import create_model
from models.layers import winograd
from models.layers.winograd_conv import WinogradConv2d, save_products
from tests.graphs import FORMS, in_form, steps_back
from tests.rounding import amplification, assert_more_digits, assert_rounds_like, times_of_winograd

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


def inputs(images: int, size: tuple[int, int]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).double() for shape in ((images, 5, *size), (6, 5, 3, 3))]


def plain(images: torch.Tensor, weight: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    return F.conv2d(F.pad(images, padding), weight)


def both_ways(convolve: Callable, arguments: list[torch.Tensor], padding: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """(outputs, gradient of the images, gradient of the weight)."""
    arguments = [argument.requires_grad_() for argument in arguments]
    outputs = convolve(*arguments, padding)
    grad = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs.dtype)
    return outputs, *torch.autograd.grad(outputs, arguments, grad)


def convolve(images: torch.Tensor, weight: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    return winograd.convolve(images, weight, None, padding)


@pytest.mark.parametrize(("images", "size", "padding", "side"), CASES)
def test_outputs_and_gradients_are_conv2ds(
    images: int, size: tuple, padding: tuple, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 64 // torch.get_num_threads())
    exact = both_ways(plain, inputs(images, size), padding)
    assert winograd._tiling((images, *exact[0].shape[2:]))[0] == side
    expected = both_ways(plain, [argument.float() for argument in inputs(images, size)], padding)
    for layout in (torch.contiguous_format, torch.channels_last):
        arguments = [argument.contiguous(memory_format=layout) for argument in inputs(images, size)]
        found = both_ways(convolve, [argument.float() for argument in arguments], padding)
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        for results in zip(found, expected, exact, strict=True):
            assert_rounds_like(*results, times_of_winograd(side))
        for results in zip(both_ways(convolve, arguments, padding), found, exact, strict=True):
            assert_more_digits(*results, times_of_winograd(side))


@pytest.mark.parametrize(("images", "size", "padding", "side"), [case for case in CASES if case[0] < 4])
def test_gradients_are_those_of_the_function_and_so_are_theirs(
    images: int, size: tuple, padding: tuple, side: int
) -> None:
    arguments = [argument.requires_grad_() for argument in inputs(images, size)]
    assert torch.autograd.gradcheck(lambda *of: convolve(*of, padding), arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *of: convolve(*of, padding), arguments, fast_mode=True)


@pytest.mark.parametrize("side", winograd.POINTS)
def test_the_points_are_those_that_lose_the_fewest_digits(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    least, points = amplification(side), winograd.POINTS[side]
    for number, way in itertools.product(range(len(points)), (-0.05, 0.05)):
        moved = [*points[:number], points[number] + way, *points[number + 1 :]]
        monkeypatch.setitem(winograd.POINTS, side, moved)
        winograd._matrices.cache_clear()
        assert amplification(side) > least, moved
    winograd._matrices.cache_clear()


def test_the_tiles_are_those_with_the_fewest_products() -> None:
    found = {size: winograd._tiling((1000, size, size)) for size in (3, 4, 5, 6, 7, 8, 15, 16, 28)}
    one = {size: (size, 1, 1) for size in (3, 4, 5, 6, 7)}
    assert found == one | {8: (4, 2, 2), 15: (5, 3, 3), 16: (4, 4, 4), 28: (7, 4, 4)}
    assert winograd._tiling((16, 7, 7)) == (4, 2, 2)  # of few images, smaller ones: kernels are brought to less space


def net() -> nn.Sequential:
    """Smooth, as a ReLU makes all or nothing of a difference in the last digit."""
    torch.manual_seed(0)
    wide = nn.Conv2d(128, 128, 3, padding=1)
    return nn.Sequential(wide, nn.Tanh(), nn.Conv2d(128, 128, 3, padding="same", bias=False))


def results(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    outputs = model(images)
    outputs.square().sum().backward()
    return [outputs, *(parameter.grad for parameter in model.parameters())]


def test_a_model_with_it_has_the_same_state_dict_results_and_gradients() -> None:
    ours, theirs, exact = net(), net(), net().double()
    save_products(ours)
    assert [type(layer) for layer in ours] == [WinogradConv2d, nn.Tanh, WinogradConv2d]
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(80, 128, 8, 8).contiguous(memory_format=torch.channels_last)
    assert steps_back(ours(images)).count("_Winograd") == 2
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    for three in zip(results(ours, images), results(theirs, images), results(exact, images.double()), strict=True):
        assert_rounds_like(*three, times_of_winograd(4))


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
    found = in_form(how, model, images)(images)
    assert_rounds_like(found, net()(images), net().double()(images.double()), times_of_winograd(4))


@pytest.mark.parametrize(("name", "count"), [("cnn", 3), ("whitened_cnn", 6), ("timm/resnet18", 9)])
def test_our_models_and_timms_have_it(name: str, count: int) -> None:
    model = create_model(name, input_shape=(3, 32, 32), num_classes=10)
    assert sum(isinstance(module, WinogradConv2d) for module in model.modules()) == count
