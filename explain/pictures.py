"""Pictures of heat maps: a row an image, a column a method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch.nn import functional as F

from common.plot_style import INK, MUTED, WRONG, add_axes, empty_figure, put_title, save, shorten

ROWS = 10  # of a picture
SIDE, GAP = 1.4, 0.1  # inches
LINE = 0.14  # inches, of a caption
WIDEST = 8  # images side by side
HEAT = colormaps["inferno"]
MOST = 99  # per cent of a map's pixels are at most as hot as its top: a single pixel must not darken all others


@dataclass(frozen=True)
class Row:
    """One image with its maps.

    Attributes:
        image: uint8 (H, W, C), C 1 or 3.
        captions: lines above it; what is wrong begins with "predicted".
        maps: from `heat`, each with the line above it.
    """

    image: np.ndarray
    captions: Sequence[str]
    maps: list[tuple[np.ndarray, str]] = field(default_factory=list)


def heat(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps, float (B, h, w), as they are drawn and averaged: float32 (B, *size) in 0..1, 0 where nothing speaks for it.

    The hundredth of pixels that is hottest is 1.
    """
    positive = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32)).clamp(min=0)[:, None]
    scaled = F.interpolate(positive, size, mode="bilinear", antialias=True, align_corners=False)[:, 0].numpy()
    top = np.percentile(scaled, MOST, axis=(1, 2), keepdims=True)
    top = np.where(top > 0, top, scaled.max((1, 2), keepdims=True))
    return np.clip(scaled / np.where(top > 0, top, 1), 0, 1)


def overlay(image: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """The image in dim grey under the heat: float (H, W, 3) in 0..1, from uint8 (H, W, C) and float (H, W) in 0..1."""
    grey = image.mean(2, keepdims=True) / 255
    share = (0.25 + 0.6 * hot)[..., None]
    return (1 - share) * grey + share * HEAT(hot)[..., :3]


def plot_maps(columns: list[str], rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw rows under the names of the columns, the first of which is that of the images; in blocks if those are few.

    Args:
        columns: may hold line breaks.
        rows: as many maps in each as there are columns less one.
        path: the PNG to write, atomically; its folder exists.
        title: wrapped where it is too long.
    """
    rows_high, columns_wide = rows[0].image.shape[:2]
    high, wide = (SIDE * side / max(rows_high, columns_wide) for side in (rows_high, columns_wide))
    above = LINE * max(len(row.captions) for row in rows)
    beside = max(1, min(WIDEST // len(columns), len(rows) // 3))
    each = math.ceil(len(rows) / beside)
    block = len(columns) * (wide + GAP) + GAP
    height = each * (high + above + GAP)
    figure = empty_figure(beside * block - 2 * GAP, height)
    for number, row in enumerate(rows):
        group, down = divmod(number, each)
        bottom = height - down * (high + above + GAP) - above - high
        _draw_row(figure, row, (group * block, bottom), (wide, high))
    for number, name in enumerate(columns * beside):
        group, column = divmod(number, len(columns))
        left = (group * block + column * (wide + GAP)) / figure.get_figwidth()
        figure.text(left, 1 + 0.06 / height, name, size=9, color=INK, va="bottom", parse_math=False)
    _put_colorbar(figure, min(1.5, height))
    put_title(figure, title, above=0.3 + 0.17 * max(name.count("\n") for name in columns))
    save(figure, path)


def _put_colorbar(figure: Figure, inches: float) -> None:
    """What the colours say, right of the maps and at the top."""
    width, height = figure.get_size_inches()
    axes = add_axes(figure, width + 0.25, height - inches - LINE, 0.12, inches)
    axes.imshow(np.linspace(1, 0, 64)[:, None], cmap=HEAT, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 1], ["nothing", "most"], size=8)
    axes.set_ylabel("speaks for the class", size=8, color=INK)


def _draw_row(figure: Figure, row: Row, corner: tuple[float, float], size: tuple[float, float]) -> None:
    """An image and its maps from the lower left `corner` on, each of `size` (width, height), in inches."""
    interpolation = "nearest" if max(row.image.shape[:2]) <= 64 else "auto"
    plain = row.image if row.image.shape[2] == 3 else row.image.repeat(3, axis=2)
    cells = [(plain, row.captions, True), *((overlay(row.image, hot), [text], hot.any()) for hot, text in row.maps)]
    for column, (picture, captions, says_something) in enumerate(cells):
        axes = add_axes(figure, corner[0] + column * (size[0] + GAP), corner[1], *size)
        axes.set_axis_off()
        axes.imshow(picture, interpolation=interpolation)
        if not says_something:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
            note = {"transform": axes.transAxes, "ha": "center", "va": "center", "size": 7, "color": INK}
            axes.text(0.5, 0.5, "empty: nothing\nspeaks for it", bbox=box, **note)
        for line, caption in enumerate(reversed(captions)):
            color = WRONG if caption.startswith("predicted") else INK if column == 0 else MUTED
            position = {"xycoords": "axes fraction", "xytext": (0, 3 + 72 * LINE * line), "textcoords": "offset points"}
            axes.annotate(shorten(caption), (0, 1), size=7, color=color, parse_math=False, **position)
