"""airbench's network for CIFAR-10: whitened patches, then plain stages that pool early.

After KellerJordan/cifar10-airbench (arXiv:2404.00498), whose `airbench94_muon.py` and `airbench96` are this at
`width=64` and at `width=128 depth=3`: a first layer that whitens 2x2 patches, kernels that begin as the identity,
batch norms without scales, a head that begins small.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.layers.max_pool import GlobalMaxPool, MaxPool2d
from models.layers.packed_conv import PackedConv2d


class Conv3x3(PackedConv2d):
    """A 3x3 convolution that hands its first inputs on at first (Zagoruyko and Komodakis 2017, "DiracNets")."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with a bias alone, whose running statistics follow quickly, as a short run needs."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class Stage(nn.Module):
    """Convolution, halving by max-pool, then `depth - 1` more, which a skip connection spans from depth 3 on."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(Conv3x3(in_channels, out_channels), MaxPool2d(2), BatchNorm(out_channels), nn.GELU())
        self.refine = nn.ModuleList(
            nn.Sequential(Conv3x3(out_channels, out_channels), BatchNorm(out_channels)) for _ in range(depth - 1)
        )
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        skipped = x
        for number, refine in enumerate(self.refine):
            x = refine(x)
            if number and number == len(self.refine) - 1:
                x = x + skipped
            x = self.activation(x)
        return x


class WhitenedCNN(nn.Module):
    """Patches made white, three stages, a max over what is left, and one linear layer.

    Args:
        input_shape: (channels, height, width), sides from 18 pixels.
        num_classes: outputs.
        width: channels of the first stage, or of each of the three; one number stands for (w, 4w, 4w).
        depth: convolutions of a stage.

    Shapes: float (B, C, H, W) -> logits (B, num_classes).
    """

    PATCH = 2  # side of the whitened patches, in pixels

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int | Sequence[int] = 64, depth: int = 2
    ) -> None:
        super().__init__()
        channels, height, w = input_shape
        if min(height, w) < 18:
            raise ValueError(
                f"whitened_cnn needs images of at least 18x18 pixels, got {height}x{w}: give --image-size 18 or more"
            )
        widths = (width, 4 * width, 4 * width) if isinstance(width, int) else tuple(width)
        if len(widths) != 3 or min(widths) < 1 or depth < 1:
            raise ValueError(f"needs a width or three, and a depth, from 1 up, got width={width} depth={depth}")
        whitened = 2 * channels * self.PATCH**2
        self.whiten = nn.Conv2d(channels, whitened, self.PATCH, bias=False)
        self.whiten.weight.requires_grad_(False)
        self.stages = nn.Sequential(*(Stage(a, b, depth) for a, b in pairwise((whitened, *widths))))
        self.pool = GlobalMaxPool()
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        nn.init.normal_(self.head.weight, std=1 / widths[-1])

    @torch.no_grad()
    def init_from(self, images: Tensor) -> None:
        """Set the first layer to whiten patches of `images`, float (N, C, H, W): eigenvectors of their covariance.

        Each comes with its negative, scaled to unit variance.
        """
        channels = images.shape[1]
        patches = images.float().unfold(2, self.PATCH, 1).unfold(3, self.PATCH, 1)  # (N, C, H', W', P, P)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        # In float64, some patches at a time: eigenvectors of values near one another turn with every lost digit, and
        # each kind of CPU would start from another net.
        products = (part.T @ part for part in map(Tensor.double, patches.split(2**16)))
        values, vectors = torch.linalg.eigh(sum(products) / len(patches))
        kernels = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, channels, self.PATCH, self.PATCH)
        self.whiten.weight.copy_(torch.cat([kernels, -kernels]))

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.gelu(self.whiten(images))
        return self.head(self.pool(self.stages(features)).flatten(1))
