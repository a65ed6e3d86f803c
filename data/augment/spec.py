"""The text of the option `--augment`, read without importing torch, so that options are parsed at once."""

import itertools
from typing import NamedTuple


class Strength(NamedTuple):
    """One augmentation's strength: a number each of default and (least, most), whole where the default is written so;
    what the numbers mean."""

    default: tuple[float, ...]
    limits: tuple[tuple[float, float], ...]
    meaning: str


AUGMENTATIONS = {
    "flip": Strength((0.5,), ((0, 1),), "probability of a left-right flip"),
    "altflip": Strength((), (), "flipped or not at random at first, then the other way every other epoch"),
    "vflip": Strength((0.5,), ((0, 1),), "probability of an upside-down flip"),
    "rrc": Strength(
        (0.08, 4 / 3),
        ((0.001, 1), (1, 100)),
        "random resized crop, least share of the area : most of width over height and of height over width",
    ),
    "crop": Strength((4,), ((1, 1024),), "pixels of reflected padding to crop from"),
    "cutout": Strength((8,), ((1, 1024),), "side of the erased square, in pixels"),
    "rotate": Strength((15.0,), ((0, 180),), "most degrees, either way"),
    "color": Strength(
        (0.4, 0.4, 0.4, 0.1),
        ((0, 1), (0, 1), (0, 1), (0, 0.5)),
        "most change of brightness : contrast : saturation : hue, as shares, of hue in turns",
    ),
    "grayscale": Strength((0.1,), ((0, 1),), "probability of losing all colour"),
    "blur": Strength((0.1,), ((0, 1),), "probability of a Gaussian blur"),
    "erase": Strength((0.25,), ((0, 1),), "probability of a rectangle being erased, of 2 to 33 % of the area"),
    "jitter": Strength((0.1,), ((0, 1),), "change of brightness, in standard deviations, and of contrast"),
    "randaugment": Strength((2, 9), ((1, 14), (0, 30)), "operations : magnitude"),
    "trivialaugment": Strength((), (), "one operation of random magnitude, so no strength"),
    "augmix": Strength(
        (3, 3, -1, 1.0),
        ((1, 10), (1, 10), (-1, 10), (0.01, 100)),
        "severity : chains : operations of a chain, -1 for 1 to 3 at random : alpha of their shares",
    ),
    "mixup": Strength((0.2,), ((0.01, 100),), "alpha of Beta(alpha, alpha)"),
    "cutmix": Strength((1.0,), ((0.01, 100),), "alpha of Beta(alpha, alpha)"),
}

POLICIES = ("randaugment", "trivialaugment", "augmix")
EXCLUSIVE = (*itertools.combinations(POLICIES, 2), ("flip", "altflip"), ("crop", "rrc"))


def parse(spec: str) -> dict[str, tuple[float, ...]]:
    """Read augmentations with their strengths, such as `"flip,crop=4,randaugment=2:9"`.

    Names are separated by commas; `=` gives a strength other than the default, `:` separates its numbers.
    `"none"` and `""` are no augmentation. Returns name -> numbers, in the order written.

    Raises ValueError, with one line that names the fault and the remedy, for an unknown or repeated name, a
    strength that is no number or out of range, or augmentations that exclude each other.
    """
    found: dict[str, tuple[float, ...]] = {}
    if spec.strip() in ("", "none"):
        return found
    for item in spec.split(","):
        name, has_strength, strength = (part.strip() for part in item.partition("="))
        if name not in AUGMENTATIONS:
            raise ValueError(f"--augment: no augmentation is called {name!r}; there are {known()}, or none alone")
        if name in found:
            raise ValueError(f"--augment: {name} is named twice; name it once")
        found[name] = _numbers(name, strength) if has_strength else AUGMENTATIONS[name].default
    for one, other in EXCLUSIVE:
        if one in found and other in found:
            raise ValueError(f"--augment: {one} and {other} exclude each other; name one of them")
    return found


def parse_sizes(text: str) -> list[tuple[int, float]]:
    """Read `--train-sizes`, such as "20=0.5,32=0.5": (side in pixels, share of the epochs), in order.

    Raises ValueError, with one line, for what is no size, no share, or shares that do not add up to 1.
    """
    sizes = []
    for item in text.split(","):
        side, _, share = item.partition("=")
        try:
            sizes.append((int(side), float(share)))
        except ValueError:
            raise ValueError(f"--train-sizes: '{item}' is not PIXELS=SHARE, as in 20=0.5") from None
    if min(side for side, _ in sizes) < 4 or not make_a_whole([share for _, share in sizes]):
        raise ValueError(f"--train-sizes: '{text}' needs sides from 4 pixels, and shares that add up to 1")
    return sizes


def make_a_whole(shares: list[float]) -> bool:
    """Whether all are above 0 and they add up to 1; not where one is no number."""
    return min(shares) > 0 and abs(sum(shares) - 1) < 1e-6


def known() -> str:
    """Every augmentation with its default strength, written as `parse` reads it."""
    return ", ".join(_written(name, strength.default) for name, strength in AUGMENTATIONS.items())


def _written(name: str, numbers: tuple[float, ...]) -> str:
    return f"{name}={':'.join(f'{number:.4g}' for number in numbers)}" if numbers else name


def _numbers(name: str, text: str) -> tuple[float, ...]:
    default, limits, meaning = AUGMENTATIONS[name]
    if not default:
        raise ValueError(f"--augment: {name} takes no strength, not {text!r}; write {name} alone")
    parts = text.split(":")
    try:
        numbers = tuple(type(number)(part) for number, part in zip(default, parts, strict=True))
    except ValueError:
        numbers = ()
    in_range = [low <= number <= high for number, (low, high) in zip(numbers, limits, strict=False)]
    if not numbers or not all(in_range):
        whole = ["whole " if isinstance(number, int) else "" for number in default]
        ranges = " : ".join(f"{kind}{low} to {high}" for kind, (low, high) in zip(whole, limits, strict=True))
        raise ValueError(
            f"{name}={text} is out of range: give {meaning}, {ranges}, for example {_written(name, default)}"
        )
    return numbers
