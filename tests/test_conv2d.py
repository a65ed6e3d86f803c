"""The convolution by hand is nn.Conv2d: constructor, weights, results, gradients, in every way to run a model."""

import copy
import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

import infer
from engine.checkpoints import best_weights
from models.conv2d import Conv2d
from models.factory import create_model
from models.layers import winograd
from tests.driver import Fault, train
from tests.graphs import FORMS, in_form, steps_back
from tests.rounding import (
    assert_more_digits,
    assert_rounds_like,
    in_float64,
    longest_sum,
    times_of_sums,
    times_of_winograd,
)

# Arguments of nn.Conv2d, and the image's (channels, height, width).
GRID = [
    ({"kernel_size": 3}, (3, 8, 8)),
    ({"kernel_size": 1}, (4, 5, 7)),
    ({"kernel_size": 5, "padding": 2, "bias": False}, (3, 9, 6)),
    ({"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}, (2, 7, 8)),
    ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, (4, 9, 10)),
    ({"kernel_size": 3, "dilation": (1, 3), "padding": "same"}, (2, 6, 9)),
    ({"kernel_size": (4, 2), "padding": "same"}, (2, 6, 6)),
    ({"kernel_size": 3, "padding": "valid", "groups": 2}, (4, 6, 6)),
    ({"kernel_size": 3, "padding": 1, "groups": 4, "bias": False}, (4, 6, 5)),
    ({"kernel_size": 3, "stride": 3, "groups": 2, "dilation": 2, "padding": 3}, (6, 11, 8)),
    ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, (3, 6, 6)),
    ({"kernel_size": 3, "padding": 2, "padding_mode": "circular"}, (3, 6, 6)),
    ({"kernel_size": 3, "padding": (2, 1), "padding_mode": "replicate"}, (3, 6, 6)),
]
MANY_CHANNELS = [  # where products are saved
    ({"out_channels": 64, "kernel_size": 3, "padding": 1}, (64, 60, 60)),
    ({"out_channels": 65, "kernel_size": 3, "padding": "same", "bias": False}, (64, 57, 59)),
    ({"out_channels": 64, "kernel_size": 3, "padding": (0, 2)}, (65, 62, 57)),
]
each_case = pytest.mark.parametrize(("arguments", "shape"), GRID, ids=[str(arguments) for arguments, _ in GRID])


def pair(arguments: dict, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> tuple:
    """(native, by hand, images), from the same seed."""
    layers = []
    for layer in (nn.Conv2d, Conv2d):
        torch.manual_seed(0)
        layers.append(layer(shape[0], **{"out_channels": 4, **arguments}, dtype=dtype))
    return *layers, torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def gradients(layer: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    layer.zero_grad()
    images = images.clone().requires_grad_()
    outputs = layer(images)
    outputs.backward(torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs))
    return [outputs, images.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize(("arguments", "shape"), GRID + MANY_CHANNELS, ids=str)
def test_results_and_gradients_are_those_of_nn_conv2d(arguments: dict, shape: tuple) -> None:
    native, by_hand, images = pair(arguments, shape)
    assert list(native.state_dict()) == list(by_hand.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(native.parameters(), by_hand.parameters(), strict=True))
    expected = gradients(native, images)
    exact = gradients(copy.deepcopy(native).double(), images.double())
    if (arguments, shape) in MANY_CHANNELS:  # sums between the products cost digits
        times = times_of_winograd(winograd._tiling(exact[0][:, 0].shape)[0])
    else:
        times = times_of_sums(max(native.weight[0].numel(), exact[0][:, 0].numel()))
    for layout in (torch.contiguous_format, torch.channels_last):
        found = gradients(by_hand, images.contiguous(memory_format=layout))
        for results in zip(found, expected, exact, strict=True):
            assert_rounds_like(*results, times)
    fine = gradients(copy.deepcopy(by_hand).double(), images.double())
    for results in zip(fine, found, exact, strict=True):
        assert_more_digits(*results, times)


@each_case
def test_gradients_are_those_of_the_function(arguments: dict, shape: tuple) -> None:
    _, layer, images = pair(arguments, shape, torch.float64)
    bias = () if layer.bias is None else (layer.bias.detach().requires_grad_(),)

    def convolve(images: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, **({"bias": bias[0]} if bias else {})}, images)

    inputs = (images.requires_grad_(), layer.weight.detach().requires_grad_(), *bias)
    assert torch.autograd.gradcheck(convolve, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(convolve, inputs, fast_mode=True)


def test_in_training_on_cpus_kernels_that_move_by_one_pixel_take_the_faster_way() -> None:
    def way(arguments: dict, shape: tuple[int, int, int]) -> str:
        _, layer, images = pair(arguments, shape)
        return steps_back(layer(images.requires_grad_()))

    assert "_Slide" in way({"kernel_size": 3, "padding": "same"}, (4, 8, 8))
    assert "_Winograd" not in way({"kernel_size": 3, "padding": "same"}, (4, 8, 8))
    assert "_Winograd" in way(*MANY_CHANNELS[0])
    assert "_Slide" not in way(*MANY_CHANNELS[0])
    assert "_Slide" in way(MANY_CHANNELS[0][0], (64, 8, 8))  # too few tiles
    reflect = {"padding": 1, "padding_mode": "reflect"}
    for other in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 3}, reflect):
        assert "_Slide" not in way({"kernel_size": 3, **other}, (4, 8, 8)), other


