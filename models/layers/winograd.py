"""A convolution of 3x3 pixels with a third to a sixth of the multiplications, from tensor operations alone.

Winograd's, as Lavin and Gray wrote it down ("Fast Algorithms for Convolutional Neural Networks", 2015): what a tile of
the outputs sees, and the kernel, are brought to a space where convolution is one product for each place, and the sums
over the channels are brought back. Each way is a small matrix for columns and rows alike.

A tile's side `m` is that of the outputs it makes; it sees m + 2 pixels a side, and as many places are multiplied.
"""

import functools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# For each side of a tile, the points (beside infinity) where polynomials are multiplied: those with the least
# amplification of rounding errors over the direct convolution's (as `tests/rounding.py` derives it). Larger tiles take
# fewer products and lose more digits. A map of 7x7 pixels, which 28 and 14 halve to, is one tile of 7 with 81 products
# or four of 4 with 144; for that an error of about 1e-5 instead of 1e-6 is worth it, as the gradient of a batch is
# noise of a tenth of its size and more, and TF32, in which PyTorch convolves on GPUs, keeps 5e-4.
POINTS = {
    3: (0.38, -0.38, 1.28, -1.28),  # 2.6 times the error of the direct convolution; 2.8 products for each output
    4: (0, 0.65, -0.65, 1.53, -1.53),  # 4.7; 2.2
    5: (0.285, -0.285, 0.85, -0.85, 1.77, -1.77),  # 9.5; 2.0
    6: (0, 0.51, -0.51, 1, -1, 1.98, -1.98),  # 21; 1.8
    7: (0.23, -0.23, 0.68, -0.68, 1.13, -1.13, 2.18, -2.18),  # 47; 1.7
}
# For each thread, as many as its cache holds: more wait for memory, fewer make small products slow.
TILES_AT_ONCE = 64
# As measured: what it takes to bring the kernels to the space and their gradient back, in tiles; and the share of
# products below which it takes less time than the plain way (at which it takes about nine tenths of it).
TILES_OF_KERNELS = 64
MOST_PRODUCTS = 0.45


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """The convolution that moves by one pixel, in float32 or float64.

    Args:
        images: (B, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,) or None.
        padding: pixels of zeros at the left, right, top and bottom.

    Returns: (B, O, H', W'), in channels_last order in memory.
    """
    outputs = _Winograd.apply(images.permute(0, 2, 3, 1), weight, tuple(padding)).permute(0, 3, 1, 2)
    return outputs if bias is None else outputs + bias[:, None, None]


def pays(images: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether it may be asked, and saves enough; how many channels are worth it is the caller's to know.

    In half precision, sums between would lose too many digits.
    """
    left, right, top, bottom = padding
    height, width = images.shape[2] + top + bottom - 2, images.shape[3] + left + right - 2
    if images.dtype not in (torch.float32, torch.float64) or weight.shape[2:] != (3, 3) or min(height, width) < 1:
        return False
    shape = len(images), height, width
    return _products(shape, *_tiling(shape)) <= MOST_PRODUCTS * 9 * math.prod(shape)


def _tiling(shape: Sequence[int]) -> tuple[int, int, int]:
    """(side, rows, columns) of the tiles with the fewest products for outputs (B, H', W')."""
    _, height, width = shape
    tilings = [(side, -(-height // side), -(-width // side)) for side in POINTS]
    return min(tilings, key=lambda tiling: _products(shape, *tiling))


def _products(shape: Sequence[int], side: int, rows: int, columns: int) -> int:
    return (shape[0] * rows * columns + TILES_OF_KERNELS) * (side + 2) ** 2


@functools.cache
def _matrices(side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """B_T, G and A_T of Lavin and Gray 2015 (arXiv:1509.09308), for both sides of a tile at once, after Cook and Toom.

    A side of a tile and a kernel's are polynomials, known by their values at the points and by their last coefficient.
    What is transposed of their product is a correlation.

    Returns: ((m + 2)², (m + 2)²), ((m + 2)², 9) and (m², (m + 2)²).
    """
    points = torch.tensor(POINTS[side], dtype=torch.float64)
    B_T = torch.zeros(side + 2, side + 2, dtype=torch.float64)
    for index, point in enumerate(points):
        others = torch.cat([points[:index], points[index + 1 :]])
        B_T[index, :-1] = _polynomial(others) / (point - others).prod()
    B_T[-1] = _polynomial(points)
    last = torch.zeros(side, dtype=torch.float64)
    last[-1] = 1
    A_T = torch.cat([points ** torch.arange(side)[:, None], last[:, None]], 1)
    G = torch.cat([points[:, None] ** torch.arange(3), last[None, -3:]])
    return tuple(torch.kron(one_side, one_side).to(dtype) for one_side in (B_T, G, A_T))


def _polynomial(roots: Tensor) -> Tensor:
    """The coefficients of the polynomial with these roots, the constant first and 1 last."""
    coefficients = roots.new_ones(1)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


class _Winograd(torch.autograd.Function):
    """(B, H, W, C) -> (B, H', W', O), some images at a time, so that what lies between is never large."""

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = left, right, top, bottom = padding
        batch, height, width, channels = images.shape
        outputs = images.new_empty(batch, height + top + bottom - 2, width + left + right - 2, len(weight))
        ctx.tiling = side, *_ = _tiling(outputs.shape[:3])
        B_T, G, A_T = _matrices(side, images.dtype)
        kernels = (G @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, len(weight))
        for some, made in _parts(ctx.tiling, images, outputs):
            seen = (B_T @ _unfold(some, padding, ctx.tiling)).view(len(B_T), -1, channels)
            _put(A_T @ torch.bmm(seen, kernels).flatten(1), ctx.tiling, made)
        return outputs

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable_backward(grad, images, weight, ctx.padding), None
        B_T, G, A_T = _matrices(ctx.tiling[0], images.dtype)
        kernels = (G @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(-1, *weight.shape[:2])
        of_images, of_products = torch.empty_like(images), torch.zeros_like(kernels)
        for some, made, of_some in _parts(ctx.tiling, images, grad, of_images):
            sums = (A_T.T @ _take(made, ctx.tiling)).view(len(kernels), -1, len(weight))
            if ctx.needs_input_grad[1]:
                seen = (B_T @ _unfold(some, ctx.padding, ctx.tiling)).view(len(kernels), -1, weight.shape[1])
                of_products.baddbmm_(sums.transpose(1, 2), seen)
            if ctx.needs_input_grad[0]:
                of_seen = B_T.T @ torch.bmm(sums, kernels).flatten(1)
                of_some.copy_(_fold(of_seen, ctx.padding, ctx.tiling, some.shape))
        of_weight = (G.T @ of_products.flatten(1)).view(3, 3, *weight.shape[:2]).permute(2, 3, 0, 1)
        return of_images, of_weight, None


def _differentiable_backward(
    grad: Tensor, images: Tensor, weight: Tensor, padding: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The same gradients, to be differentiated once more."""
    left, _, top, _ = padding
    padded = F.pad(images, (0, 0, *padding)).permute(0, 3, 1, 2)
    geometry = (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, True, False)
    of_padded, of_weight, _ = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2), padded, weight, None, *geometry
    )
    return of_padded.permute(0, 2, 3, 1)[:, top : top + images.shape[1], left : left + images.shape[2]], of_weight


