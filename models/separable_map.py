"""A net that makes images from images by one map along the columns and one along the rows."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LANES = 16  # numbers of fp32 in a register of AVX-512: products of such widths are a tenth faster
HALF = 0.5  # what is cut off to a whole number is then rounded


class Pointwise(nn.Module):
    """A small net applied to each pixel alone, added to it; it begins as the identity."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, channels, 1))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.layers(images)


class SeparableMap(nn.Module):
    """Channels are mixed, then one matrix maps every column of pixels and another every row.

    Resizing, cropping, flipping, blurring and greying are such maps, so that a few thousand numbers learn any of them
    exactly, and all in one. What is not linear (inverting parts, gamma, posterizing) needs `hidden`.

    Args:
        input_shape, output_shape: (channels, height, width) of the images that are given and made.
        hidden: width of a small net applied to each pixel before the map and another after it; 0: none, and all is
            linear.

    Shapes: float (B, C, H, W) -> float (B, C', H', W').
    """

    def __init__(
        self, *, input_shape: tuple[int, int, int], output_shape: tuple[int, int, int], hidden: int = 0
    ) -> None:
        super().__init__()
        (channels, height, width), (out_channels, out_height, out_width) = input_shape, output_shape
        self.before = Pointwise(channels, hidden) if hidden else nn.Identity()
        self.mix = nn.Conv2d(channels, out_channels, 1)
        self.columns = nn.Parameter(torch.randn(out_height, height) / height**0.5)
        self.rows = nn.Parameter(torch.randn(width, out_width) / width**0.5)
        self.after = Pointwise(out_channels, hidden) if hidden else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        mixed = self.mix(self.before(images)).contiguous()
        return self.after(self.columns @ mixed @ self.rows)

    def for_pixels(self, scale: Tensor, shift: Tensor) -> "PixelMap":
        """This map with its weights as they are, for inference from stored pixels; `scale`, `shift`: see `PixelMap`."""
        return PixelMap(self, scale, shift)


class PixelMap(nn.Module):
    """A trained `SeparableMap` that takes and gives bytes, with little left to do but two matrix products.

    The first maps every row of pixels and mixes their channels, which lie side by side in memory, the second every
    column. Normalisation, biases, the outputs' scale and their rounding are folded into the matrices, except where a
    pointwise net stands between. After `.to(torch.bfloat16)` it computes in that, which holds 0 to 255 exactly.

    Args:
        trained: the map, of which weights are copied.
        scale, shift: (C,); the map was trained on pixels * scale + shift.

    Shapes: uint8 (B, H, W, C) -> uint8 (B, H', W', C').
    """

    def __init__(self, trained: SeparableMap, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.before, self.after = copy.deepcopy(trained.before), copy.deepcopy(trained.after)
        mix, columns, rows = (x.detach().double() for x in (trained.mix.weight, trained.columns, trained.rows))
        mix, bias = mix[:, :, 0, 0], trained.mix.bias.detach().double()
        self.normalises = not isinstance(trained.before, nn.Identity)
        if not self.normalises:
            bias = bias + mix @ shift.double()
            mix = mix * scale.double()
        bias = columns.sum(1)[:, None, None] * rows.sum(0)[:, None] * bias
        self.rounds = not isinstance(trained.after, nn.Identity)
        if not self.rounds:
            mix, bias = 255 * mix, 255 * bias + HALF
        kernel = torch.einsum("wv,oc->wcvo", rows, mix).flatten(2).flatten(0, 1)
        self.output_shape = tuple(bias.shape)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())
        self.register_buffer("kernel", F.pad(kernel, (0, -kernel.shape[1] % LANES)).float())
        self.register_buffer("columns", columns.float())
        self.register_buffer("bias", bias.flatten(1).float())

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.to(self.kernel.dtype)
        if self.normalises:
            images = torch.addcmul(self.shift, images, self.scale)
            images = self.before(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        rows = (images.flatten(2).flatten(0, 1) @ self.kernel).unflatten(0, pixels.shape[:2])
        columns = self.columns.expand(len(pixels), -1, -1)
        made = torch.baddbmm(self.bias, columns, rows[..., : self.bias.shape[1]]).unflatten(2, self.output_shape[1:])
        if self.rounds:
            made = self.after(made.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) * 255 + HALF
        return made.clamp(0, 255).to(torch.uint8)
