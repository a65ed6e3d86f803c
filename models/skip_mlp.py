"""A perceptron of residual blocks (the skip connection of He et al. 2015, arXiv:1512.03385, on linear layers)."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn


class SkipBlock(nn.Module):
    """Two linear layers with ReLU between; the input is added to their output, projected where widths differ."""

    def __init__(self, in_width: int, out_width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(in_width, out_width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(out_width, out_width)
        )
        self.skip = nn.Identity() if in_width == out_width else nn.Linear(in_width, out_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.inner(x)


class SkipMLP(nn.Module):
    """Flattens the image, then one block a width with ReLU after each, then the classes.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        widths: width of each block; an int is one block.
        dropout: share of activations dropped inside each block, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        widths: int | Sequence[int] = (256, 256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [widths] if isinstance(widths, int) else list(widths)
        if not widths or any(width < 1 for width in widths):
            raise ValueError(f"widths must hold positive block widths, got {widths}")
        layers: list[nn.Module] = [nn.Flatten()]
        for in_width, out_width in zip([prod(input_shape), *widths], widths, strict=False):
            layers += [SkipBlock(in_width, out_width, dropout), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
