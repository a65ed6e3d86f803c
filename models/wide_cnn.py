"""A net of three convolutions and a wide linear layer: 16,904,548 parameters for 100 classes of 128x128 images."""

from itertools import pairwise

from torch import Tensor, nn


class WideCNN(nn.Module):
    """Three 3x3 convolutions (padding 1), each with batch norm, ReLU and max-pool; linear layer, ReLU, linear layer.

    Args:
        input_shape: (channels, height, width), sides from 8 pixels; 128 is the original.
        num_classes: outputs.
        channels: of the convolutions.
        hidden: width of the linear layer between.
        dropout: share of the features dropped before each linear layer, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        channels: tuple[int, ...] = (16, 32, 64),
        hidden: int = 1024,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (side // 2 ** len(channels) for side in input_shape[1:])
        if min(height, width) < 1:
            raise ValueError(f"wide_cnn needs images of at least {2 ** len(channels)} pixels a side")
        convolutions: list[nn.Module] = []
        for before, after in pairwise([input_shape[0], *channels]):
            # ReLU of the maximum is the maximum of ReLUs, bit for bit, gradients too, on a quarter of the pixels.
            convolutions += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels[-1] * height * width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolutions(images))
