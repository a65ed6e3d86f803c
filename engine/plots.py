"""The pictures a run leaves: learning curves, the confusion matrix, the worst mistakes.

Figures are built from `matplotlib.figure.Figure`, never pyplot: no window system, no global state. The axes
fill the figure and their text lies around it; `save` makes the page as large as what was drawn, so that no
text is cut off.
"""

import math
import os
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

DPI = 150
INK, FAINT, GRID = "#24292f", "#8b949e", "#e6e8eb"
BLUE, ORANGE, RED = "#3b6ea8", "#d9772b", "#b5403a"
MAX_NAME = 40  # characters of a class name
MAX_EXAMPLES = 25


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG; who reads `path` sees the old picture or the new one, never half of one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(unfinished, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.2)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def empty_figure(width: float, height: float) -> Figure:
    """An empty Agg figure; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without a frame at a place in inches."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    return axes


def put_title(figure: Figure, title: str, above: float) -> None:
    """Title at the left edge of the axes, so many inches above them, wrapped at about the figure's width."""
    width, height = figure.get_size_inches()
    text = textwrap.fill(_plain(title), max(48, int(10 * width)))
    figure.text(0, 1 + above / height, text, size=12, weight="bold", color=INK, va="bottom", parse_math=False)


def _plain(text: str) -> str:
    """Text as one line that a font can draw: folder names may hold line breaks and undecodable bytes."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def shorten(name: str) -> str:
    """Cut from the middle: long class names often differ only at one end."""
    name = _plain(name)
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _widest(texts: list[str], size: float) -> float:
    """Inches that the widest of the texts takes at a font size in points."""
    renderer = empty_figure(1, 1).canvas.get_renderer()
    font = FontProperties(size=size)
    return max(renderer.get_text_width_height_descent(text, font, False)[0] for text in texts) / DPI


def _points(history: list[dict], name: str, scale: float) -> tuple[list[int], list[float]]:
    """Epochs and values of one curve, without the epochs that have no finite value."""
    rows = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
    rows = [(epoch, scale * value) for epoch, value in rows if math.isfinite(value)]
    return [epoch for epoch, _ in rows], [value for _, value in rows]


def _draw_curve(axes: Axes, epochs: list[int], values: list[float], color: str, label: str) -> None:
    marker = "o" if len(values) <= 30 else None
    axes.plot(epochs, values, color=color, lw=1.8, marker=marker, ms=4, label=label, clip_on=False)


def curve_figure(history: list[dict], key: str, title: str) -> Figure:
    """The figure that `plot_curve` saves."""
    percent = {"loss": False, "accuracy": True}[key]
    scale = 100 if percent else 1
    figure = empty_figure(6.6, 3.5)
    axes = add_axes(figure, 0, 0, 6.6, 3.5)
    train_epochs, train = _points(history, f"train_{key}", scale)
    if train:
        _draw_curve(axes, train_epochs, train, BLUE, "train")
    val_epochs, val = _points(history, f"val_{key}", scale)
    if val:
        _draw_curve(axes, val_epochs, val, ORANGE, "validation")
        best = val.index(max(val) if percent else min(val))
        value = f"{val[best]:.2f} %" if percent else f"{val[best]:.4g}"
        ring = {"ms": 9, "mfc": "white", "mec": ORANGE, "mew": 1.8, "ls": "", "clip_on": False}
        label = f"best validation: {value}, epoch {val_epochs[best]}"
        axes.plot(val_epochs[best], val[best], "o", zorder=3, label=label, **ring)
    if train or val:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.4, "borderpad": 0}
        axes.legend(**above, ncols=3, frameon=False, labelcolor=INK, fontsize=9)
    axes.grid(color=GRID, lw=0.8)
    axes.spines["bottom"].set(visible=True, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if history:
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    if percent:  # the automatic margins would show accuracies beyond 0 and 100 %
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1), min(high, 101))
    axes.set_xlabel("epoch", color=INK, labelpad=6)
    axes.set_ylabel("accuracy (%)" if percent else key, color=INK, labelpad=6)
    put_title(figure, title, above=0.34)
    return figure


def plot_curve(history: list[dict], key: str, path: Path, title: str) -> None:
    """Draw the train and the validation curve of a run, with a ring at the (first) best validation epoch.

    Args:
        history: one dict per epoch, in order: "epoch" (int) and, each optional or None, `train_<key>` and
            `val_<key>`; losses in nats, accuracies as fractions 0..1, drawn in %. NaN and inf are left out.
        key: "loss" (best is lowest) or "accuracy" (best is highest).
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.

    Raises:
        KeyError: another `key`, or a dict without "epoch".
    """
    save(curve_figure(history, key, title), path)


def _name_axes(axes: Axes, class_names: list[str], step: int, size: float) -> None:
    """Class names at every `step`-th row and column, turned where a column is too narrow for them."""
    ticks = np.arange(0, len(class_names), step)
    names = [shorten(class_names[tick]) for tick in ticks]
    column = axes.figure.get_figwidth() / len(ticks)
    if _widest(names, size) < 0.9 * column:
        turned = {}
    elif column > 0.25:
        turned = {"rotation": 45, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    else:
        turned = {"rotation": 90}
    axes.set_yticks(ticks, names, size=size, parse_math=False)
    axes.set_xticks(ticks, names, size=size, parse_math=False, **turned)
    axes.set_xlabel("predicted class", color=INK, labelpad=8)
    axes.set_ylabel("true class", color=INK, labelpad=8)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray, size: float) -> None:
    for (row, column), count in np.ndenumerate(counts):
        color = FAINT if count == 0 else "white" if shares[row, column] > 0.35 else INK
        axes.text(column, row, str(count), ha="center", va="center", size=size, color=color)


def _put_colorbar(axes: Axes, image: AxesImage, height: float, inch: float) -> None:
    """A bar right of the axes; height and inch in fractions of the axes."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1 + 0.2 * inch, 0, 0.14 * inch, height)))
    bar.outline.set_visible(False)
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], labels=["0", "1", "5", "10", "25", "50", "100 %"])
    bar.ax.tick_params(length=0, colors=INK, labelsize=8)
    bar.set_label("share of the true class", color=INK, size=9)


