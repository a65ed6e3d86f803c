"""Pictures of several runs: how good each was, what the options did, and how far repetitions lie apart."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.console import percent
from common.plot_style import (
    FAINT,
    GRID,
    INK,
    MUTED,
    SHARES,
    TEST,
    VALIDATION,
    add_axes,
    empty_figure,
    put_heading,
    put_legend,
    put_title,
    save,
    shorten,
    text_on,
    widest,
)

if TYPE_CHECKING:
    from experiments.results import Finished

ROW, DOTS = 0.26, 4.4  # inches: a run's row, and how wide the dots lie
MOST_RUNS = 40
MOST_CLASSES = 25
KINDS = {"val_accuracy": ("validation", VALIDATION, "o"), "accuracy": ("test", TEST, "D")}
NAME = 9  # points


def comparison_figure(runs: Sequence["Finished"], settings: Sequence[dict[str, str]], title: str) -> Figure:
    """The figure that `plot_comparison` saves."""
    shown = runs[:MOST_RUNS]
    height = max(1.2, ROW * len(shown))
    effects = _effects(settings)
    sides = [_size_of_effect(effects, name) for name in effects]
    right = DOTS + 0.9
    names = [shorten(run.name) for run in shown]
    figure = empty_figure(right + sum(width + 1.2 for width, _ in sides) if sides else DOTS, height)
    axes = add_axes(figure, 0, 0, DOTS, height)
    _draw_dots(axes, shown, names)
    left_out = f", the best {len(shown)} of {len(runs)}" if len(shown) < len(runs) else ""
    left = right
    for name, (width, inches) in zip(effects, sides, strict=True):
        panel = add_axes(figure, left + 0.6, height - inches, width, inches)
        if len(name) == 2:
            _draw_grid(panel, runs, settings, name, effects[name])
        else:
            _draw_effect(panel, runs, settings, name[0], effects[name])
        if left == right and len(name) == 1:
            panel.set_ylabel("validation accuracy (%), each run and mean", color=INK, size=8)
        left += width + 1.2
    put_title(figure, title + left_out, above=0.45)
    return figure


def plot_comparison(runs: Sequence["Finished"], settings: Sequence[dict[str, str]], path: Path, title: str) -> None:
    """Draw the accuracies of each run; beside them a heat map where two options differ, what each did where more do.

    Args:
        runs: of one data set, the best first.
        settings: of each run the options that differ, but for seed and fold, as they are written.
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
    """
    save(comparison_figure(runs, settings, title), path)


def _draw_dots(axes: Axes, runs: Sequence["Finished"], names: list[str], above: int = 0) -> None:
    """A row for each run, the first on top: validation and test accuracy; `above` rows stay free over them."""
    for key, (label, color, marker) in KINDS.items():
        known = [(100 * run.results[key], row) for row, run in enumerate(runs) if run.results[key] is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker, ms=5.5, color=color, label=label, clip_on=False)
    for row, run in enumerate(runs):
        both = [100 * run.results[key] for key in KINDS if run.results[key] is not None]
        if both:
            axes.plot([min(both), max(both)], [row, row], color=FAINT, lw=1.2, zorder=1)
    axes.set_yticks(range(len(runs)), names, size=NAME, parse_math=False)
    axes.set_ylim(len(runs) - 0.5, -0.5 - above)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)
    axes.set_xlabel("accuracy (%)", color=INK, labelpad=6)
    if axes.lines:
        put_legend(axes)


def _effects(settings: Sequence[dict[str, str]]) -> dict[tuple[str, ...], list[list[str]]]:
    """What is drawn beside the runs: options -> the values of each of them, in order. Two are drawn as a grid."""
    names = list(settings[0]) if settings else []
    values = {name: _in_order({setting[name] for setting in settings}) for name in names}
    swept = [name for name in names if 1 < len(values[name]) <= 12]
    if len(swept) == 2:
        return {tuple(swept): [values[name] for name in swept]}
    return {(name,): [values[name]] for name in swept[:6]} if len(swept) > 2 else {}


def _in_order(values: set[str]) -> list[str]:
    """Values as they are to be shown: numbers by size, words by the alphabet."""

    def key(value: str) -> tuple[int, float, str]:
        try:
            return 0, float(value), value
        except ValueError:
            return 1, 0.0, value.casefold()

    return sorted(values, key=key)


def _size_of_effect(effects: dict, name: tuple[str, ...]) -> tuple[float, float]:
    """Inches across and up of a panel."""
    if len(name) == 2:
        down, across = (len(values) for values in effects[name])
        beside = widest([shorten(value, 16) for value in effects[name][0]], NAME)
        return 0.75 * across + beside, 0.4 * down
    return max(1.2, 0.6 * len(effects[name][0])), 2.2


def _accuracy(run: "Finished") -> float | None:
    """What an option is judged by: the validation, and the test only where there is none."""
    return run.results["val_accuracy"] if run.results["val_accuracy"] is not None else run.results["accuracy"]


def _draw_grid(
    axes: Axes,
    runs: Sequence["Finished"],
    settings: Sequence[dict[str, str]],
    names: tuple[str, ...],
    values: list[list[str]],
) -> None:
    """The mean accuracy of each pair of values, the first option downwards; a pair that no run has stays white."""
    down, across = values
    cells: dict[tuple[int, int], list[float]] = {}
    for run, setting in zip(runs, settings, strict=True):
        if (accuracy := _accuracy(run)) is not None:
            cells.setdefault((down.index(setting[names[0]]), across.index(setting[names[1]])), []).append(accuracy)
    grid = np.full((len(down), len(across)), np.nan)
    for cell, found in cells.items():
        grid[cell] = statistics.fmean(found)
    image = axes.imshow(grid, cmap=SHARES, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            color = text_on(image.to_rgba(value))
            axes.text(column, row, percent(value), ha="center", va="center", size=8, color=color)
    axes.set_yticks(range(len(down)), [shorten(value, 16) for value in down], size=NAME, parse_math=False)
    axes.set_xticks(range(len(across)), [shorten(value, 16) for value in across], size=NAME, parse_math=False)
    axes.set_ylabel(names[0], color=INK, parse_math=False)
    axes.set_xlabel(names[1], color=INK, parse_math=False)
    put_heading(axes, "mean validation accuracy")


def _draw_effect(
    axes: Axes, runs: Sequence["Finished"], settings: Sequence[dict[str, str]], name: str, values: list[list[str]]
) -> None:
    """The accuracies of the runs by one option's value, and their mean."""
    for y, value in enumerate(values[0]):
        pairs = zip(runs, settings, strict=True)
        found = [_accuracy(run) for run, setting in pairs if setting[name] == value]
        known = [100 * accuracy for accuracy in found if accuracy is not None]
        if known:
            axes.plot([y] * len(known), known, "o", ms=4, color=FAINT, alpha=0.7)
            axes.plot([y - 0.3, y + 0.3], [statistics.fmean(known)] * 2, color=VALIDATION, lw=2.2)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, values[0])) > 6 else {}
    axes.set_xticks(range(len(values[0])), [shorten(v, 16) for v in values[0]], size=8, parse_math=False, **turned)
    axes.set_xlim(-0.6, len(values[0]) - 0.4)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    put_heading(axes, name)


