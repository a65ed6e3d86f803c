"""How a photo of any shape becomes an image of the one size that a model takes: cut, padded or stretched.

Nothing heavy is imported, as options are parsed with it; `data/decode.py` does it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

FITS = ("crop", "pad", "stretch")


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
