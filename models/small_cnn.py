"""A net of four 5x5 convolutions and one linear layer: 266,416 parameters for 100 classes of 32x32 colour images."""

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Twice two 5x5 convolutions (padding 1), each with batch norm and ReLU, a 2x2 max-pool between; then the classes.

    Args:
        input_shape: (channels, height, width), sides from 14 pixels.
        num_classes: outputs.
        widths: channels of the first and of the second pair; 12 and 24 are the original.
        dropout: share of the features dropped before the last layer, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        widths: tuple[int, int] = (12, 24),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, *sides = input_shape
        first, second = widths
        if min(sides) < 14:
            raise ValueError(f"small_cnn needs images of at least 14x14 pixels, got {sides[0]}x{sides[1]}")
        height, width = ((side - 4) // 2 - 4 for side in sides)  # each 5x5 convolution with padding 1 takes 2 pixels
        self.layers = nn.Sequential(
            *self._layer(channels, first),
            *self._layer(first, first),
            nn.MaxPool2d(2),
            *self._layer(first, second),
            *self._layer(second, second),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(second * height * width, num_classes),
        )

    @staticmethod
    def _layer(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 5, padding=1), nn.BatchNorm2d(after), nn.ReLU()]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
