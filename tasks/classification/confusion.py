"""The confusion matrix: with its counts where classes are few, in the order of what is confused where they are many."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from common.console import percent
from common.plot_style import (
    GRID,
    INK,
    MUTED,
    ORANGE,
    SHARES,
    add_axes,
    empty_figure,
    put_colorbar,
    put_heading,
    put_title,
    save,
    shorten,
    text_on,
    widest,
)

FEW = 20  # classes whose counts are written
MOST_NAMED = 160  # classes with a row of at least CELL; past them cells shrink, or the picture would open nowhere
CELL = 0.08  # inches, of many classes
DARKEST = 0.5  # of many classes, the share that is drawn darkest: mistakes of a few images must not look like more
WORST = 15


def confusion_figure(matrix: list[list[int]] | np.ndarray, class_names: list[str], title: str) -> Figure:
    """The figure that `plot_confusion` saves."""
    counts = np.asarray(matrix, dtype=np.int64)
    few = len(counts) <= FEW
    order = by_name(class_names) if few else by_confusion(counts)
    counts, names = counts[np.ix_(order, order)], [class_names[label] for label in order]
    size = 9 if few else 4.6
    cell = max(widest([str(counts.max())], size) + 0.15, min(6 / len(counts), 1.1)) if few else CELL
    side = min(len(counts) * cell, MOST_NAMED * CELL)
    worst = [] if few else worst_pairs(counts, names)
    beside = 1.3 + widest([text for text, _, _ in worst], 9) if worst else 0
    figure = empty_figure(side + (beside + 3 if worst else 0), side)
    axes = add_axes(figure, 0, 0, side, side)
    _draw_matrix(axes, counts, few)
    _name_axes(axes, names, max(1, math.ceil(0.9 * CELL * len(counts) / side)), size, side)
    if worst:
        _draw_pairs(add_axes(figure, side + beside, max(0, side - 0.3 * len(worst)), 2.6, 0.3 * len(worst)), worst)
    put_title(figure, title, above=0.15 if few else 0.35)
    return figure


def thumbnail_figure(matrix: list[list[int]] | np.ndarray, class_names: list[str]) -> Figure:
    """What can be read of a confusion matrix in a small picture: few classes, or the most frequent mistakes."""
    counts = np.asarray(matrix, dtype=np.int64)
    if len(counts) > FEW:
        worst = worst_pairs(counts, class_names)
        figure = empty_figure(3, 0.25 * max(1, len(worst)))
        _draw_pairs(add_axes(figure, 0, 0, *figure.get_size_inches()), worst)
        return figure
    order = by_name(class_names)
    counts, names = counts[np.ix_(order, order)], [shorten(class_names[label], 16) for label in order]
    side = len(counts) * max(widest([str(counts.max())], 9) + 0.1, min(3.6 / len(counts), 0.8))
    figure = empty_figure(side, side)
    axes = add_axes(figure, 0, 0, side, side)
    _draw_matrix(axes, counts, few=True, bar=False)
    _name_axes(axes, names, 1, 9, side)
    return figure


def by_name(class_names: list[str]) -> list[int]:
    """The labels in the order to show: as they are, but where they are sorted with all capitals first, without that."""
    labels = list(range(len(class_names)))
    if class_names != sorted(class_names):
        return labels
    return sorted(labels, key=lambda label: (class_names[label].casefold(), class_names[label]))


def by_confusion(counts: np.ndarray) -> list[int]:
    """The labels in an order in which classes that are taken for one another are neighbours.

    The leaves of a tree of average linkage (Sokal and Michener 1958), in the order of Bar-Joseph et al. 2001.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # takes a while to import
    from scipy.spatial.distance import squareform

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    near = shares + shares.T
    distances = near.max() - near
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=len(counts) <= 300)
    return leaves_list(tree).tolist()


