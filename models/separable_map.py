"""A net that makes images from images by one map along the columns and one along the rows."""

import torch
from torch import Tensor, nn


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
