"""bench.png: a bar for each variant's images/s, a line from the slowest round to the fastest."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benches.report import Section
from engine import plots

ROW_HEIGHT, TITLE_HEIGHT = 0.3, 0.95  # inches


def draw(sections: list[Section], path: Path, caption: str) -> None:
    """Draw one panel for each section, each with a scale of its own.

    Args:
        sections: what was measured; a variant that was not has no bar.
        path: the PNG to write, atomically; its folder exists.
        caption: hardware and versions, one line.
    """
    heights = [TITLE_HEIGHT + ROW_HEIGHT * len(section.rows) for section in sections]
    figure = Figure(figsize=(8, sum(heights) + 0.3), dpi=plots.DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(len(sections), squeeze=False, height_ratios=heights)[:, 0]
    for axes, section in zip(panels, sections, strict=True):
        _draw_section(axes, section)
    figure.supxlabel(caption, size=8, color=plots.FAINT)
    plots.save(figure, path)


def _draw_section(axes: Axes, section: Section) -> None:
    places = range(len(section.rows))
    for place, row in zip(places, section.rows, strict=True):
        if row.timing is None:
            axes.text(0, place, "  not run", va="center", size=8, color=plots.FAINT)
            continue
        median, low, high = row.speed
        axes.barh(place, median, height=0.62, color=plots.ORANGE if place == 0 else plots.BLUE)
        axes.plot([low, high], [place, place], color=plots.INK, lw=1.2)
        axes.annotate(
            f"{median:,.0f}", (max(median, high), place), (4, 0), textcoords="offset points", va="center", size=8
        )
    axes.set_yticks(places, [row.variant for row in section.rows], size=8)
    axes.set_ylim(len(section.rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.set_title(section.title, loc="left", size=9, weight="bold", color=plots.INK, x=0, wrap=True)
    axes.set_xlabel("images/s", size=8, color=plots.INK)
    axes.tick_params(length=0, colors=plots.INK, labelsize=8)
    axes.grid(axis="x", color=plots.GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