def test_an_image_without_a_batch_is_convolved_too() -> None:
    native, by_hand, images = pair({"kernel_size": 3, "padding": 1}, (3, 8, 8))
    assert_rounds_like(by_hand(images[0]), native(images[0]), in_float64(native, images[0]), times_of_sums(27))


@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_it_computes_in_bf16_as_the_native_does(stride: int) -> None:
    native, by_hand, images = pair({"kernel_size": 3, "padding": 1, "stride": stride}, (3, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = by_hand(images), native(images)
    assert found.dtype == expected.dtype == torch.bfloat16
    # A rounding each of images, kernels, products and the sum with the bias, of which the native may have one less.
    assert_rounds_like(found, expected, in_float64(native, images), 2)


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 2)])
def test_it_traces_scripts_exports_and_compiles(how: str, stride: int, groups: int) -> None:
    _, layer, images = pair({"kernel_size": 3, "padding": 1, "stride": stride, "groups": groups}, (4, 8, 8))
    found = in_form(how, layer, images)(images)
    assert_rounds_like(found, layer(images), in_float64(layer, images), times_of_sums(36))


@pytest.mark.parametrize("name", ["cnn", "whitened_cnn", "timm/mobilenetv2_100"])
def test_any_model_can_use_it_with_the_same_weights(name: str) -> None:
    models = []
    for conv in ("native", "byhand"):
        torch.manual_seed(0)
        models.append(create_model(name, input_shape=(3, 32, 32), num_classes=10, conv=conv).eval())
    native, by_hand = models
    assert sum(isinstance(module, Conv2d) for module in by_hand.modules()) > 4
    assert all(isinstance(module, Conv2d) for module in by_hand.modules() if isinstance(module, nn.Conv2d))
    other = copy.deepcopy(native)
    other.load_state_dict(by_hand.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    times = times_of_sums(longest_sum(native))
    assert_rounds_like(by_hand(images), native(images), in_float64(native, images), times)


def test_train_and_infer_with_it(tmp_path: Path) -> None:
    options = "--conv byhand --cpu --track none --limit-train 128 --batch-size 32 --epochs 1 --model-arg width=8"
    place = ["--mixed-precision", "no", "--output-dir", str(tmp_path), "--run-name", "run"]
    codes, printed = train([*options.split(), *place], fault=Fault(report=True))
    assert codes == [0], printed
    content = best_weights.load(tmp_path / "run" / "best.pth")
    assert any(isinstance(module, Conv2d) for module in best_weights.restore(content, "")[0].modules())
    AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate refuses a second precision in one process
    infer.infer(infer.parse_infer(["--weights", str(tmp_path / "run" / "best.pth"), "--cpu"]))
    tests = [json.loads((tmp_path / "run" / name / "test.json").read_text()) for name in (".", "best-test")]
    assert tests[0]["accuracy"] == tests[1]["accuracy"]
