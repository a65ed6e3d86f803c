"""Examples of a test set: mistakes and right answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.console import percent
from common.plot_style import (
    INK,
    MUTED,
    RIGHT,
    WRONG,
    add_axes,
    empty_figure,
    put_title,
    save,
    shorten,
    widest,
)

MAX_EXAMPLES = 25


def _captions(name: str, true: str, predicted: str, confidence: float, is_right: bool) -> list[tuple[str, str]]:
    """(text, colour) of the lines over an example, from top to bottom."""
    answer = f"{'right' if is_right else 'predicted'}: {shorten(predicted)} ({percent(confidence, 0)})"
    lines = [] if is_right else [(f"true: {shorten(true)}", INK)]
    return [(shorten(name, 24), MUTED), *lines, (answer, RIGHT if is_right else WRONG)]


def _draw_example(
    axes: Axes, left: float, bottom: float, scale: float, image: np.ndarray, captions: list[tuple[str, str]]
) -> None:
    """An image and the lines over it; where its lower left corner is, and how large a pixel, in units of the axes."""
    height, width, channels = image.shape
    top = bottom + scale * height
    # Nearest keeps the pixels of a small image as they are; a big one is scaled down and needs smoothing.
    interpolation = "nearest" if max(height, width) <= 128 else "auto"
    place = {"extent": (left, left + scale * width, bottom, top), "aspect": "auto", "interpolation": interpolation}
    axes.imshow(image[..., 0] if channels == 1 else image, cmap="gray", vmin=0, vmax=255, **place)
    for line, (text, color) in enumerate(reversed(captions)):
        offset = {"xytext": (0, 4 + 11 * line), "textcoords": "offset points"}
        axes.annotate(text, (left, top), size=8, color=color, parse_math=False, **offset)


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
    captions = [
        _captions(name, class_names[label], class_names[prediction], confidence, label == prediction)
        for name, label, prediction, confidence in zip(
            names or [""] * count, labels[:count], predictions[:count], confidences[:count], strict=False
        )
    ]
    return captioned_figure(images, captions, _cells(labels[:count] == predictions[:count], columns), title)


def captioned_figure(
    images: np.ndarray, captions: list[list[tuple[str, str]]], cells: list[tuple[int, int]], title: str
) -> Figure:
    """Images with up to three lines over each.

    Args:
        images: (M, H, W, C) uint8, C = 1 (grey) or 3 (RGB); M may be more than there are cells.
        captions: (text, colour) of the lines over each, from top to bottom.
        cells: (row, column) of each; none: a line says that there is nothing to show.
        title: wrapped where it is too long.
    """
    if not cells:
        figure = empty_figure(4, 0.3)
        figure.text(0, 1, "no image to show", size=11, color=INK, va="top")
        put_title(figure, title, above=0.1)
        return figure
    side, gap, above = 1.5, 0.25, 0.6  # inches
    picture = side * min(1, images.shape[1] / images.shape[2])
    columns, rows = max(column for _, column in cells) + 1, cells[-1][0] + 1
    width = max(side, widest([text for lines in captions for text, _ in lines], size=8))
    height = rows * (picture + above)
    across = columns * (width + gap) - gap
    figure = empty_figure(across, height)
    axes = add_axes(figure, 0, 0, across, height)  # one for all, in inches: each takes as long as three images
    axes.set_axis_off()
    scale = min(width / images.shape[2], picture / images.shape[1])
    for (row, column), image, lines in zip(cells, images, captions, strict=False):
        _draw_example(axes, column * (width + gap), height - (row + 1) * (picture + above), scale, image, lines)
    axes.set(xlim=(0, across), ylim=(0, height))
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
