"""Exported files beside the model itself: the same classes, how far probabilities differ, accuracy, speed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from common.tables import as_markdown
from deploy.pictures import Batch

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 RGB (B, H, W, 3) -> probabilities, float32 (B, K)


@dataclass
class Agreement:
    """How two sets of probabilities compare, summed up over batches."""

    images: int = 0
    same: int = 0
    largest: float = 0.0
    total: float = 0.0
    classes: int = 1

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Count probabilities, float32 (B, K), and what they are compared with; NaN differs without bounds."""
        apart = np.nan_to_num(np.abs(found - expected), nan=np.inf)
        self.images += len(found)
        self.classes = found.shape[1]
        self.same += int((found.argmax(1) == expected.argmax(1)).sum())
        self.largest = max(self.largest, float(apart.max(initial=0.0)))
        self.total += float(apart.sum())

    @property
    def share(self) -> float:
        """Of the images, those with the same likeliest class."""
        return self.same / max(self.images, 1)

    @property
    def mean(self) -> float:
        """The mean difference of a probability."""
        return self.total / max(self.images * self.classes, 1)


@dataclass
class Result:
    """What the check found of a file.

    Attributes:
        name: of the file.
        size: in bytes.
        held: whether it is held to --tolerance.
        prepared: on pictures of the model's own size.
        original: on pictures as they are in their files.
        correct, labelled: right answers, of how many.
        seconds: that the pictures of the model's size took, a batch at a time.
    """

    name: str
    size: int
    held: bool = True
    prepared: Agreement = field(default_factory=Agreement)
    original: Agreement = field(default_factory=Agreement)
    correct: int = 0
    labelled: int = 0
    seconds: float = 0.0

    def exceeds(self, tolerance: float) -> bool:
        """Whether a file that is held to it differs by more."""
        return self.held and not self.prepared.largest <= tolerance


def compare(
    name: str,
    size: int,
    predict: Predict,
    batches: Iterable[Batch],
    expected: list[tuple[np.ndarray, np.ndarray | None]],
    *,
    held: bool = True,
) -> Result:
    """Run a file over pictures, with the model's own answers beside it.

    Args:
        name, size, held: see `Result`.
        predict: the file's answers.
        batches: the pictures.
        expected: the model's own answers for `Batch.images` and `Batch.of_originals`, a batch at a time.
    """
    result = Result(name, size, held)
    for number, (batch, (answers, of_originals)) in enumerate(zip(batches, expected, strict=True)):
        if number == 0:
            predict(batch.pictures)  # a warm-up
        start = time.perf_counter()
        found = predict(batch.pictures)
        result.seconds += time.perf_counter() - start
        result.prepared.add(found, answers)
        if batch.labels is not None:
            result.correct += int((found.argmax(1) == batch.labels).sum())
            result.labelled += len(found)
        for picture, answer in zip(batch.originals or [], [] if of_originals is None else of_originals, strict=True):
            result.original.add(predict(picture[None]), answer[None])
    return result


def as_text(results: list[Result]) -> str:
    """A table with a row for each file; the first is the model itself."""
    first, own_size = results[0], any(result.original.images for result in results)
    header = ["file", "MB", "same class", "largest difference", "mean difference"]
    header += ["accuracy"] * bool(first.labelled) + ["images/s"]
    header += ["own size: same class", "largest", "mean"] * own_size
    rows = [header]
    for result in results:
        row = [result.name, f"{result.size / 1e6:.2f}", *_figures(result.prepared)]
        row += [f"{100 * result.correct / result.labelled:.2f} %"] if result.labelled else []
        row += [f"{result.prepared.images / max(result.seconds, 1e-9):,.0f}"]
        row += _figures(result.original) if result.original.images else [""] * own_size * 3
        rows.append(row)
    return as_markdown(rows)


def _figures(found: Agreement) -> list[str]:
    return [f"{100 * found.share:.2f} %", f"{found.largest:.1e}", f"{found.mean:.1e}"]
