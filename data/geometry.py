"""How a photo of any shape becomes an image of the one size that a model takes: cut, padded or stretched."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image, ImageOps

FITS = ("crop", "pad", "stretch")
RESAMPLING = Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Geometry:
    """The way there.

    Attributes:
        fit: "crop" cuts the middle out, in the form of the input; "pad" keeps all and fills what is left of the input,
            on two sides (letterbox); "stretch" keeps all and lets go of the form.
        crop_pct: share of the height and width of that middle which is kept, as timm has it; for "crop".
        fill: one uint8 value a channel, which "pad" fills with; None: 0.
    """

    fit: str = "crop"
    crop_pct: float = 1.0
    fill: tuple[int, ...] | None = None

    def apply(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """`image`, of mode "L" or "RGB", as one of `size` (height, width) in pixels; bicubic, antialiased."""
        height, width = size
        if self.fit == "crop" and self.crop_pct < 1:
            return ImageOps.fit(image, (width, height), RESAMPLING, bleed=(1 - self.crop_pct) / 2)
        if (image.height, image.width) == size:
            return image
        if self.fit == "crop":
            return ImageOps.fit(image, (width, height), RESAMPLING)
        if self.fit == "pad":
            color = self.fill if self.fill is None or len(self.fill) > 1 else self.fill[0]
            return ImageOps.pad(image, (width, height), RESAMPLING, color=color)
        return image.resize((width, height), RESAMPLING)

    def share_left_out(self, image_size: tuple[int, int], size: tuple[int, int]) -> float:
        """The share of a photo's area that "crop" cuts off, 0..1; sizes are (height, width) in pixels."""
        if self.fit != "crop":
            return 0.0
        scale = min(image_size[0] / size[0], image_size[1] / size[1])
        return 1 - self.crop_pct**2 * scale**2 * size[0] * size[1] / (image_size[0] * image_size[1])

    def as_dict(self) -> dict:
        """Plain values, from which `from_dict` makes the same."""
        return asdict(self) | {"fill": None if self.fill is None else list(self.fill)}


MIDDLE = Geometry()  # all of it: what is done where nobody asks for anything else


def from_dict(values: Mapping | None) -> Geometry:
    """The geometry that `as_dict` was of; None, as of earlier versions: the middle, all of it."""
    if values is None:
        return MIDDLE
    fill = values["fill"]
    return Geometry(values["fit"], values["crop_pct"], None if fill is None else tuple(fill))


def filled(geometry: Geometry, photos: Iterable[np.ndarray]) -> Geometry:
    """The geometry with the mean of photos, uint8 (H, W, C) of any sizes, to pad with; each photo counts as much."""
    means = [photo.reshape(-1, photo.shape[-1]).mean(0) for photo in photos]
    return replace(geometry, fill=tuple(np.mean(means, 0).round().astype(int).tolist())) if means else geometry
