"""Pictures of images that a model made, beside what they were made from and what they should have been."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from common.plot_style import INK, MUTED, add_axes, empty_figure, put_title, save

SIDE, GAP, BELOW = 1.25, 0.12, 0.2  # inches
TITLES = ("input", "target", "prediction")
LEAST_BLACK = 0.02  # of 0..1: errors that nobody sees are not drawn as black


def plot_translations(inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray, path: Path, title: str) -> None:
    """Draw a row for each image: input, target, prediction and the largest error over the channels.

    Args:
        inputs: uint8 (N, H, W, C), C 1 or 3.
        targets, predictions: float (N, H', W', C') in 0..1.
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
    """
    errors = np.abs(targets - predictions).max(-1, keepdims=True)
    rows = len(inputs)
    black = max(LEAST_BLACK, float(errors.max()))  # the largest error of all: white to black over 0..1 would hide it
    height = rows * (SIDE + BELOW)
    figure = empty_figure(4 * (SIDE + GAP) - GAP, height)
    for row in range(rows):
        bottom = height - (row + 1) * (SIDE + BELOW)
        for column, (name, images) in enumerate(zip(TITLES, (inputs, targets, predictions), strict=True)):
            axes = add_axes(figure, column * (SIDE + GAP), bottom, SIDE, SIDE)
            _draw(axes, images[row], 255 if images.dtype == np.uint8 else 1, "gray")
            if row == 0:
                axes.set_title(name, size=10, color=INK, pad=5)
        axes = add_axes(figure, 3 * (SIDE + GAP), bottom, SIDE, SIDE)
        _draw(axes, errors[row], black, "gray_r")
        if row == 0:
            axes.set_title(f"error (black: {black:.2g})", size=10, color=INK, pad=5)
        axes.set_xlabel(f"at most {errors[row].max():.3f}", size=7.5, color=MUTED, labelpad=2)
    put_title(figure, title, above=0.35)
    save(figure, path)


def _draw(axes: Axes, image: np.ndarray, top: float, colors: str) -> None:
    image = image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(image, cmap=colors, vmin=0, vmax=top, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
