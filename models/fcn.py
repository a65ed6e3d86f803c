"""A fully convolutional net whose layers are given as lists."""

from collections.abc import Sequence

from torch import Tensor, nn


def one_each(name: str, value: float | Sequence[float], layers: int) -> list:
    """A value for each layer, from one for all or a list of them."""
    values = list(value) if isinstance(value, Sequence) else [value] * layers
    if len(values) != layers:
        raise ValueError(f"{name} holds {len(values)} values for {layers} layers: give one, or one for each")
    return values


class FCN(nn.Module):
    """For each layer a convolution, batch norm, ReLU, dropout and max-pool; then a 1x1 convolution, averaged.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        channels: of each layer's convolution.
        kernel_size, stride, padding: of the convolutions, in pixels: one for all, or one for each.
        pool: side of the max-pool's window, 1 for none: one for all, or one for each. None: 2 for all but the first.
        dropout: share of the numbers dropped in training: one for all, or one for each.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        channels: int | Sequence[int] = (64, 128, 256, 256),
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 1,
        pool: int | Sequence[int] | None = None,
        dropout: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        channels = [channels] if isinstance(channels, int) else list(channels)
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must hold a positive number for each layer, got {channels}")
        pool = [1, *[2] * (len(channels) - 1)] if pool is None else pool
        given = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "pool": pool, "dropout": dropout}
        each = {name: one_each(name, value, len(channels)) for name, value in given.items()}
        side = min(input_shape[1:])
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip([input_shape[0], *channels], channels, strict=False)):
            kernel, step, pad, window, share = (each[name][index] for name in given)
            side = ((side + 2 * pad - kernel) // step + 1) // window
            if side < 1:
                raise ValueError(f"nothing is left of the image after layer {index + 1}: less stride and pooling")
            layers += [nn.Conv2d(before, after, kernel, step, pad, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Dropout(share)] if share else []
            layers += [nn.MaxPool2d(window)] if window > 1 else []
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))
