"""The text of the option `--transform`, read without importing torch, so that options are parsed at once."""

from typing import NamedTuple


class Kind(NamedTuple):
    """What a transform is: its number's default (None: it must be given), limits, whole or not, and meaning."""

    default: float | None
    limits: tuple[float, float] | None
    whole: bool
    meaning: str


TRANSFORMS = {
    "resize": Kind(None, (1, 2048), True, "side of the square, in pixels; antialiased"),
    "crop": Kind(None, (1, 2048), True, "side of the square cut from the middle, in pixels"),
    "grayscale": Kind(None, None, True, "one channel of luminance"),
    "vflip": Kind(None, None, True, "upside down"),
    "hflip": Kind(None, None, True, "left and right exchanged"),
    "invert": Kind(None, None, True, "the negative"),
    "posterize": Kind(3, (1, 8), True, "bits kept of each number"),
    "solarize": Kind(128, (0, 255), True, "values from here on are inverted"),
    "gamma": Kind(2.0, (0.05, 20), False, "exponent"),
    "brightness": Kind(1.5, (0, 10), False, "factor"),
    "contrast": Kind(1.5, (0, 10), False, "factor"),
    "blur": Kind(3, (1, 99), True, "side of the Gaussian's window, in pixels, an odd number"),
}


def parse(spec: str) -> list[tuple[str, float | None]]:
    """Read transforms with their numbers, such as "resize=28,grayscale,vflip", in the order they are to be applied.

    Raises ValueError, with one line that names the fault and the remedy, for no transform at all, an unknown one, or a
    number that is missing, out of range, or given where none is taken.
    """
    return [_parse_one(*(part.strip() for part in item.partition("="))) for item in spec.split(",")]


def _parse_one(name: str, equals: str, text: str) -> tuple[str, float | None]:
    if name not in TRANSFORMS:
        raise ValueError(f"no transform is called {name!r}: there are {known()}")
    default, limits, whole, meaning = TRANSFORMS[name]
    if limits is None:
        if equals:
            raise ValueError(f"{name} takes no number, not {text!r}: write {name} alone")
        return name, None
    if not equals:
        if default is None:
            raise ValueError(f"{name} needs its number ({meaning}): write for example {name}=28")
        return name, default
    try:
        number = (int if whole else float)(text)
    except ValueError:
        number = None
    if number is None or not limits[0] <= number <= limits[1] or (name == "blur" and number % 2 == 0):
        kind = "whole, " if whole else ""
        raise ValueError(f"{name}={text}: give a number ({meaning}; {kind}{limits[0]} to {limits[1]})")
    return name, number


def known() -> str:
    """Every transform as `parse` reads it, with its default number where it has one."""
    written = []
    for name, (default, limits, _, _) in TRANSFORMS.items():
        number = "N" if default is None else default
        written.append(name if limits is None else f"{name}={number}")
    return ", ".join(written)
