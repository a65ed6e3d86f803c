"""Learning curves: loss and accuracy of every epoch, with the test as a line."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.plot_style import (
    FAINT,
    GRID,
    INK,
    TEST,
    TRAIN,
    VALIDATION,
    add_axes,
    empty_figure,
    put_heading,
    put_title,
    save,
)

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
        position = {"xycoords": "axes fraction", "xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(text, (1, heights[-1] / inches), size=9, color=color, va="center", **position)


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
