"""What was measured, as a table for the screen and as JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benches.timing import Timing
from common.console import percent


@dataclass
class Row:
    """One variant: what was measured of it, or why it was not.

    Attributes:
        variant: its name.
        images: of one call.
        timing: None where it could not run.
        difference: largest difference of its outputs (gradients) from the reference's, as a share of the largest of
            those; None where there is nothing to compare.
        accuracy: of what makes images, the share of pixels within 0.05 of the target and within 0.01.
        reason: why it could not run, one line.
    """

    variant: str
    images: int
    timing: Timing | None = None
    difference: float | None = None
    accuracy: tuple[float, float] | None = None
    reason: str | None = None

    @property
    def speed(self) -> tuple[float, float, float]:
        """Images/s: (median, lowest, highest) of the rounds."""
        seconds = self.timing.seconds
        return self.images / self.timing.median, self.images / max(seconds), self.images / min(seconds)


@dataclass
class Section:
    """One bench's rows.

    Attributes:
        what: name of the bench.
        title: what was measured on what, one line.
        rows: in the order to show; the first is what the others are compared with.
        notes: lines to show below the table.
        facts: what else belongs in bench.json.
    """

    what: str
    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def share(self, row: Row, of: Row | None = None) -> float | None:
        """How many times as fast a row is as another (None: the first): the median over the rounds' ratios."""
        other = of or self.rows[0]
        if other.timing is None or row.timing is None:
            return None
        return row.images / other.images * statistics.median(round_ratios(other.timing, row.timing))


def round_ratios(reference: Timing, timing: Timing) -> list[float]:
    """Speed over that of the reference, round by round: both were timed within moments, so drift cancels."""
    return [a / b for a, b in zip(reference.seconds, timing.seconds, strict=True)]


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """What `--check` looks at, and bench.json keeps, of the ratios of all rounds."""
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def in_words(ratios: Sequence[float]) -> str:
    """The same as a note."""
    ratio = spread(ratios)
    return f"ratio {ratio['median']:.3f} ({ratio['lowest']:.3f} .. {ratio['highest']:.3f} in {len(ratios)} rounds)"


def as_text(section: Section) -> str:
    """The section as a table."""
    width = max(len(row.variant) for row in section.rows)
    differences = any(row.difference is not None for row in section.rows)
    accuracies = any(row.accuracy is not None for row in section.rows)
    memory = any(row.timing and row.timing.peak_memory is not None for row in section.rows)
    head = f"  {'':<{width}}  {'images/s':>9}  {'lowest .. highest':>20}  {'speed':>6}"
    head += f"  {'within 0.05':>11}  {'within 0.01':>11}" * accuracies
    head += f"  {'difference':>10}" * differences + f"  {'peak memory':>11}" * memory
    lines = [section.title, head]
    for row in section.rows:
        if row.timing is None:
            lines.append(f"  {row.variant:<{width}}  not run: {row.reason}")
            continue
        median, low, high = row.speed
        line = f"  {row.variant:<{width}}  {median:>9,.0f}  {f'{low:,.0f} .. {high:,.0f}':>20}"
        line += f"  {section.share(row):>6.3f}" if section.share(row) is not None else f"  {'-':>6}"
        if row.accuracy is not None:
            line += "".join(f"  {percent(share, 3):>11}" for share in row.accuracy)
        if differences:
            line += f"  {'-' if row.difference is None else format(row.difference, '.1e'):>10}"
        if memory:
            line += f"  {row.timing.peak_memory / 2**30:>7.2f} GiB"
        lines.append(line)
    return "\n".join([*lines, *(f"  {note}".rstrip() for note in section.notes), ""])


def as_dict(section: Section) -> dict:
    """The section for bench.json; seconds are of one call, for each round."""
    rows = []
    for row in section.rows:
        entry = {"variant": row.variant, "images_per_call": row.images, "reason_not_run": row.reason}
        if row.timing is not None:
            entry["images_per_second"] = dict(zip(("median", "lowest", "highest"), row.speed, strict=True))
            entry["speed_over_first"] = section.share(row)
            entry["difference"] = row.difference
            if row.accuracy is not None:
                entry["accuracy"] = dict(zip(("within_0.05", "within_0.01"), row.accuracy, strict=True))
            entry["seconds"] = row.timing.seconds
            entry["calls_per_round"] = row.timing.calls
            entry["peak_accelerator_memory_bytes"] = row.timing.peak_memory
        rows.append(entry)
    return {"what": section.what, "title": section.title, **section.facts, "rows": rows}
