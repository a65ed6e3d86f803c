"""Pictures of images that a model made, beside what they were made from and what they should have been."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from engine.plots import FAINT, INK, add_axes, empty_figure, put_title, save

SIDE, GAP = 1.25, 0.12  # inches
TITLES = ("input", "target", "prediction")
MOST_ERROR = 0.1  # of 0..1, drawn as black; errors are small, and white to black over all of 0..1 would hide them


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
    height = rows * (SIDE + GAP)
    figure = empty_figure(4 * (SIDE + GAP) - GAP, height)
    for row in range(rows):
        bottom = height - (row + 1) * (SIDE + GAP)
        for column, (name, images) in enumerate(zip(TITLES, (inputs, targets, predictions), strict=True)):
            axes = add_axes(figure, column * (SIDE + GAP), bottom, SIDE, SIDE)
            _draw(axes, images[row], 255 if images.dtype == np.uint8 else 1, "gray")
            if row == 0:
                axes.set_title(name, size=10, color=INK, pad=5)
        axes = add_axes(figure, 3 * (SIDE + GAP), bottom, SIDE, SIDE)
        _draw(axes, errors[row], MOST_ERROR, "gray_r")
        if row == 0:
            axes.set_title(f"error, black: {MOST_ERROR}", size=10, color=INK, pad=5)
        axes.set_xlabel(f"at most {errors[row].max():.3f}", size=7, color=FAINT, labelpad=1)
    put_title(figure, title, above=0.35)
    save(figure, path)


def _draw(axes: Axes, image: np.ndarray, top: float, colors: str) -> None:
    image = image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(image, cmap=colors, vmin=0, vmax=top, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
