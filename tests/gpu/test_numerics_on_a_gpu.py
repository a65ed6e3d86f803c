"""A GPU augments to the CPU's very bits, and its memory formats and compilers compute what plain eager does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from data.augment.batch import Augment, parse
from models.factory import create_model
from models.layers.max_pool import GlobalMaxPool
from tests.test_augment import FILL, IMAGE_SPECS, MIX_SPECS, noise


@pytest.mark.parametrize("spec", IMAGE_SPECS)
@pytest.mark.parametrize("shape", [(32, 32, 1), (32, 32, 3), (30, 27, 3)])  # powers of 2 divide without rounding
def test_augmented_images_are_the_cpus_bit_for_bit(
    device: torch.device, spec: str, shape: tuple[int, int, int]
) -> None:
    height, width, channels = shape
    batch = 16 if device.type == "cpu" else 512  # a CPU equals itself
    images, ids = noise(batch, height, width, channels), torch.arange(batch) * 193
    for epoch in (0, 3, ids % 5):  # of all samples, and each one's own, as --repeats has it
        augment = Augment(parse(spec), 1, 50_000, FILL[:channels])
        expected = augment(images, ids, epoch)
        there = epoch.to(device) if isinstance(epoch, Tensor) else epoch
        assert torch.equal(augment(images.to(device), ids.to(device), there).cpu(), expected)


@pytest.mark.parametrize("spec", MIX_SPECS)
def test_partners_to_mix_with_are_the_cpus(device: torch.device, spec: str) -> None:
    augment, ids = Augment(parse(spec), 1, 50_000, FILL), torch.arange(256)
    assert torch.equal(augment.partners(ids.to(device), 3).cpu(), augment.partners(ids, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_maximum_over_an_image_and_its_gradient_are_the_cpus(device: torch.device, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(5, (64, 32, 4, 4), generator=generator).to(dtype)  # many are equal
    found = []
    for where in (torch.device("cpu"), device):
        moved = images.to(where, memory_format=torch.channels_last).requires_grad_()
        pooled = GlobalMaxPool()(moved)
        pooled.backward(torch.arange(64 * 32, device=where).view_as(pooled).to(dtype))
        found.append((pooled.detach().cpu(), moved.grad.cpu()))
    assert all(map(torch.equal, *found))


def logits_and_gradients(model: Callable[[Tensor], Tensor], module: nn.Module, images: Tensor) -> Tensor:
    """Logits and all gradients of one batch, flat, in float64 on the CPU."""
    logits = model(images)
    logits.square().mean().backward()
    found = [logits.detach(), *(p.grad.detach() for p in module.parameters() if p.grad is not None)]
    module.zero_grad()
    return torch.cat([tensor.flatten().double().cpu() for tensor in found])


@pytest.mark.parametrize("how", ["channels_last", "compiled"])
@pytest.mark.parametrize("name", ["cnn", "whitened_cnn"])
def test_other_ways_to_compute_are_as_near_to_float64_as_eager_is(
    device: torch.device, name: str, how: str, request: pytest.FixtureRequest
) -> None:
    if how == "compiled":
        request.getfixturevalue("cuda")
    torch.manual_seed(0)
    model = create_model(name, input_shape=(3, 32, 32), num_classes=10, width=16).eval()
    images = torch.randn(16, 3, 32, 32)
    exact = logits_and_gradients(model.double(), model, images.double())
    model.float().to(device)
    plain = logits_and_gradients(model, model, images.to(device))
    if how == "compiled":
        other = logits_and_gradients(torch.compile(model), model, images.to(device))
    else:
        model.to(memory_format=torch.channels_last)
        other = logits_and_gradients(model, model, images.to(device).contiguous(memory_format=torch.channels_last))
    # TF32, in which cuDNN convolves by default, keeps 10 bits; another order of the sums may lose a few times as much.
    assert (other - exact).norm() <= 4 * (plain - exact).norm() + 1e-6 * exact.norm()