def worst_pairs(counts: np.ndarray, names: list[str]) -> list[tuple[str, int, float]]:
    """(what was taken for what, how many images, share of the true class) of the most frequent mistakes."""
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:WORST]
    pairs = [divmod(int(row), len(counts)) for row in order]
    totals = np.maximum(counts.sum(1), 1)
    return [
        (f"{shorten(names[true], 24)} → {shorten(names[taken], 24)}", int(count), count / totals[true])
        for true, taken in pairs
        if (count := mistakes[true, taken])
    ]


def _draw_matrix(axes: Axes, counts: np.ndarray, few: bool, bar: bool = True) -> None:
    number, side = len(counts), axes.figure.get_figheight()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Colour follows the root of the share where the counts are written: else a good model's mistakes look white.
    norm = PowerNorm(0.5, 0, 1) if few else Normalize(0, DARKEST)
    image = axes.imshow(shares, cmap=SHARES, norm=norm, aspect="auto", interpolation="nearest")
    if number <= MOST_NAMED:
        edges = np.arange(1, number) - 0.5
        for draw_lines in (axes.hlines, axes.vlines):
            draw_lines(edges, -0.5, number - 0.5, color=GRID, lw=0.8 if few else 0.2)
    axes.spines[:].set(visible=True, color=GRID)
    if few:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = text_on(image.to_rgba(shares[row, column]))
                axes.text(column, row, str(count), ha="center", va="center", size=9, color=color)
    ticks = {0: "0", 0.01: "1", 0.05: "5", 0.1: "10", 0.25: "25", 0.5: "50", 1: "100 %"}
    if not few:
        ticks = {0: "0", 0.1: "10", 0.2: "20", 0.3: "30", 0.4: "40", DARKEST: "50 % or more"}
    if bar:
        put_colorbar(axes, image, ticks, "share of the true class", side if few else min(3, side))


def _name_axes(axes: Axes, names: list[str], step: int, size: float, side: float) -> None:
    """Class names at every `step`-th row and column, turned where a column is too narrow for them."""
    ticks = np.arange(0, len(names), step)
    shown = [shorten(names[tick]) for tick in ticks]
    column = side / len(ticks)
    if widest(shown, size) < 0.9 * column:
        turned = {}
    elif column > 0.25:
        turned = {"rotation": 45, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    else:
        turned = {"rotation": 90}
    axes.set_yticks(ticks, shown, size=size, parse_math=False)
    axes.set_xticks(ticks, shown, size=size, parse_math=False, **turned)
    axes.set_xlabel("predicted class", color=INK, labelpad=8)
    axes.set_ylabel("true class", color=INK, labelpad=8)


def _draw_pairs(axes: Axes, worst: list[tuple[str, int, float]]) -> None:
    """Bars of the most frequent mistakes, the most frequent on top."""
    rows = range(len(worst))
    axes.barh(rows, [count for _, count, _ in worst], height=0.7, color=ORANGE)
    for row, (_, count, share) in zip(rows, worst, strict=True):
        text = f"{count:,} ({percent(share, 0)})"
        axes.annotate(text, (count, row), (4, 0), textcoords="offset points", va="center", size=9, color=MUTED)
    axes.set_yticks(rows, [text for text, _, _ in worst], size=9, parse_math=False)
    axes.set_ylim(len(worst) - 0.5, -0.5)
    axes.set_xticks([])
    put_heading(axes, f"the {len(worst)} most frequent mistakes: true → predicted")


def plot_confusion(matrix: list[list[int]] | np.ndarray, class_names: list[str], path: Path, title: str) -> None:
    """Draw a confusion matrix, coloured by the share of each true class.

    Up to 20 classes are in their own order, with counts; more are in an order that brings together what is confused,
    with bars of the most frequent mistakes beside it.

    Args:
        matrix: (K, K) int counts, rows true, columns predicted; a row may be empty.
        class_names: the K names, any characters; past 40 they are cut in the middle.
        path: the PNG to write, atomically; its folder exists. It grows with K up to 160 classes.
        title: wrapped where it is too long.
    """
    save(confusion_figure(matrix, class_names, title), path)
