"""A micro-batch of a stream, decoded: in a worker process, or in the training process by its threads."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from data.augment.boxes import RandomCrop
from data.decode import UNREADABLE, complaint, open_image, to_array, upright_size
from data.geometry import Geometry
from data.loader import Batch
from data.photo_crops import cropped, is_plain_jpeg
from data.pixel_range import Ranges
from data.streams.order import Sample, StreamDraw
from data.threads import of_a_batch


class Cut(NamedTuple):
    """What is cut out of a photo: its upright (height, width), the box, and whether it is decoded quickly."""

    size: tuple[int, int]
    box: Sequence[int]
    plain: bool


class StreamedImages(Dataset):
    """Decodes what a `StreamSampler` draws.

    Args:
        shape: (H, W, C) of each image.
        ranges, geometry: by which they are prepared; see `to_array`.
        crop: cut out of the photos at random; None: they are prepared as those that are tested on.
        skip_bad_images: have another of the batch in the place of one that cannot be decoded.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        ranges: Ranges,
        geometry: Geometry,
        crop: RandomCrop | None,
        skip_bad_images: bool,
    ) -> None:
        self.shape, self.ranges, self.geometry = shape, ranges, geometry
        self.crop, self.skip_bad_images = crop, skip_bad_images

    def __getitems__(self, draw: StreamDraw) -> Batch:
        """The samples of a draw.

        Raises:
            UserError: one cannot be decoded, and was not to be skipped; or none can.
        """
        samples, bad = draw.samples, {}
        ids, labels = (torch.tensor([sample[field] for sample in samples]) for field in (0, 2))
        cuts = None if self.crop is None else self._cuts(self.crop, samples, ids, draw.epoch, bad)
        images = np.zeros((len(samples), *self.shape), dtype=np.uint8)

        def decode(position: int) -> None:
            if position not in bad:
                images[position] = self._decoded(samples[position].encoded, cuts and cuts[position])

        _each(decode, len(samples), bad)
        if bad and (not self.skip_bad_images or len(bad) == len(samples)):
            raise UserError(_refusal(samples, bad))
        good = [position for position in range(len(samples)) if position not in bad]
        chosen = [position if position not in bad else good[position % len(good)] for position in range(len(samples))]
        return Batch(torch.from_numpy(images[chosen]), labels[chosen], ids[chosen], cropped=cuts is not None)

    def _cuts(self, crop: RandomCrop, samples: list[Sample], ids: Tensor, epoch: int, bad: dict[int, str]) -> list[Cut]:
        """What is cut out of each, drawn at random for (seed, epoch, id)."""

        def look(position: int) -> tuple[tuple[int, int], bool]:
            with open_image(samples[position].encoded) as image:
                return upright_size(image), is_plain_jpeg(image, self.shape[2])

        seen = [found or ((1, 1), False) for found in _each(look, len(samples), bad)]
        sizes = torch.tensor([size for size, _ in seen]).unbind(1)
        boxes = torch.stack(crop.boxes(sizes, ids, epoch), 1).tolist()
        return [Cut(size, box, plain) for (size, plain), box in zip(seen, boxes, strict=True)]

    def _decoded(self, encoded: dict, cut: Cut | None) -> np.ndarray:
        if cut is not None:
            return cropped(encoded, cut.size, cut.box, self.shape, cut.plain, self.ranges)
        height, width, channels = self.shape
        with open_image(encoded) as image:
            return to_array(image, channels, (height, width), self.ranges, self.geometry)


def _each(work: Callable[[int], object], length: int, bad: dict[int, str]) -> list:
    """`work` for 0..length-1, by this process's threads; None, and a word in `bad`, where an image is unreadable."""

    def guarded(position: int) -> object:
        try:
            return work(position)
        except MemoryError:
            raise
        except UNREADABLE as error:
            bad[position] = complaint(error)
            return None

    return of_a_batch(guarded, length)


def _refusal(samples: list[Sample], bad: dict[int, str]) -> str:
    position = min(bad)
    where = (samples[position].encoded or {}).get("path") or f"image {samples[position].id} of the stream"
    if len(bad) == len(samples):
        return f"{where}: {bad[position]}, and so it is with all {len(samples)} of its batch"
    return (
        f"{where}: {bad[position]}; give --skip-bad-images to have another of its batch in its place, and go on by "
        "--resume auto"
    )
