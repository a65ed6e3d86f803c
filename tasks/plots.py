"""The pictures a run leaves: learning curves, mistakes and right answers; the confusion matrix is drawn elsewhere."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.console import percent
from common.plot_style import (
    FAINT,
    GRID,
    INK,
    MUTED,
    RIGHT,
    TEST,
    TRAIN,
    VALIDATION,
    WRONG,
    add_axes,
    empty_figure,
    put_heading,
    put_title,
    save,
    shorten,
    widest,
)

MAX_EXAMPLES = 25
LABEL_GAP = 0.17  # inches between the labels of two curves
CURVES = (6.0, 3.4)  # inches, of a panel of curves


def _points(history: list[dict], name: str, scale: float) -> tuple[list[int], list[float]]:
    """Epochs and values of one curve, without the epochs that have no finite value."""
    rows = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
    rows = [(epoch, scale * value) for epoch, value in rows if math.isfinite(value)]
    return [epoch for epoch, _ in rows], [value for _, value in rows]


def _draw_curves(axes: Axes, history: list[dict], key: str, test: float | None) -> None:
    """Train and validation, a ring at the best validation epoch, the test as a line; each named where it ends."""
    is_share = {"loss": False, "accuracy": True}[key]
    scale = 100 if is_share else 1
    ends: list[tuple[float, str, str]] = []  # value, text, colour

    def in_words(value: float) -> str:
        return f"{value:.2f} %" if is_share else f"{value:.4g}"

    for part, name, color in (("train", "train", TRAIN), ("val", "validation", VALIDATION)):
        epochs, values = _points(history, f"{part}_{key}", scale)
        if not values:
            continue
        marker = "o" if len(values) <= 30 else None
        axes.plot(epochs, values, color=color, lw=1.8, marker=marker, ms=4, label=name, clip_on=False)
        ends.append((values[-1], f"{name} {in_words(values[-1])}", color))
        if part == "val":
            best = values.index(max(values) if is_share else min(values))
            ring = {"ms": 9, "mfc": "white", "mec": color, "mew": 1.8, "ls": "", "clip_on": False, "zorder": 3}
            label = f"best validation: {in_words(values[best])}, epoch {epochs[best]}"
            axes.plot(epochs[best], values[best], "o", label=label, **ring)
    if test is not None and math.isfinite(test):
        axes.axhline(scale * test, color=TEST, lw=1.2, ls=(0, (4, 3)), zorder=1, label="test")
        ends.append((scale * test, f"test {in_words(scale * test)}", TEST))
    _set_up(axes, history, is_share)
    _name_ends(axes, ends)
    ring = [line for line in axes.lines if line.get_label().startswith("best")]
    if ring:
        right = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.4, "borderpad": 0}
        axes.legend(handles=ring, **right, frameon=False, labelcolor=INK, fontsize=9, handletextpad=0.2)


def _set_up(axes: Axes, history: list[dict], is_share: bool) -> None:
    axes.grid(color=GRID, lw=0.8)
    axes.spines["bottom"].set(visible=True, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if history:
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    if is_share:  # the automatic margins would show accuracies beyond 0 and 100 %
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1), min(high, 101))
    axes.set_xlabel("epoch", color=INK, labelpad=6)


def _name_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write right of the axes what each curve is and where it ended, as near to its end as its neighbours let it."""
    low, high = axes.get_ylim()
    inches = axes.figure.get_figheight() * axes.get_position().height
    heights: list[float] = []
    for value, text, color in sorted(ends):
        height = inches * (value - low) / (high - low)
        heights.append(max(height, heights[-1] + LABEL_GAP) if heights else height)
        place = {"xycoords": "axes fraction", "xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(text, (1, heights[-1] / inches), size=9, color=color, va="center", **place)


def curve_figure(history: list[dict], key: str, title: str, test: float | None = None) -> Figure:
    """The figure that `plot_curve` saves."""
    figure = empty_figure(*CURVES)
    axes = add_axes(figure, 0, 0, *CURVES)
    _draw_curves(axes, history, key, test)
    axes.set_ylabel("accuracy (%)" if key == "accuracy" else key, color=INK, labelpad=6)
    put_title(figure, title, above=0.34)
    return figure


def plot_curve(history: list[dict], key: str, path: Path, title: str, test: float | None = None) -> None:
    """Draw the train and the validation curve of a run, with a ring at the (first) best validation epoch.

    Args:
        history: one dict per epoch, in order: "epoch" (int) and, each optional or None, `train_<key>` and
            `val_<key>`; losses in nats, accuracies as fractions 0..1, drawn in %. NaN and inf are left out.
        key: "loss" (best is lowest) or "accuracy" (best is highest).
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
        test: the same of the test set, drawn as a line.

    Raises:
        KeyError: another `key`, or a dict without "epoch".
    """
    save(curve_figure(history, key, title, test), path)


def curves_figure(history: list[dict], title: str, test: dict, headings: dict[str, str]) -> Figure:
    """The figure that `plot_curves` saves."""
    width, height = CURVES
    right = width + 2.0  # room for what is written beside the left panel
    figure = empty_figure(right + width, height)
    for left, (key, heading) in zip((0, right), headings.items(), strict=True):
        axes = add_axes(figure, left, 0, width, height)
        _draw_curves(axes, history, key, test.get(key))
        put_heading(axes, heading)
    put_title(figure, title, above=0.4)
    return figure


def plot_curves(history: list[dict], path: Path, title: str, test: dict, headings: dict[str, str]) -> None:
    """Draw loss and accuracy in two panels, as `plot_curve` draws one.

    Args:
        history, path, title: as there.
        test: "loss" and "accuracy" of the test set; either may be missing or None.
        headings: of the panels of "loss" and "accuracy".
    """
    save(curves_figure(history, title, test, headings), path)


def _captions(name: str, true: str, predicted: str, confidence: float, is_right: bool) -> list[tuple[str, str]]:
    """(text, colour) of the lines over an example, from top to bottom."""
    answer = f"{'right' if is_right else 'predicted'}: {shorten(predicted)} ({percent(confidence, 0)})"
    lines = [] if is_right else [(f"true: {shorten(true)}", INK)]
    return [(shorten(name, 24), MUTED), *lines, (answer, RIGHT if is_right else WRONG)]


def _draw_example(axes: Axes, image: np.ndarray, captions: list[tuple[str, str]]) -> None:
    grey = image.shape[-1] == 1
    # Nearest keeps the pixels of a small image as they are; a big one is scaled down and needs smoothing.
    interpolation = "nearest" if max(image.shape[:2]) <= 128 else "auto"
    axes.set_axis_off()
    axes.set_anchor("SW")
    axes.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
    for line, (text, color) in enumerate(reversed(captions)):
        place = {"xycoords": "axes fraction", "xytext": (0, 4 + 11 * line), "textcoords": "offset points"}
        axes.annotate(text, (0, 1), size=8, color=color, parse_math=False, **place)


def _cells(is_right: np.ndarray, columns: int) -> list[tuple[int, int]]:
    """(row, column) of each example: so many in a row, and right answers in other rows than mistakes."""
    cells: list[tuple[int, int]] = []
    for index, right in enumerate(is_right):
        row, column = cells[-1] if cells else (0, -1)
        full = column == columns - 1 or (index > 0 and right != is_right[index - 1])
        cells.append((row + 1, 0) if full else (row, column + 1))
    return cells


def examples_figure(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    class_names: list[str],
    title: str,
    names: Sequence[str] | None = None,
    columns: int = 5,
) -> Figure:
    """The figure that `plot_examples` saves."""
    count = min(len(images), MAX_EXAMPLES)
    if count == 0:
        figure = empty_figure(4, 0.3)
        figure.text(0, 1, "no image to show", size=11, color=INK, va="top")
        put_title(figure, title, above=0.1)
        return figure
    captions = [
        _captions(name, class_names[label], class_names[prediction], confidence, label == prediction)
        for name, label, prediction, confidence in zip(
            names or [""] * count, labels[:count], predictions[:count], confidences[:count], strict=False
        )
    ]
    side, gap, above = 1.5, 0.25, 0.6  # inches
    picture = side * min(1, images.shape[1] / images.shape[2])
    cells = _cells(labels[:count] == predictions[:count], columns)
    columns, rows = max(column for _, column in cells) + 1, cells[-1][0] + 1
    width = max(side, widest([text for lines in captions for text, _ in lines], size=8))
    height = rows * (picture + above)
    figure = empty_figure(columns * (width + gap) - gap, height)
    for index, (row, column) in enumerate(cells):
        left, bottom = column * (width + gap), height - (row + 1) * (picture + above)
        _draw_example(add_axes(figure, left, bottom, width, picture), images[index], captions[index])
    put_title(figure, title, above=0.1)
    return figure


def plot_examples(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    class_names: list[str],
    path: Path,
    title: str,
    names: Sequence[str] | None = None,
) -> None:
    """Draw up to 25 answers, each with its true class, the predicted one and that one's probability.

    Args:
        images: (M, H, W, C) uint8, C = 1 (grey) or 3 (RGB), in the order to show; M may be 0.
        labels, predictions: (M,) int, class numbers.
        confidences: (M,) float, probabilities 0..1 of the predicted classes.
        class_names: the K names, any characters; past 40 they are cut in the middle.
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
        names: what each image is called, as its file; past 24 characters they are cut in the middle.
    """
    save(examples_figure(images, labels, predictions, confidences, class_names, title, names), path)