def repeats_figure(runs: Sequence["Finished"], summary: dict, title: str) -> Figure:
    """The figure that `plot_repeats` saves."""
    classes = {name: found["f1"] for name, found in summary["per_class"].items() if found["f1"]["mean"] is not None}
    hardest = sorted(classes, key=lambda name: classes[name]["mean"])[:MOST_CLASSES]
    above = 2  # rows of means
    height = max(2.0, ROW * max(len(runs) + above, len(hardest)))
    names = [shorten(name) for name in hardest]
    left = DOTS + 0.6 + (widest(names, NAME) if names else 0)
    figure = empty_figure(left + 3.4 if names else DOTS, height)
    ordered = sorted(runs, key=lambda run: (len(run.name), run.name))[:MOST_RUNS]  # fold-10 after fold-9
    axes = add_axes(figure, 0, 0, DOTS, height)
    _draw_dots(axes, ordered, [shorten(run.name) for run in ordered], above)
    _draw_means(axes, summary)
    if names:
        panel = add_axes(figure, left, 0, 3.4, height)
        _draw_classes(panel, [classes[name] for name in hardest], names)
        which = "F1 of each class" if len(hardest) == len(classes) else f"F1 of the {len(hardest)} hardest classes"
        put_heading(panel, f"{which}: mean, lowest to highest")
    put_title(figure, title, above=0.6)
    return figure


def _draw_means(axes: Axes, summary: dict) -> None:
    """Over the runs a row for each kind of accuracy: the mean and the standard deviation to both sides."""
    for row, (key, (label, color, marker)) in enumerate(KINDS.items()):
        found = summary["results"][key]
        if found["mean"] is None:
            continue
        mean, deviation = 100 * found["mean"], 100 * (found["std"] or 0.0)
        y = row - len(KINDS)
        axes.errorbar(mean, y, xerr=deviation, fmt=marker, ms=5.5, color=color, capsize=4, lw=1.8, clip_on=False)
        text = f"{label}: {mean:.2f} ± {deviation:.2f} %" if found["std"] is not None else f"{label}: {mean:.2f} %"
        where = {"xycoords": ("axes fraction", "data"), "xytext": (-4, 0), "textcoords": "offset points"}
        axes.annotate(text, (0, y), ha="right", va="center", size=NAME, color=color, weight="bold", **where)
    axes.axhline(-0.5, color=GRID, lw=1.2)
    axes.set_xlabel(f"accuracy (%); bars: standard deviation over n = {summary['n']}", color=INK, labelpad=6)


def _draw_classes(axes: Axes, figures: list[dict], names: list[str]) -> None:
    """A class a row, the hardest on top: the mean F1 and from the lowest to the highest of any run."""
    for y, f1 in enumerate(figures):
        axes.plot([f1["min"], f1["max"]], [y, y], color=FAINT, lw=3, solid_capstyle="round")
        axes.plot(f1["mean"], y, "o", ms=5, color=MUTED)
    axes.set_yticks(range(len(names)), names, size=NAME, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("F1", color=INK, labelpad=6)


def plot_repeats(runs: Sequence["Finished"], summary: dict, path: Path, title: str) -> None:
    """Draw left the accuracies of each run below their means, right the F1 of each class over the runs.

    Args:
        runs: that repeat one another.
        summary: of them, from `comparison.summarize`.
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
    """
    save(repeats_figure(runs, summary, title), path)
