"""A small residual convolutional net for images of 8 to 64 pixels, after airbench's networks for CIFAR-10.

Pooling comes right after a stage's first convolution, so that what follows works on a quarter of the pixels
(as in KellerJordan/cifar10-airbench, arXiv:2404.00498, whose plain stages these are with skip connections added).
"""

from itertools import pairwise

from torch import Tensor, nn

from models.layers.max_pool import GlobalMaxPool


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)


class Stage(nn.Module):
    """Convolution to `out_channels`, halving by max-pool, then a residual convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(
            conv3x3(in_channels, out_channels), nn.MaxPool2d(2), nn.BatchNorm2d(out_channels), nn.GELU()
        )
        self.refine = nn.Sequential(conv3x3(out_channels, out_channels), nn.BatchNorm2d(out_channels), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        return x + self.refine(x)


class CNN(nn.Module):
    """A stem, stages that double the channels and halve the image until a side is under 8, a max over what is left.

    Args:
        input_shape: (channels, height, width), sides from 8 pixels.
        num_classes: outputs.
        width: channels of the stem; each stage has twice its predecessor's, at most 8 * width. None: 32, or 64 for
            images under 16 pixels, for which there is one stage only.
        dropout: share of the features dropped before the last layer, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels, height, w = input_shape
        if min(height, w) < 8:
            raise ValueError(f"cnn needs images of at least 8x8 pixels, got {height}x{w}: give --image-size 8 or more")
        num_stages = (min(height, w) // 4).bit_length() - 1
        width = (64 if num_stages == 1 else 32) if width is None else width
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        widths = [width * min(2**stage, 8) for stage in range(num_stages + 1)]
        self.stem = nn.Sequential(conv3x3(channels, width), nn.BatchNorm2d(width), nn.GELU())
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in pairwise(widths)))
        self.head = nn.Sequential(
            GlobalMaxPool(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(widths[-1], num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)))
