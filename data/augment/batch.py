"""Augmentation of whole batches on their device, for each sample a pure function of (seed, epoch, index).

No generator is kept or advanced: what is drawn is hashed from those numbers, so the bits are the same
whatever the batch, the number of processes, or the step a run resumed from.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from data.augment import boxes, photo, randaugment
from data.augment.arithmetic import divide
from data.augment.augmix import AugMix
from data.augment.boxes import RandomCrop
from data.augment.draws import Epoch, beta_quantiles, integers, interpolate, uniform
from data.augment.spec import parse

__all__ = ["Augment", "integers", "parse", "uniform"]

# One stream for each number drawn, so that no two draws of a sample are related.
FLIP, CROP_Y, CROP_X, CUTOUT_Y, CUTOUT_X, PARTNER, MIX_KIND, MIX_LAMBDA, BOX_Y, BOX_X, BRIGHTNESS, CONTRAST = range(12)
VFLIP, ANGLE, COLOR_ORDER, GREY, BLUR, BLUR_WIDTH, ERASE = range(12, 19)
FIRST_COLOR = 20  # then one stream for each property
FIRST_OP = 100  # then three streams for each operation of RandAugment
FIRST_CROP, FIRST_ERASED = 200, 300  # then those of a box
FIRST_AUGMIX = 500  # then those of its chains


class Augment:
    """The augmentations in `spec`, as `parse` gives it.

    `num_samples` is the length of the training part, from which mixing draws its partners. `fill` is the
    colour, 0..255, of what is cut out or brought in from outside an image: one number, or one a channel; the
    data's mean makes it about 0 after normalisation.

    Attributes:
        crop: the random resized crop, if the spec names one.
    """

    def __init__(
        self, spec: dict[str, tuple[float, ...]], seed: int, num_samples: int, fill: Sequence[int] = (0,)
    ) -> None:
        self.spec, self.seed, self.num_samples = spec, seed, num_samples
        self._fill = torch.tensor(fill, dtype=torch.uint8)
        self.crop = RandomCrop(seed, FIRST_CROP, *spec["rrc"]) if "rrc" in spec else None
        self._augmix = AugMix(seed, FIRST_AUGMIX, *spec["augmix"]) if "augmix" in spec else None
        self._quantiles = {name: beta_quantiles(*2 * spec[name]) for name in ("mixup", "cutmix") if name in spec}

    def __call__(self, images: Tensor, indices: Tensor, epoch: Epoch, *, cropped: bool = False) -> Tensor:
        """What the spec names, in this order: random resized crop, flip and crop, rotation, RandAugment,
        TrivialAugment or AugMix, colour, grey, blur, cutout, erasing.

        `images` uint8 (B, H, W, C) with C 1 or 3; `indices` int64 (B,), the samples' indices in the data set,
        on the same device; `epoch` of all, or of each, int64 (B,); `cropped` says that they are random resized
        crops already. Returns uint8 (B, H, W, C); `images` is left as it was.

        Raises ValueError for images of another kind, or smaller than `crop` can reflect.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(f"augment takes uint8 (B, H, W, 1 or 3), not {images.dtype} {tuple(images.shape)}")
        if len(self._fill) not in (1, images.shape[-1]):
            raise ValueError(f"fill has {len(self._fill)} numbers for images of {images.shape[-1]} channels")
        self._fill = self._fill.to(images.device)
        if self.crop is not None and not cropped:
            images = photo.resized_crop(images, *self.crop.boxes(images.shape[1:3], indices, epoch))
        if self.spec.keys() & {"flip", "altflip", "vflip", "crop"}:
            images = self._flip_and_crop(images, indices, epoch)
        if "rotate" in self.spec:
            steps = integers(self.seed, epoch, indices, ANGLE, 2 * photo.STEPS + 1) - photo.STEPS
            images = photo.rotate(images, steps, self.spec["rotate"][0], self._fill)
        images = self._apply_policy(images, indices, epoch)
        if "color" in self.spec:
            images = self._change_color(images, indices, epoch)
        if "grayscale" in self.spec:
            chosen = uniform(self.seed, epoch, indices, GREY) < self.spec["grayscale"][0]
            images = torch.where(chosen.view(-1, 1, 1, 1), photo.to_grey(images), images)
        if "blur" in self.spec:
            images = self._blur(images, indices, epoch)
        if "cutout" in self.spec:
            images = self._cut_out(images, indices, epoch)
        if "erase" in self.spec:
            images = self._erase(images, indices, epoch)
        return images

    def _flip_and_crop(self, images: Tensor, indices: Tensor, epoch: Epoch) -> Tensor:
        batch, height, width, channels = images.shape
        padding = int(self.spec.get("crop", (0,))[0])
        if padding >= min(height, width):
            raise ValueError(
                f"crop={padding} reflects {padding} pixels, and an image of {height} x {width} has at most "
                f"{min(height, width) - 1} to reflect: give a smaller crop, or none"
            )
        flips = self._flips(indices, epoch)
        if not padding:  # the same bits as below, for less: of large images a gather takes long
            for side, chosen in flips.items():
                images = torch.where(chosen.view(-1, 1, 1, 1), images.flip(side), images)
            return images
        shift_y, shift_x = integers(self.seed, epoch, indices, (CROP_Y, CROP_X), 2 * padding + 1) - padding
        positions = {1: _reflected(shift_y, height), 2: _reflected(shift_x, width)}
        for side, chosen in flips.items():
            positions[side] = torch.where(chosen[:, None], positions[side].flip(1), positions[side])
        first = torch.arange(batch, device=images.device)[:, None] * height
        # The fastest gather of those tried: whole pixels of a flat view, with no padded copy.
        pixels = ((first + positions[1])[:, :, None] * width + positions[2][:, None, :]).view(-1)
        return images.reshape(-1, channels).index_select(0, pixels).view(images.shape)

    def _flips(self, indices: Tensor, epoch: Epoch) -> dict[int, Tensor]:
        """Which images are flipped, bool (B,), by dimension of the batch: 1 is upside down, 2 left to right."""
        flips = {}
        if "flip" in self.spec:
            flips[2] = uniform(self.seed, epoch, indices, FLIP) < self.spec["flip"][0]
        if "altflip" in self.spec:  # Jordan 2024, arXiv:2404.00498: two epochs in a row show both sides
            flips[2] = (uniform(self.seed, 0, indices, FLIP) < 0.5) ^ (epoch % 2 == 1)
        if "vflip" in self.spec:
            flips[1] = uniform(self.seed, epoch, indices, VFLIP) < self.spec["vflip"][0]
        return flips

    def jitter(self, indices: Tensor, epoch: Epoch) -> tuple[Tensor, Tensor] | None:
        """(shift, factor), each float32 (B, 1, 1, 1), of normalised pixels: (x + shift) * factor; None: no jitter."""
        if "jitter" not in self.spec:
            return None
        drawn = uniform(self.seed, epoch, indices, (BRIGHTNESS, CONTRAST))
        shift, change = (2 * drawn - 1) * self.spec["jitter"][0]
        return shift[:, None, None, None], 1 + change[:, None, None, None]

    def _apply_policy(self, images: Tensor, indices: Tensor, epoch: Epoch) -> Tensor:
        """RandAugment, TrivialAugment or AugMix: a spec has one of them at most."""
        if self._augmix is not None:
            return self._augmix(images, indices, epoch, self._fill)
        if "randaugment" in self.spec:
            num_ops, magnitude = map(int, self.spec["randaugment"])
            bins = torch.full_like(indices, magnitude)
            for turn in range(num_ops):
                images = self._operate(images, indices, epoch, turn, bins, randaugment.RANDAUGMENT)
        if "trivialaugment" in self.spec:
            bins = integers(self.seed, epoch, indices, FIRST_OP + 2, randaugment.TRIVIALAUGMENT.bins + 1)
            images = self._operate(images, indices, epoch, 0, bins, randaugment.TRIVIALAUGMENT)
        return images

    def _operate(
        self, images: Tensor, indices: Tensor, epoch: Epoch, turn: int, bins: Tensor, space: randaugment.Space
    ) -> Tensor:
        stream = FIRST_OP + 3 * turn
        ops = integers(self.seed, epoch, indices, stream, len(randaugment.OPS))
        signs = 2 * integers(self.seed, epoch, indices, stream + 1, 2) - 1
        return randaugment.apply_ops(images, ops, bins, signs, space, self._fill)

    def _cut_out(self, images: Tensor, indices: Tensor, epoch: Epoch) -> Tensor:
        """Cutout: a square about a uniform centre, clipped at the border. DeVries and Taylor 2017."""
        _, height, width, _ = images.shape
        spans = []
        for stream, side in ((CUTOUT_Y, height), (CUTOUT_X, width)):
            size = int(self.spec["cutout"][0])
            start = integers(self.seed, epoch, indices, stream, side) - size // 2
            spans.append(_span(start, start + size, side))
        return self._filled(images, *spans)

    def _erase(self, images: Tensor, indices: Tensor, epoch: Epoch) -> Tensor:
        """Random erasing, with the fill. Zhong et al. 2017, arXiv:1708.04896."""
        _, height, width, _ = images.shape
        drawn = (self.seed, epoch, indices, FIRST_ERASED)
        top, left, tall, wide = boxes.to_erase((height, width), *drawn)
        tall = torch.where(uniform(self.seed, epoch, indices, ERASE) < self.spec["erase"][0], tall, 0)
        return self._filled(images, _span(top, top + tall, height), _span(left, left + wide, width))

    def _filled(self, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """`images` with the fill where row and column are both marked, bool (B, H) and (B, W)."""
        _, _, width, channels = images.shape
        # Rows of width * channels bytes: a mask broadcast over three channels is far slower.
        hole = rows[:, :, None] & columns.repeat_interleave(channels, dim=1)[:, None, :]
        fill = self._fill.expand(channels).repeat(width)
        return torch.where(hole, fill, images.flatten(2)).view(images.shape)

    def _change_color(self, images: Tensor, indices: Tensor, epoch: Epoch) -> Tensor:
        """Brightness, contrast, saturation and hue, each image's in its own order, as torchvision's ColorJitter."""
        orders = torch.tensor(list(itertools.permutations(range(len(photo.COLORS)))), device=images.device)
        order = orders[integers(self.seed, epoch, indices, COLOR_ORDER, len(orders))]
        images = images.clone()
        for turn in range(len(photo.COLORS)):
            for number, (name, most) in enumerate(zip(photo.COLORS, self.spec["color"], strict=True)):
                rows = (order[:, turn] == number).nonzero().view(-1)
                if most and len(rows):
                    drawn = uniform(self.seed, epoch, indices, FIRST_COLOR + number)[rows]
                    images[rows] = photo.adjust(images[rows], name, (2 * drawn - 1) * most)
        return images

    def _blur(self, images: Tensor, indices: Tensor, epoch: Epoch) -> Tensor:
        rows = (uniform(self.seed, epoch, indices, BLUR) < self.spec["blur"][0]).nonzero().view(-1)
        images = images.clone()
        if len(rows):
            steps = integers(self.seed, epoch, indices, BLUR_WIDTH, photo.STEPS + 1)
            images[rows] = photo.blur(images[rows], steps[rows])
        return images

    @property
    def mixes(self) -> bool:
        """Whether a batch is to be mixed with partners: mixup or cutmix is in the spec."""
        return bool(self._quantiles)

    def partners(self, indices: Tensor, epoch: Epoch) -> Tensor:
        """Each sample's partner, int64 (B,): positions 0..num_samples-1 in the training part."""
        return integers(self.seed, epoch, indices, PARTNER, self.num_samples)

    def mix(
        self,
        images: Tensor,
        partners: Tensor,
        targets: Tensor,
        partner_targets: Tensor,
        indices: Tensor,
        epoch: Epoch,
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
            share = interpolate(self._quantiles["mixup"], u)
            ways.append((share[:, None, None], share))
        if "cutmix" in self.spec:
            share = interpolate(self._quantiles["cutmix"], u)
            ways.append(self._cut_mix(share, indices, epoch, *images.shape[-2:]))
        weight, share = ways[0]
        if len(ways) == 2:
            cuts = integers(self.seed, epoch, indices, MIX_KIND, 2) == 1
            weight = torch.where(cuts[:, None, None], ways[1][0], weight)
            share = torch.where(cuts, ways[1][1], share)
        weight, share = weight[:, None].to(images.dtype), share[:, None].to(targets.dtype)
        mixed = (images * weight).add_(partners * (1 - weight))
        return mixed, targets * share + partner_targets * (1 - share)

    def _cut_mix(self, share: Tensor, indices: Tensor, epoch: Epoch, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Weight of each pixel, 0 in the partner's box and 1 outside, (B, H, W); and its mean, (B,)."""
        radius = (1 - share).sqrt() / 2
        spans = []
        for stream, side in ((BOX_Y, height), (BOX_X, width)):
            centre = integers(self.seed, epoch, indices, stream, side)
            reach = (radius * side).long()
            spans.append(_span(centre - reach, centre + reach, side))
        box = spans[0][:, :, None] & spans[1][:, None, :]
        # Counted, since the border clips boxes.
        return (~box).float(), 1 - divide((spans[0].sum(1) * spans[1].sum(1)).float(), height * width)


def _reflected(shift: Tensor, side: int) -> Tensor:
    """0..side-1 plus each shift, int64 (B, side), mirrored at the first and last without repeating them."""
    position = (torch.arange(side, device=shift.device) + shift[:, None]).abs()
    return side - 1 - (side - 1 - position).abs()


def _span(start: Tensor, stop: Tensor, side: int) -> Tensor:
    """Whether each of 0..side-1 lies in [start, stop), bool (B, side)."""
    position = torch.arange(side, device=start.device)
    return (position >= start[:, None]) & (position < stop[:, None])