def _parts(tiling: tuple[int, int, int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same images of each, some at a time."""
    images = max(1, TILES_AT_ONCE * torch.get_num_threads() // (tiling[1] * tiling[2]))
    return zip(*(tensor.split(images) for tensor in tensors), strict=True)


def _unfold(images: Tensor, padding: tuple[int, ...], tiling: tuple[int, int, int]) -> Tensor:
    """(B, H, W, C) -> ((m + 2)², B * tiles * C): what each tile sees, the position in the tile first."""
    side, rows, columns = tiling
    left, _, top, _ = padding
    edges = left, side * columns + 2 - left - images.shape[2], top, side * rows + 2 - top - images.shape[1]
    seen = F.pad(images, (0, 0, *edges)).unfold(1, side + 2, side).unfold(2, side + 2, side)
    return seen.permute(4, 5, 0, 1, 2, 3).reshape((side + 2) ** 2, -1)


def _fold(seen: Tensor, padding: tuple[int, ...], tiling: tuple[int, int, int], shape: torch.Size) -> Tensor:
    """((m + 2)², B * tiles * C) -> (B, H, W, C), `shape`: sums over what tiles saw, as they overlap by two pixels."""
    side, rows, columns = tiling
    left, _, top, _ = padding
    batch, height, width, channels = shape
    seen = seen.view(side + 2, side + 2, batch, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    padded = seen.new_zeros(batch, side * (rows + 1), side * (columns + 1), channels)
    for down in (0, 1):  # the tile's first `side` pixels, then the two that lie in its neighbour
        for right in (0, 1):
            part = seen[:, :, side * down : side * (down + 1), :, side * right : side * (right + 1)]
            there = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side))
            there = there[:, down : down + rows, : part.shape[2], right : right + columns, : part.shape[4]]
            there += part
    return padded[:, top : top + height, left : left + width]


def _take(outputs: Tensor, tiling: tuple[int, int, int]) -> Tensor:
    """(B, H', W', O) -> (m², B * tiles * O): the pixels of each tile, the position in the tile first."""
    side, rows, columns = tiling
    whole = F.pad(outputs, (0, 0, 0, side * columns - outputs.shape[2], 0, side * rows - outputs.shape[1]))
    tiles = whole.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return tiles.permute(2, 4, 0, 1, 3, 5).reshape(side**2, -1)


def _put(tiles: Tensor, tiling: tuple[int, int, int], outputs: Tensor) -> None:
    """(m², B * tiles * O) into (B, H', W', O)."""
    side, rows, columns = tiling
    whole = tiles.view(side, side, len(outputs), rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
    outputs.copy_(whole.flatten(3, 4).flatten(1, 2)[:, : outputs.shape[1], : outputs.shape[2]])
