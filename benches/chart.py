"""bench.png: a bar for each variant's images/s, a line from the slowest round to the fastest."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from benches.report import Row, Section
from common.plot_style import BLUE, GRID, INK, MUTED, ORANGE, add_axes, balanced, empty_figure, save, widest

ROW, ABOVE, BELOW = 0.3, 0.5, 0.55  # inches
WIDTH = 6.5  # inches, of the bars


def draw(sections: list[Section], path: Path, caption: str) -> None:
    """Draw one panel for each section, each with a scale of its own.

    Args:
        sections: what was measured; a variant that was not has no bar.
        path: the PNG to write, atomically; its folder exists.
        caption: hardware and versions, one line.
    """
    heights = [ABOVE + ROW * len(section.rows) + BELOW for section in sections]
    figure = empty_figure(WIDTH, sum(heights))
    names = max(widest([row.variant for row in section.rows], 8) for section in sections)
    top = sum(heights)
    for section, height in zip(sections, heights, strict=True):
        _draw_section(add_axes(figure, 0, top - height + BELOW, WIDTH, ROW * len(section.rows)), section, names)
        top -= height
    text = balanced(caption, 110)
    figure.text(-names / WIDTH, -0.1 / sum(heights), text, size=8, color=MUTED, va="top", parse_math=False)
    save(figure, path)


def _draw_section(axes: Axes, section: Section, names: float) -> None:
    """One panel; its title begins where the variants' names do, so many inches left of the bars."""
    fastest = max((row.speed[2] for row in section.rows if row.timing is not None), default=1.0)
    for index, row in enumerate(section.rows):
        if row.timing is None:
            axes.text(0, index, "  not run", va="center", size=8, color=MUTED)
        else:
            _draw_bar(axes, index, row, fastest)
    axes.set_yticks(range(len(section.rows)), [row.variant for row in section.rows], size=8)
    axes.set_ylim(len(section.rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.03 * fastest)
    where = {"xycoords": "axes fraction", "xytext": (-72 * names, 8), "textcoords": "offset points"}
    title = balanced(section.title, 95)
    axes.annotate(title, (0, 1), size=9, weight="bold", color=INK, va="bottom", parse_math=False, **where)
    axes.set_xlabel("images/s; line: slowest to fastest round", size=8, color=INK)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(length=0, colors=INK, labelsize=8)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _draw_bar(axes: Axes, index: int, row: Row, fastest: float) -> None:
    """The median as a bar with its value at the end, inside where there is room; lowest to highest below its middle."""
    median, low, high = row.speed
    axes.barh(index, median, height=0.62, color=ORANGE if index == 0 else BLUE)
    axes.plot([low, high], [index + 0.2] * 2, color=INK, lw=1.4, solid_capstyle="butt")
    inside = median > 0.2 * fastest
    where = {"xytext": (-4 if inside else 4, 2), "textcoords": "offset points", "va": "center", "size": 8}
    color = "white" if inside else INK
    axes.annotate(f"{median:,.0f}", (median, index), ha="right" if inside else "left", color=color, **where)
