"""Convolutions that take in batch norm and activation give the same but for rounding, or are not made."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.factory import create_model
from models.layers.fused_conv import ACTIVATIONS, TOLERANCE, FusedConv2d, fused

IMAGES = torch.randn(4, 3, 50, 47, generator=torch.Generator().manual_seed(1))


def with_statistics(model: nn.Module) -> nn.Module:
    """In evaluation, with batch norms that have seen something and channels that differ."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.normal_(0, 0.2, generator=generator)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 1.5, generator=generator)
    return model.eval().to(memory_format=torch.channels_last)


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


def error(found: Tensor, model: nn.Module, images: Tensor) -> Tensor:
    """The largest, over the largest output; computed in float64, where rounding is no part of it."""
    with torch.no_grad():
        expected = model(images)
        return (found - expected).abs().max() / expected.abs().max()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timm/mobilenetv2_100", {"pad_type": "same"}),
        ("timm/mobilenetv3_small_050", {}),
        ("timm/resnet18", {}),
        ("timm/efficientnet_b0", {}),
        ("timm/regnety_002", {}),
        ("small_cnn", {}),
        ("fcn", {}),
    ],
)
def test_a_network_gives_the_same_with_fewer_layers(name: str, arguments: dict) -> None:
    images = IMAGES[:, :, :32, :32] if "/" not in name else IMAGES
    torch.manual_seed(0)
    model = with_statistics(create_model(name, input_shape=tuple(images.shape[1:]), num_classes=7, **arguments))
    made = fused(model, images[:2])
    assert count(made, FusedConv2d) and count(made, nn.BatchNorm2d) < count(model, nn.BatchNorm2d)
    with torch.no_grad():
        for batch in (images, images[:1], images[:3].contiguous()):
            assert error(made(batch), model, batch) < TOLERANCE / 3
    assert count(model, FusedConv2d) == 0  # it is a copy


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_is_the_one_that_was_there(activation: Callable[[], nn.Module]) -> None:
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation()))
    made = fused(model, IMAGES)
    assert isinstance(made[0], FusedConv2d)
    with torch.no_grad():
        assert error(made(10 * IMAGES), model, 10 * IMAGES) < 1e-5


class Odd(nn.Module):
    """Layers that follow one another only as far as their inputs tell."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.norm, self.act = way, nn.BatchNorm2d(8), nn.ReLU(inplace=way == "in place")
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        out = self.first(images)
        if self.way == "norm twice":
            return self.norm(self.second(self.norm(out)))
        if self.way == "two readers":
            return out + self.norm(out)
        if self.way == "convolution twice":
            return self.norm(self.second(self.second(out)))
        out += 1  # in place, so that the same tensor holds something else
        return self.act(self.norm(out))


@pytest.mark.parametrize("way", ["norm twice", "two readers", "convolution twice", "in place"])
def test_what_does_not_follow_by_itself_is_left_alone(way: str) -> None:
    model = with_statistics(Odd(way))
    made = fused(model, IMAGES)
    with torch.no_grad():
        assert error(made(IMAGES), model, IMAGES) < 1e-5
    assert made is model or count(made, nn.BatchNorm2d)
