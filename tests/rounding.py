"""How near results must be: judged in float64, beside how near PyTorch's own way comes on the same CPU.

CPUs sum in other orders and with other instructions, so a constant that one of them meets another one misses.
"""

import copy

import torch
from torch import nn

from models.layers import winograd


def assert_rounds_like(found: torch.Tensor, reference: torch.Tensor, exact: torch.Tensor, times: float) -> None:
    """`found` lies at most `times` as far from `exact` as `reference` does, all elements taken together.

    Args:
        found: what is tested, in any floating dtype.
        reference: the same by PyTorch's own way, of the same dtype.
        exact: float64, from the same numbers.
        times: the factor, which follows from how many more roundings `found` went through.
    """
    assert found.shape == reference.shape == exact.shape
    assert found.dtype == reference.dtype
    assert exact.dtype == torch.float64
    error, own = ((result.detach().double() - exact).norm() for result in (found, reference))
    # Half a unit, as a few elements may be exact by luck.
    least = torch.finfo(found.dtype).eps / 4 * exact.norm()
    assert error <= times * max(own, least), f"{error / max(own, least):.1f} times as far, {times:.1f} allowed"


def assert_more_digits(fine: torch.Tensor, coarse: torch.Tensor, exact: torch.Tensor, times: float) -> None:
    """The same in float64 and float32: the error is smaller by the digits that float64 has more, but for a factor."""
    assert (fine.dtype, coarse.dtype, exact.dtype) == (torch.float64, torch.float32, torch.float64)
    digits = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    assert (fine - exact).norm() <= times * digits * (coarse.double() - exact).norm()


def times_of_sums(terms: int) -> float:
    """How many times the error of a sum of so many terms another order of them may have.

    One after another they add a rounding each, which know nothing of one another: the root of their number together;
    the best order has about one.
    """
    return terms**0.5


def longest_sum(model: nn.Module) -> int:
    """The most terms that a convolution or linear layer of a model adds up for one of its outputs."""
    layers = [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return max(weight[0].numel() for weight in layers)


def in_float64(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a model makes of images in float64, left as it is."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(images.double())


def amplification(side: int) -> float:
    """How much more tiles of this side make of a relative error than the direct convolution does.

    Either way is a sum of terms that are each a product of three numbers: one linear in a tile, one in a kernel, and
    one that leads to the outputs. The direct convolution's 9 m² terms are single pixels of each: no term is larger than
    the sum needs. Winograd's (m + 2)² are the rows of B_T and G and the columns of A_T (Lavin and Gray), larger
    ones that cancel. Where each term errs by u of itself, the sum errs by u times the root of the sum over the terms of
    |B_T|² |G|² |A_T|². Tile, kernel and outputs change places in the gradients, so it holds for these too.
    """
    tiles, kernels, outputs = winograd._matrices(side, torch.float64)
    terms = tiles.square().sum(1) * kernels.square().sum(1) * outputs.square().sum(0)
    return (terms.sum() / (9 * side**2)).sqrt().item()


def times_of_winograd(side: int) -> float:
    """How many times the direct convolution's error Winograd's may be, on any CPU.

    The sum over channels, or images, is as long either way. Besides there are those that bring a tile to the space
    ((m + 2)² terms), the kernel (9) and the outputs back ((m + 2)²): a sum of n terms adds n roundings that know
    nothing of one another, the root of n together.
    """
    return amplification(side) * (2 * (side + 2) ** 2 + 9) ** 0.5
