"""Pictures of several runs: their curves together, and how far repetitions lie apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.plots import BLUE, FAINT, GRID, INK, ORANGE, add_axes, empty_figure, put_title, save, shorten

if TYPE_CHECKING:
    from engine.comparison import Finished

MOST_NAMED = 12  # more lines than that cannot be told apart
MOST_CLASSES = 25


def comparison_figure(runs: Sequence["Finished"], title: str) -> Figure:
    """Accuracy over the epochs of each run, the best of them named; validation's where there is one, else train's."""
    figure = empty_figure(7.2, 4.2)
    axes = add_axes(figure, 0, 0, 7.2, 4.2)
    validated = any(row["val_accuracy"] is not None for run in runs for row in run.history)
    key = "val_accuracy" if validated else "train_accuracy"
    colors = colormaps["tab10" if len(runs) <= 10 else "tab20"].colors
    for place, run in reversed(list(enumerate(runs))):  # the best is drawn last, on top
        points = [(row["epoch"], 100 * row[key]) for row in run.history if row[key] is not None]
        named = place < MOST_NAMED
        style = {"color": colors[place % len(colors)] if named else GRID, "lw": 1.8 if named else 1.0}
        axes.plot(
            *zip(*points, strict=True) if points else ([], []), marker="o", ms=3, **style, label=shorten(run.name)
        )
    lines, names = axes.get_legend_handles_labels()
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0, "frameon": False}
    legend = axes.legend(lines[::-1][:MOST_NAMED], names[::-1][:MOST_NAMED], **beside, labelcolor=INK, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.grid(color=GRID, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=INK, labelpad=6)
    axes.set_ylabel(f"{'validation' if validated else 'train'} accuracy (%)", color=INK, labelpad=6)
    put_title(figure, title, above=0.12)
    return figure


def plot_comparison(runs: Sequence["Finished"], path: Path, title: str) -> None:
    """Write `comparison_figure` as a PNG, atomically."""
    save(comparison_figure(runs, title), path)


def repeats_figure(runs: Sequence["Finished"], summary: dict, title: str) -> Figure:
    """Left the accuracies of each run with their mean and spread, right the F1 of each class over the runs."""
    classes = list(summary["per_class"])
    height = max(3.2, 0.24 * min(len(classes), MOST_CLASSES))
    figure = empty_figure(9.6, height)
    ordered = sorted(runs, key=lambda run: (len(run.name), run.name))  # fold-10 after fold-9
    _draw_accuracies(add_axes(figure, 0, 0, 4.2, height), ordered, summary)
    if classes:
        _draw_classes(add_axes(figure, 6.2, 0, 3.4, height), summary["per_class"])
    put_title(figure, title, above=0.4)
    return figure


def _draw_accuracies(axes: Axes, runs: Sequence["Finished"], summary: dict) -> None:
    for key, label, color, shift in (("accuracy", "test", BLUE, -0.08), ("val_accuracy", "validation", ORANGE, 0.08)):
        mean, deviation = summary["results"][key]["mean"], summary["results"][key]["std"] or 0.0
        known = [(i + shift, 100 * run.results[key]) for i, run in enumerate(runs) if run.results[key] is not None]
        if mean is None:
            continue
        axes.axhspan(100 * (mean - deviation), 100 * (mean + deviation), color=color, alpha=0.12, lw=0)
        axes.axhline(100 * mean, color=color, lw=1)
        text = f"{label}: {mean:.2%} ± {deviation:.2%}"
        axes.plot(*zip(*known, strict=True), "o", ms=6, color=color, label=text, clip_on=False)
    axes.set_xticks(range(len(runs)), [shorten(run.name) for run in runs], size=9, rotation=45 if len(runs) > 5 else 0)
    axes.set_ylabel("accuracy (%)", color=INK, labelpad=6)
    axes.grid(axis="y", color=GRID, lw=0.8)
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.4, "borderpad": 0}
    axes.legend(**above, ncols=2, frameon=False, labelcolor=INK, fontsize=9)


def _draw_classes(axes: Axes, per_class: dict[str, dict]) -> None:
    """The hardest classes, the hardest on top: mean F1 and from the least to the most of any run."""
    figures = {name: found["f1"] for name, found in per_class.items() if found["f1"]["mean"] is not None}
    hardest = sorted(figures, key=lambda name: figures[name]["mean"])[:MOST_CLASSES]
    for place, name in enumerate(hardest):
        f1 = figures[name]
        axes.plot([f1["min"], f1["max"]], [place, place], color=FAINT, lw=3, solid_capstyle="round")
        axes.plot(f1["mean"], place, "o", ms=5, color=BLUE)
    axes.set_yticks(range(len(hardest)), [shorten(name) for name in hardest], size=8, parse_math=False)
    axes.invert_yaxis()
    axes.grid(axis="x", color=GRID, lw=0.8)
    left = f"the {len(hardest)} hardest of {len(figures)}" if len(hardest) < len(figures) else "each"
    axes.set_xlabel(f"F1 of {left} class{'es' if len(hardest) < len(figures) else ''}: mean, least and most", color=INK)


def plot_repeats(runs: Sequence["Finished"], summary: dict, path: Path, title: str) -> None:
    """Write `repeats_figure` as a PNG, atomically.

    Args:
        runs: that repeat one another.
        summary: of them, from `comparison.summarize`.
    """
    save(repeats_figure(runs, summary, title), path)