def confusion_figure(matrix: list[list[int]] | np.ndarray, class_names: list[str], title: str) -> Figure:
    """The figure that `plot_confusion` saves."""
    counts = np.asarray(matrix, dtype=np.int64)
    num_classes = len(counts)
    few = num_classes <= 20
    size = 9 if few else 6.5
    cell = max(_widest([str(counts.max())], size) + 0.15, min(6 / num_classes, 1.1)) if few else 0.15
    # Past 160 classes the cells shrink and not all of them are named, or the picture would not open anywhere.
    side = min(num_classes * cell, 24)
    figure = empty_figure(side, side)
    axes = add_axes(figure, 0, 0, side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Colour follows the root of the share: else the mistakes of a good model, each some per cent, look white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
    if num_classes <= 160:
        edges = np.arange(1, num_classes) - 0.5
        for draw_lines in (axes.hlines, axes.vlines):
            draw_lines(edges, -0.5, num_classes - 0.5, color=GRID, lw=0.8 if few else 0.4)
    axes.spines[:].set(visible=True, color=GRID)
    _name_axes(axes, class_names, math.ceil(0.15 * num_classes / side), size)
    if few:
        _write_counts(axes, counts, shares, size)
    _put_colorbar(axes, image, 1 if few else 3 / side, 1 / side)
    put_title(figure, title, above=0.15)
    return figure


def plot_confusion(matrix: list[list[int]] | np.ndarray, class_names: list[str], path: Path, title: str) -> None:
    """Draw a confusion matrix, coloured by the share of each true class, with counts for up to 20 classes.

    Args:
        matrix: (K, K) int counts, rows true, columns predicted; a row may be empty.
        class_names: the K names, any characters; past 40 they are cut in the middle.
        path: the PNG to write, atomically; its folder exists. It grows with K up to 160 classes.
        title: wrapped where it is too long.
    """
    save(confusion_figure(matrix, class_names, title), path)


def _draw_example(axes: Axes, image: np.ndarray, true: str, said: str) -> None:
    grey = image.shape[-1] == 1
    # Nearest keeps the pixels of a small image as they are; a big one is scaled down and needs smoothing.
    interpolation = "nearest" if max(image.shape[:2]) <= 128 else "auto"
    axes.set_axis_off()
    axes.set_anchor("SW")
    axes.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)
    for text, height, color in ((true, 15, INK), (said, 4, RED)):
        place = {"xycoords": "axes fraction", "xytext": (0, height), "textcoords": "offset points"}
        axes.annotate(text, (0, 1), size=8, color=color, parse_math=False, **place)


def examples_figure(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    class_names: list[str],
    title: str,
) -> Figure:
    """The figure that `plot_examples` saves."""
    count = min(len(images), MAX_EXAMPLES)
    if count == 0:
        figure = empty_figure(4, 0.3)
        figure.text(0, 1, "no mistakes to show", size=11, color=INK, va="top")
        put_title(figure, title, above=0.1)
        return figure
    true = [f"true: {shorten(class_names[label])}" for label in labels[:count]]
    said = [
        f"said: {shorten(class_names[prediction])} ({100 * confidence:.0f} %)"
        for prediction, confidence in zip(predictions[:count], confidences[:count], strict=True)
    ]
    side, gap, caption = 1.5, 0.25, 0.45  # inches
    picture = side * min(1, images.shape[1] / images.shape[2])
    columns = min(5, count)
    rows = math.ceil(count / columns)
    width = max(side, _widest(true + said, size=8))
    height = rows * (picture + caption)
    figure = empty_figure(columns * (width + gap) - gap, height)
    for index in range(count):
        row, column = divmod(index, columns)
        left, bottom = column * (width + gap), height - (row + 1) * (picture + caption)
        axes = add_axes(figure, left, bottom, width, picture)
        _draw_example(axes, images[index], true[index], said[index])
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
) -> None:
    """Draw up to 25 mistakes, each with its true class, the predicted one and that one's probability.

    Args:
        images: (M, H, W, C) uint8, C = 1 (grey) or 3 (RGB), in the order to show; M may be 0.
        labels, predictions: (M,) int, class numbers.
        confidences: (M,) float, probabilities 0..1 of the predicted classes.
        class_names: the K names, any characters; past 40 they are cut in the middle.
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
    """
    save(examples_figure(images, labels, predictions, confidences, class_names, title), path)
