"""MaxPool2d is nn.MaxPool2d, bit for bit, and keeps nothing but 16-bit places for the backward pass."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.layers.max_pool import IMAGES_AT_ONCE, MaxPool2d


def kept(pool: nn.Module, images: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, list[tuple[torch.dtype, tuple]]]:
    """(outputs, gradient of the images, dtype and shape of what was kept between)."""
    tensors = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append((tensor.dtype, tuple(tensor.shape)))
        return tensor

    images = images.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = pool(images)
        return outputs, torch.autograd.grad(outputs, images, grad)[0], tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("side", "shape"), [(2, (4, 3, 8, 8)), (2, (3, 5, 7, 9)), (3, (2, 4, 10, 7)), (2, (300, 2, 4, 4))]
)
def test_results_and_gradients_are_those_of_nn_maxpool2d_without_its_input(
    dtype: torch.dtype, layout: torch.memory_format, side: int, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(5, shape, generator=generator).to(dtype).to(memory_format=layout)  # many are equal
    grad = torch.randn(shape[0], shape[1], shape[2] // side, shape[3] // side, generator=generator).to(dtype)
    found, found_grad, found_kept = kept(MaxPool2d(side), images, grad)
    expected, expected_grad, expected_kept = kept(nn.MaxPool2d(side), images, grad)
    assert torch.equal(found, expected)
    assert torch.equal(found_grad, expected_grad)
    assert found_grad.stride() == expected_grad.stride()
    assert (dtype, shape) in expected_kept
    assert found_kept == [(torch.int16, tuple(expected.shape))]


def test_places_in_64_bits_are_of_a_part_of_the_batch_at_a_time() -> None:
    most = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal most
            results = function(*args, **(kwargs or {}))
            for result in results if isinstance(results, tuple) else (results,):
                if isinstance(result, Tensor) and result.dtype == torch.int64:
                    most = max(most, result.numel())
            return results

    with Watch():
        kept(MaxPool2d(2), torch.randn(3 * IMAGES_AT_ONCE, 2, 4, 4), torch.ones(3 * IMAGES_AT_ONCE, 2, 2, 2))
    assert most == IMAGES_AT_ONCE * 2 * 2 * 2


def test_places_in_a_map_of_more_pixels_than_16_bits_count_are_right() -> None:
    images = torch.zeros(1, 1, 4, 2**14)
    images[0, 0, 3, 2**14 - 1] = 1
    grad = torch.ones(1, 1, 2, 2**13)
    found, expected = (kept(pool, images, grad)[1] for pool in (MaxPool2d(2), nn.MaxPool2d(2)))
    assert torch.equal(found, expected)
    assert found[0, 0, 3, 2**14 - 1] == 1


def test_it_scripts_traces_and_exports_as_nn_maxpool2d() -> None:
    images = torch.randn(2, 3, 8, 8)
    expected = nn.MaxPool2d(2)(images)
    for pool in (
        torch.jit.script(MaxPool2d(2)),
        torch.jit.trace(MaxPool2d(2), images),
        torch.export.export(MaxPool2d(2), (images,)).module(),
    ):
        assert torch.equal(pool(images), expected)
        assert torch.equal(pool(images.clone().requires_grad_()), expected)
