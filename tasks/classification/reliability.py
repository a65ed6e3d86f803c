"""The reliability diagram: accuracy over confidence, before and after calibration."""

from pathlib import Path

from matplotlib.axes import Axes

from common.console import percent
from common.plot_style import FAINT, GRID, INK, MUTED, TEST, TRAIN, add_axes, empty_figure, put_legend, put_title, save

SIDE = 3.4  # inches
BELOW = 0.9  # inches, of the panel of counts


def plot_reliability(calibration: dict, before: dict | None, path: Path, title: str) -> None:
    """Draw what `calibration.reliability` found, and what it was before calibration where there was one."""
    figure = empty_figure(SIDE, SIDE + BELOW + 0.5)
    axes = add_axes(figure, 0, BELOW + 0.5, SIDE, SIDE)
    axes.plot([0, 100], [0, 100], color=FAINT, lw=1, ls=(0, (4, 3)), zorder=1)
    if before is not None:
        _draw(axes, before, MUTED, f"before, error {percent(before['error'])}", "s")
    _draw(axes, calibration, TRAIN, f"error {percent(calibration['error'])}", "o")
    axes.grid(color=GRID, lw=0.8)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.set_xticklabels([])
    axes.set_ylabel("right (%)", color=INK, labelpad=6)
    put_legend(axes, 1)
    counts = add_axes(figure, 0, 0, SIDE, BELOW)
    bins = calibration["bins"]
    width = 100 * (bins[0]["to"] - bins[0]["from"])
    counts.bar(
        [100 * each["from"] for each in bins],
        [each["images"] for each in bins],
        width,
        align="edge",
        color=TEST,
        alpha=0.6,
    )
    counts.set(xlim=(0, 100), yscale="log")
    counts.set_xlabel("confidence (%)", color=INK, labelpad=6)
    counts.set_ylabel("images", color=INK, labelpad=6)
    put_title(figure, title, above=0.5 if before is None else 0.75)
    save(figure, path)


def _draw(axes: Axes, calibration: dict, color: str, label: str, marker: str) -> None:
    bins = calibration["bins"]
    confidence, right = ([100 * each[key] for each in bins] for key in ("confidence", "accuracy"))
    axes.plot(confidence, right, color=color, lw=1.8, marker=marker, ms=5, label=label, clip_on=False)
