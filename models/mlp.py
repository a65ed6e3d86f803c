"""A multi-layer perceptron: linear layers with ReLU between."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn


class MLP(nn.Module):
    """Flattens the image, then `hidden` linear layers with ReLU (and dropout) after each, then the classes.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        hidden: width of each hidden layer; an int is one layer.
        dropout: share of activations dropped after each hidden layer, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: int | Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [hidden] if isinstance(hidden, int) else list(hidden)
        if any(width < 1 for width in widths):
            raise ValueError(f"hidden must hold positive widths, got {widths}")
        layers: list[nn.Module] = [nn.Flatten()]
        width = prod(input_shape)
        for next_width in widths:
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
