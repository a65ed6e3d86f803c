"""AugMix mixes what torchvision's mixes for the same draws, and draws as the paper does."""

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from data.augment import batch as A
from data.augment.augmix import RANDOM_DEPTH, WIDEST, AugMix
from data.augment.batch import Augment, integers, parse
from data.augment.randaugment import OPS
from tests.test_augment import FILL, noise

MANY = 40_000
SEED, EPOCH = 5, 2
Operation = tuple[str, int, int]  # name, bin, sign


class Drawn(v2.AugMix):
    """torchvision's, with draws that are given: the shares (1 + width,), and each chain's operations."""

    def __init__(self, shares: Tensor, chains: list[list[Operation]], channels: int) -> None:
        depth, width = len(chains[0]), len(chains)
        super().__init__(10, width, depth, interpolation="nearest", fill=list(FILL[:channels]))
        self.dirichlets = [torch.stack([shares[0], 1 - shares[0]]), shares[1:] / shares[1:].sum()]
        self.operations = [operation for chain in chains for operation in chain]

    def _sample_dirichlet(self, params: Tensor) -> Tensor:
        return self.dirichlets.pop(0)[None]

    def _get_random_item(self, space: dict) -> tuple:
        name, number, sign = self.operations.pop(0)
        if name == "Identity":
            return name, (lambda bins, height, width: None, False)
        magnitudes, signed = space[name]

        def drawn(bins: int, height: int, width: int) -> Tensor | None:
            of_all = magnitudes(bins, height, width)
            # The one of them at every bin, as which is taken cannot be given.
            return None if of_all is None else of_all[[number] * bins] * (sign if signed else 1)

        return name, (drawn, False)


def drawn_chains(indices: Tensor, severity: int, width: int, depth: int) -> list[list[list[Operation]]]:
    """Each image's chains of operations, all as long: a short one ends in Identity."""

    def draw(number: int, high: int) -> list[list[int]]:
        first = A.FIRST_AUGMIX + WIDEST * number
        return integers(SEED, EPOCH, indices, range(first, first + width), high).T.tolist()

    most = depth if depth > 0 else RANDOM_DEPTH
    depths = [[depth] * width] * len(indices) if depth > 0 else draw(1, RANDOM_DEPTH)
    highs = (len(OPS) - 1, severity, 2)
    turns = [[draw(2 + 3 * turn + number, high) for number, high in enumerate(highs)] for turn in range(most)]
    return [
        [
            [
                (OPS[1 + op[i][c]] if turn < depths[i][c] + (depth < 1) else "Identity", bins[i][c], 2 * sign[i][c] - 1)
                for turn, (op, bins, sign) in enumerate(turns)
            ]
            for c in range(width)
        ]
        for i in range(len(indices))
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [(3, 3, -1, 1.0), (10, 5, 2, 0.5), (3, 1, 1, 4.0)])
def test_a_mixture_is_torchvisions_for_the_same_draws(strength: tuple, channels: int) -> None:
    images, indices = noise(200, 24, 32, channels), torch.arange(200)
    spec = "augmix=" + ":".join(map(str, strength))
    ours = Augment(parse(spec), SEED, 1000, FILL[:channels])(images, indices, EPOCH)
    shares = AugMix(SEED, A.FIRST_AUGMIX, *strength).shares(indices, EPOCH).T
    drawn = zip(images.permute(0, 3, 1, 2), shares, drawn_chains(indices, *strength[:3]), strict=True)
    theirs = torch.stack([Drawn(share, chains, channels)(image) for image, share, chains in drawn])
    more = ours.int() - theirs.permute(0, 2, 3, 1).int()
    # torchvision cuts off the fraction that we round. What is a level, or a pixel, apart in an operation (see
    # test_augment.py) may be far apart after another.
    assert ((more == 0) | (more == 1)).float().mean() >= 0.99
    assert more.float().mean() > 0.1


@pytest.mark.parametrize(("width", "alpha"), [(1, 1.0), (3, 1.0), (3, 0.3), (10, 5.0)])
def test_shares_are_distributed_as_the_papers(width: int, alpha: float) -> None:
    shares = AugMix(SEED, 0, 3, width, -1, alpha).shares(torch.arange(MANY), EPOCH).double()
    assert shares.shape == (1 + width, MANY) and shares.min() >= 0
    torch.testing.assert_close(shares.sum(0), torch.ones(MANY).double(), rtol=0, atol=1e-6)
    own, chains = shares[0], shares[1:] / (1 - shares[0]).clamp(min=1e-12)
    known = own < 0.99  # of what is left less, float32 keeps too few digits
    assert stats.kstest(own.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    for chain in chains[:, known]:
        if width > 1:
            assert stats.kstest(chain.numpy(), stats.beta(alpha, alpha * (width - 1)).cdf).pvalue > 1e-4
    if width > 1:  # which, with the sum, leaves a Dirichlet one covariance for all pairs
        expected = torch.full((width, width), -1 / (width**2 * (width * alpha + 1)))
        expected.fill_diagonal_((width - 1) / (width**2 * (width * alpha + 1)))
        torch.testing.assert_close(chains[:, known].cov(), expected.double(), rtol=0, atol=0.05 * expected[0, 0].item())
        assert abs(torch.corrcoef(torch.stack([own[known], chains[0, known]]))[0, 1]) < 5 / MANY**0.5


def test_chains_draw_each_operation_magnitude_and_depth_equally_often() -> None:
    drawn = drawn_chains(torch.arange(9000), 3, 3, -1)
    names = [name for chains in drawn for chain in chains for name, _, _ in chain]
    depths = [sum(name != "Identity" for name, _, _ in chain) for chains in drawn for chain in chains]
    counts = torch.tensor([depths.count(depth) for depth in (1, 2, 3)]).double()
    assert ((counts - 9000) ** 2 / 9000).sum() < 14
    counts = torch.tensor([names.count(name) for name in OPS[1:]]).double()
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 35
