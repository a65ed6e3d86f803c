"""Augmentation of whole batches on their device, for each sample a pure function of (seed, epoch, index).

No generator is kept or advanced: what is drawn is hashed from those numbers, so the bits are the same
whatever the batch, the number of processes, or the step a run resumed from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.augment import randaugment
from data.augment.spec import parse

__all__ = ["Augment", "integers", "parse", "uniform"]

# One stream for each number drawn, so that no two draws of a sample are related.
FLIP, CROP_Y, CROP_X, CUTOUT_Y, CUTOUT_X, PARTNER, MIX_KIND, MIX_LAMBDA, BOX_Y, BOX_X, BRIGHTNESS, CONTRAST = range(12)
FIRST_OP = 100  # then three streams for each operation of RandAugment

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
QUANTILES = 4096


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _hash(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """64 mixed bits as int64 (B,): splitmix64's finaliser (Steele et al. 2014) over each number in turn."""
    # The numbers before the indices meet in a tensor of no dimensions, which needs no copy to the device.
    x = torch.tensor(GOLDEN, device="cpu")
    for number in (seed, epoch, stream, indices):
        x = (x ^ number) * GOLDEN
        x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
        x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
        x = x ^ _shift_right(x, 31)
    return x


def uniform(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 (B,), multiples of 2**-24, hashed from all four arguments.

    `indices` int64 (B,), on any device; the result is there too, with the same bits on each. `seed`, `epoch`
    and `stream` fit in int64.
    """
    return _shift_right(_hash(seed, epoch, indices, stream), 40).float() * 2**-24


def integers(seed: int, epoch: int, indices: Tensor, stream: int, high: int) -> Tensor:
    """Uniform integers in 0..high-1, int64 (B,); arguments as in `uniform`."""
    return _shift_right(_hash(seed, epoch, indices, stream), 1) % high


class Augment:
    """The augmentations in `spec`, as `parse` gives it.

    `num_samples` is the length of the training part, from which mixing draws its partners. `fill` is the
    colour, 0..255, of what is cut out or brought in from outside an image: one number, or one a channel; the
    data's mean makes it about 0 after normalisation.
    """

    def __init__(
        self, spec: dict[str, tuple[float, ...]], seed: int, num_samples: int, fill: Sequence[int] = (0,)
    ) -> None:
        self.spec, self.seed, self.num_samples = spec, seed, num_samples
        self._fill = torch.tensor(fill, dtype=torch.uint8)
        self._quantiles = {name: _beta_quantiles(*spec[name]) for name in ("mixup", "cutmix") if name in spec}

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Flip, crop, RandAugment or TrivialAugment, and cutout, in that order, of what the spec names.

        `images` uint8 (B, H, W, C) with C 1 or 3; `indices` int64 (B,), the samples' indices in the data set,
        on the same device. Returns uint8 (B, H, W, C); `images` is left as it was.

        Raises ValueError for images of another kind, or smaller than `crop` can reflect.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(f"augment takes uint8 (B, H, W, 1 or 3), not {images.dtype} {tuple(images.shape)}")
        if len(self._fill) not in (1, images.shape[-1]):
            raise ValueError(f"fill has {len(self._fill)} numbers for images of {images.shape[-1]} channels")
        self._fill = self._fill.to(images.device)
        if self.spec.keys() & {"flip", "altflip", "crop"}:
            images = self._flip_and_crop(images, indices, epoch)
        if "randaugment" in self.spec:
            num_ops, magnitude = map(int, self.spec["randaugment"])
            bins = torch.full_like(indices, magnitude)
            for turn in range(num_ops):
                images = self._operate(images, indices, epoch, turn, bins, randaugment.RANDAUGMENT)
        if "trivialaugment" in self.spec:
            bins = integers(self.seed, epoch, indices, FIRST_OP + 2, randaugment.MAX_BIN + 1)
            images = self._operate(images, indices, epoch, 0, bins, randaugment.TRIVIALAUGMENT)
        if "cutout" in self.spec:
            images = self._cut_out(images, indices, epoch)
        return images

    def _flip_and_crop(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        batch, height, width, channels = images.shape
        padding = int(self.spec.get("crop", (0,))[0])
        if padding >= min(height, width):
            raise ValueError(
                f"crop={padding} reflects {padding} pixels, and an image of {height} x {width} has at most "
                f"{min(height, width) - 1} to reflect: give a smaller crop, or none"
            )
        shift_y, shift_x = (
            integers(self.seed, epoch, indices, stream, 2 * padding + 1) - padding for stream in (CROP_Y, CROP_X)
        )
        rows, columns = _reflected(shift_y, height), _reflected(shift_x, width)
        flipped = self._flipped(indices, epoch)
        if flipped is not None:
            columns = torch.where(flipped[:, None], columns.flip(1), columns)
        first = torch.arange(batch, device=images.device)[:, None] * height
        # The fastest gather of those tried: whole pixels of a flat view, with no padded copy.
        pixels = ((first + rows)[:, :, None] * width + columns[:, None, :]).view(-1)
        return images.reshape(-1, channels).index_select(0, pixels).view(images.shape)

    def _flipped(self, indices: Tensor, epoch: int) -> Tensor | None:
        if "flip" in self.spec:
            return uniform(self.seed, epoch, indices, FLIP) < self.spec["flip"][0]
        if "altflip" in self.spec:  # Jordan 2024, arXiv:2404.00498: two epochs in a row show both sides
            return (uniform(self.seed, 0, indices, FLIP) < 0.5) ^ (epoch % 2 == 1)
        return None

    def jitter(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor] | None:
        """(shift, factor), each float32 (B, 1, 1, 1), of normalised pixels: (x + shift) * factor; None: no jitter."""
        if "jitter" not in self.spec:
            return None
        drawn = (uniform(self.seed, epoch, indices, stream) for stream in (BRIGHTNESS, CONTRAST))
        shift, change = ((2 * u - 1) * self.spec["jitter"][0] for u in drawn)
        return shift[:, None, None, None], 1 + change[:, None, None, None]

    def _operate(
        self, images: Tensor, indices: Tensor, epoch: int, turn: int, bins: Tensor, space: randaugment.Space
    ) -> Tensor:
        stream = FIRST_OP + 3 * turn
        ops = integers(self.seed, epoch, indices, stream, len(randaugment.OPS))
        signs = 2 * integers(self.seed, epoch, indices, stream + 1, 2) - 1
        return randaugment.apply_ops(images, ops, bins, signs, space, self._fill)

    def _cut_out(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Cutout: a square about a uniform centre, clipped at the border. DeVries and Taylor 2017."""
        _, height, width, channels = images.shape
        spans = []
        for stream, side in ((CUTOUT_Y, height), (CUTOUT_X, width)):
            size = int(self.spec["cutout"][0])
            start = integers(self.seed, epoch, indices, stream, side) - size // 2
            spans.append(_span(start, start + size, side))
        # Rows of width * channels bytes: a mask broadcast over three channels is far slower.
        hole = spans[0][:, :, None] & spans[1].repeat_interleave(channels, dim=1)[:, None, :]
        fill = self._fill.expand(channels).repeat(width)
        return torch.where(hole, fill, images.flatten(2)).view(images.shape)

    @property
    def mixes(self) -> bool:
        """Whether a batch is to be mixed with partners: mixup or cutmix is in the spec."""
        return bool(self._quantiles)

    def partners(self, indices: Tensor, epoch: int) -> Tensor:
        """Each sample's partner, int64 (B,): positions 0..num_samples-1 in the training part."""
        return integers(self.seed, epoch, indices, PARTNER, self.num_samples)

    def mix(
        self,
        images: Tensor,
        partners: Tensor,
        targets: Tensor,
        partner_targets: Tensor,
        indices: Tensor,
        epoch: int,
    ) -> tuple[Tensor, Tensor]:
        """Mix each image and target with its partner's, by mixup or CutMix; half of each if both are named.

        `images` and `partners` float (B, C, H, W); `targets` and `partner_targets` float (B, K), one-hot or
        soft; `indices` int64 (B,) as for the call. Returns the mixed images and targets, shaped and typed as
        given. In CutMix the targets' shares are the shares of the pixels.

        Sources: Zhang et al. 2017, "mixup"; Yun et al. 2019, "CutMix".
        """
        self._quantiles = {name: table.to(images.device) for name, table in self._quantiles.items()}
        u = uniform(self.seed, epoch, indices, MIX_LAMBDA)
        ways = []
        if "mixup" in self.spec:
            share = _interpolate(self._quantiles["mixup"], u)
            ways.append((share[:, None, None], share))
        if "cutmix" in self.spec:
            share = _interpolate(self._quantiles["cutmix"], u)
            ways.append(self._cut_mix(share, indices, epoch, *images.shape[-2:]))
        weight, share = ways[0]
        if len(ways) == 2:
            cuts = integers(self.seed, epoch, indices, MIX_KIND, 2) == 1
            weight = torch.where(cuts[:, None, None], ways[1][0], weight)
            share = torch.where(cuts, ways[1][1], share)
        weight, share = weight[:, None].to(images.dtype), share[:, None].to(targets.dtype)
        mixed = (images * weight).add_(partners * (1 - weight))
        return mixed, targets * share + partner_targets * (1 - share)

    def _cut_mix(self, share: Tensor, indices: Tensor, epoch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Weight of each pixel, 0 in the partner's box and 1 outside, (B, H, W); and its mean, (B,)."""
        radius = (1 - share).sqrt() / 2
        spans = []
        for stream, side in ((BOX_Y, height), (BOX_X, width)):
            centre = integers(self.seed, epoch, indices, stream, side)
            reach = (radius * side).long()
            spans.append(_span(centre - reach, centre + reach, side))
        box = spans[0][:, :, None] & spans[1][:, None, :]
        # Counted, since the border clips boxes.
        return (~box).float(), 1 - spans[0].sum(1) * spans[1].sum(1) / (height * width)


def _reflected(shift: Tensor, side: int) -> Tensor:
    """0..side-1 plus each shift, int64 (B, side), mirrored at the first and last without repeating them."""
    position = (torch.arange(side, device=shift.device) + shift[:, None]).abs()
    return side - 1 - (side - 1 - position).abs()


def _span(start: Tensor, stop: Tensor, side: int) -> Tensor:
    """Whether each of 0..side-1 lies in [start, stop), bool (B, side)."""
    position = torch.arange(side, device=start.device)
    return (position >= start[:, None]) & (position < stop[:, None])


def _beta_quantiles(alpha: float) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at 0, 1/4096, ..., 1 as float32."""
    from scipy.special import betaincinv  # slow to import, so only for mixing

    return torch.from_numpy(betaincinv(alpha, alpha, torch.linspace(0, 1, QUANTILES + 1).double().numpy())).float()


def _interpolate(table: Tensor, u: Tensor) -> Tensor:
    """The quantile at each u in [0, 1), linear between those in the table."""
    position = u * QUANTILES
    below = position.long()
    return table[below] + (table[below + 1] - table[below]) * (position - below)
