"""A net for Fashion-MNIST: three convolutions and three linear layers, batch norm after each but the last."""

from torch import Tensor, nn


class FashionCNN(nn.Module):
    """Convolutions of 32, 64, 64 channels (3x3, padding 1, no bias), max-pool after the first two; linear 256, 128.

    Each convolution and each linear layer but the last has batch norm and ReLU; dropout of .5 and .4 follows the first
    and the second linear layer. 28x28 pixels become 3,136 features.

    Args:
        input_shape: (channels, height, width), sides from 4 pixels.
        num_classes: outputs.
        dropout: shares dropped after the first and after the second linear layer, in training.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, dropout: tuple[float, float] = (0.5, 0.4)
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise ValueError(f"fashion_cnn needs images of at least 4x4 pixels, got {height}x{width}")
        self.layers = nn.Sequential(
            *self._convolution(channels, 32),
            nn.MaxPool2d(2),
            *self._convolution(32, 64),
            nn.MaxPool2d(2),
            *self._convolution(64, 64),
            nn.Flatten(),
            *self._linear(64 * (height // 4) * (width // 4), 256, dropout[0]),
            *self._linear(256, 128, dropout[1]),
            nn.Linear(128, num_classes),
        )

    @staticmethod
    def _convolution(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    @staticmethod
    def _linear(before: int, after: int, dropout: float) -> list[nn.Module]:
        return [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout)]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
