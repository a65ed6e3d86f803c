"""A net whose convolutions are written by hand (models/conv2d.py)."""

from itertools import pairwise

from torch import Tensor, nn

from models.conv2d import Conv2d


class ByHandCNN(nn.Module):
    """Three convolutions (3x3, padding 1), each with batch norm, ReLU and max-pool; three linear layers, two dropouts.

    Args:
        input_shape: (channels, height, width), sides from 8 pixels.
        num_classes: outputs.
        channels: of the convolutions.
        hidden: widths of the first two linear layers, each with ReLU.
        norm: batch norm after each convolution.
        dropout: share of the features dropped before the first and the second linear layer, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        channels: tuple[int, int, int] = (64, 128, 256),
        hidden: tuple[int, int] = (256, 128),
        norm: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        height, width = (side // 2 ** len(channels) for side in input_shape[1:])
        if min(height, width) < 1:
            raise ValueError(f"byhand_cnn needs images of at least {2 ** len(channels)} pixels a side")
        convolutions: list[nn.Module] = []
        for before, after in pairwise([input_shape[0], *channels]):
            normed = [nn.BatchNorm2d(after)] if norm else []
            convolutions += [Conv2d(before, after, 3, padding=1, bias=not norm), nn.MaxPool2d(2), *normed, nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels[-1] * height * width, hidden[0]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolutions(images))
