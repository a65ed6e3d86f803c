"""Images that stay encoded: each is decoded whenever it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError
from data.augment.boxes import RandomCrop
from data.augment.draws import Epoch
from data.decode import UNREADABLE, complaint, open_image, to_array
from data.geometry import Geometry
from data.photo_crops import cropped
from data.pixel_range import Ranges
from data.threads import of_a_batch


@dataclass(frozen=True)
class LiveImages:
    """The images of a split where decoded ones would be an array: asked for some, it decodes them.

    Attributes:
        read: the number of an image -> its encoded form, as `open_image` takes it.
        shape: (N, H, W, C) of all of them, decoded.
        sizes: int32 (N, 2), each one's own upright height and width in pixels.
        plain: bool (N,), whether it is a JPEG that the quick decoder decodes as Pillow does.
        ranges, geometry: by which they are prepared; see `to_array`.
    """

    read: Callable[[int], dict | str]
    shape: tuple[int, int, int, int]
    sizes: np.ndarray
    plain: np.ndarray
    ranges: Ranges
    geometry: Geometry

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Some of them, uint8 (B, H, W, C): bit for bit what is kept of them where they are decoded once."""
        _, height, width, channels = self.shape

        def prepared(position: int) -> np.ndarray:
            with open_image(self.read(int(rows[position]))) as image:
                return to_array(image, channels, (height, width), self.ranges, self.geometry)

        return self._each(rows, prepared)

    def crops(self, rows: np.ndarray, crop: RandomCrop, epoch: Epoch) -> np.ndarray:
        """A part of each, drawn at random for (seed, epoch, row) and resized, uint8 (B, H, W, C)."""
        _, height, width, channels = self.shape
        own_size = torch.from_numpy(self.sizes[rows].astype(np.int64)).unbind(1)
        boxes = torch.stack(crop.boxes(own_size, torch.from_numpy(rows), epoch), 1).tolist()

        def prepared(position: int) -> np.ndarray:
            row = int(rows[position])
            size = (height, width, channels)
            return cropped(self.read(row), self.sizes[row], boxes[position], size, self.plain[row], self.ranges)

        return self._each(rows, prepared)

    def _each(self, rows: np.ndarray, prepared: Callable[[int], np.ndarray]) -> np.ndarray:
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)

        def fill(position: int) -> None:
            try:
                images[position] = prepared(position)
            except MemoryError:
                raise
            except UNREADABLE as error:
                where = _where(self.read(int(rows[position])), f"image {rows[position]}")
                raise UserError(
                    f"{where} could be decoded when the run began and cannot be now: {complaint(error)}; put it "
                    "back as it was, and go on by --resume"
                ) from error

        of_a_batch(fill, len(rows))
        return images


@dataclass(frozen=True)
class Rows:
    """Reads the encoded images of a split; a class, so that worker processes can be given it."""

    read: Callable[[range], list[dict]]
    rows: np.ndarray

    def __call__(self, number: int) -> dict:
        row = int(self.rows[number])
        return self.read(range(row, row + 1))[0]


def _where(encoded: dict | str, otherwise: str) -> str:
    return encoded if isinstance(encoded, str) else encoded.get("path") or otherwise
