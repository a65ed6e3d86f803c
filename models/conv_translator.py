"""Two convolutions, a max-pool and two linear layers that make an image from an image."""

from torch import Tensor, nn


class ConvTranslator(nn.Module):
    """Two 3x3 convolutions with ReLU, 2x2 max-pool, and two linear layers, the last one a number for each pixel.

    Args:
        input_shape, output_shape: (channels, height, width) of the images that are given and made.
        channels: of the convolutions.
        hidden: width of the first linear layer.

    Shapes: float (B, C, H, W) -> float (B, C', H', W').
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        output_shape: tuple[int, int, int],
        channels: tuple[int, int] = (16, 32),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        depth, height, width = input_shape
        out_channels, out_height, out_width = output_shape
        self.layers = nn.Sequential(
            nn.Conv2d(depth, channels[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(channels[1] * (height // 2) * (width // 2), hidden),
            nn.ReLU(),
            nn.Linear(hidden, out_channels * out_height * out_width),
            nn.Unflatten(1, output_shape),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
