"""Two models on the same images: whether the one is right more often than the other, or by chance."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import bdtr

from common.console import percent
from common.errors import UserError

ANSWERS = "test.csv"


@dataclass(frozen=True)
class Answers:
    """What a test.csv says.

    Attributes:
        images: the name and true class of each image.
        right: bool (N,), whether its likeliest class is that.
    """

    images: list[tuple[str, str]]
    right: np.ndarray


def read_answers(folder: Path) -> Answers | None:
    """What a report in `folder` says of each image; None where it has no such table, or one of several labels an image.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / ANSWERS
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not rows or not {"image", "true", "class_1"} <= rows[0].keys():
        return None
    images = [(row["image"], row["true"]) for row in rows]
    return Answers(images, np.array([row["true"] == row["class_1"] for row in rows]))


def mcnemar(one: np.ndarray, other: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (McNemar 1947): (images that one alone is right on, that the other alone is, p value).

    Args:
        one, other: bool (N,), which images each is right on. Where both are equally good, those that they differ on go
            to either like tosses of a coin; p is how likely a split is that is as uneven as this, or more.
    """
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    differing = only_one + only_other
    p = min(1.0, 2 * float(bdtr(min(only_one, only_other), differing, 0.5))) if differing else 1.0
    return only_one, only_other, p


def in_words(names: tuple[str, str], answers: tuple[Answers, Answers]) -> str:
    """McNemar's test of two models in a line."""
    one, other = answers
    if one.images != other.images:
        return f"{names[0]} and {names[1]} were tested on other images: no paired test"
    alone, other_alone, p = mcnemar(one.right, other.right)
    chance = f"p = {p:.2g}" if p >= 1e-3 else "p < 0.001"
    return (
        f"of {len(one.images):,} images {names[0]} alone is right on {alone:,}, {names[1]} alone on {other_alone:,}: "
        f"{chance} (McNemar's exact test)"
    )


def report(folders: list[Path]) -> str:
    """Reports on one set, as infer.py --dataset writes them: the accuracy of each, and each pair in a line.

    Raises:
        UserError: a folder holds no such report.
    """
    found = {str(folder): read_answers(folder) for folder in folders}
    missing = [name for name, answers in found.items() if answers is None]
    if missing:
        raise UserError(f"{missing[0]} holds no {ANSWERS} of a classifier: give the folder of a report")
    lines = [f"{name}: {percent(answers.right.mean())} of {len(answers.images):,}" for name, answers in found.items()]
    names = list(found)
    pairs = [(one, other) for number, one in enumerate(names) for other in names[number + 1 :]]
    return "\n".join([*lines, *(in_words(pair, (found[pair[0]], found[pair[1]])) for pair in pairs)])
