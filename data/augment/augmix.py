"""AugMix: an image mixed with what chains of random operations make of it. Hendrycks et al. 2019, arXiv:1912.02781."""

import torch
from torch import Tensor

from data.augment.draws import Epoch, beta_quantiles, integers, interpolate, uniform
from data.augment.randaugment import AUGMIX, OPS, apply_ops

WIDEST = 10  # chains at most, as each has streams of its own
RANDOM_DEPTH = 3  # at most, where the depth is drawn


class AugMix:
    """AugMix as torchvision's `v2.AugMix` has it by default, for a whole batch.

    Operations take the nearest pixel, as those of RandAugment do, and the mixture is rounded, where torchvision cuts
    its fraction off and so darkens it. The loss that the paper adds, for the views of an image to agree, is not in it.

    Args:
        seed: of the draws; `stream`: the first of their streams, WIDEST for each number that a chain draws.
        severity: operations take one of the lowest so many of ten magnitudes.
        width: chains; `depth`: operations of a chain, below 1 for 1 to 3 at random.
        alpha: of the shares: Beta(alpha, alpha) for the image, the rest by Dirichlet(alpha, ..., alpha) for its chains.
    """

    def __init__(self, seed: int, stream: int, severity: int, width: int, depth: int, alpha: float) -> None:
        self.seed, self.stream, self.severity, self.width, self.depth = seed, stream, severity, width, depth
        # A Dirichlet's shares are pieces broken off a stick, each a Beta's share of what is left.
        breaks = [beta_quantiles(alpha, alpha)]
        breaks += [beta_quantiles(alpha, alpha * others) for others in range(width - 1, 0, -1)]
        self._breaks = torch.stack(breaks)

    def __call__(self, images: Tensor, indices: Tensor, epoch: Epoch, fill: Tensor) -> Tensor:
        """The mixtures, uint8 (B, H, W, C); arguments as those of `Augment` and `apply_ops`."""
        own, *shares = (share.view(-1, 1, 1, 1) for share in self.shares(indices, epoch))
        mixed = images * own
        for chain, share in zip(self._chains(images, indices, epoch, fill), shares, strict=True):
            mixed = mixed + chain * share
        return mixed.round().to(torch.uint8)

    def shares(self, indices: Tensor, epoch: Epoch) -> Tensor:
        """Of the mixture, float32 (1 + width, B), of sum 1: the image's own and each chain's."""
        self._breaks = self._breaks.to(indices.device)
        broken, left = [], torch.ones(len(indices), device=indices.device)
        for table, u in zip(self._breaks, uniform(self.seed, epoch, indices, self._streams(0)), strict=True):
            broken.append(left * interpolate(table, u))
            left = left - broken[-1]
        return torch.stack([*broken, left])

    def _chains(self, images: Tensor, indices: Tensor, epoch: Epoch, fill: Tensor) -> Tensor:
        """What each chain makes of the images, uint8 (width, B, H, W, C)."""

        def drawn(number: int, high: int) -> Tensor:
            return integers(self.seed, epoch, indices, self._streams(number), high)

        depth = self.depth if self.depth > 0 else 1 + drawn(1, RANDOM_DEPTH)
        # All chains as one batch, since a device is waited for at each turn.
        chains = images.repeat(self.width, 1, 1, 1)
        for turn in range(self.depth if self.depth > 0 else RANDOM_DEPTH):
            first = 2 + 3 * turn
            # The first of OPS is none: it is left to chains that have come to their end.
            ops = (1 + drawn(first, len(OPS) - 1)) * (turn < depth)
            bins, signs = drawn(first + 1, self.severity), 2 * drawn(first + 2, 2) - 1
            chains = apply_ops(chains, ops.view(-1), bins.view(-1), signs.view(-1), AUGMIX, fill)
        return chains.view(self.width, *images.shape)

    def _streams(self, number: int) -> range:
        """Those of the same number for all chains."""
        start = self.stream + WIDEST * number
        return range(start, start + self.width)
