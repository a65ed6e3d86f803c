"""How all pictures look: colours, sizes, titles, and how they are written.

Figures are built from `matplotlib.figure.Figure`, never pyplot: no window system, no global state. The axes
fill the figure and their text lies around it; `save` makes the page as large as what was drawn, so that no
text is cut off.
"""

import io
import os
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox
from PIL import Image

DPI = 150
INK, MUTED, FAINT, GRID = "#24292f", "#57606a", "#8b949e", "#e6e8eb"  # text, lesser text, lines, thin lines
# Of Okabe and Ito's colours (jfly.uni-koeln.de/color, 2008), which people who see red and green alike tell apart.
BLUE, ORANGE, GREEN, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7"
TRAIN, VALIDATION, TEST = BLUE, ORANGE, INK
RIGHT, WRONG = BLUE, ORANGE
SHARES = "Blues"  # for shares and figures of merit, light to dark
MAX_NAME = 40  # characters of a class name


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write the figure as a PNG; who reads `path` sees the old picture or the new one, never half of one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(unfinished, format="png", dpi=dpi, bbox_inches=_drawn(figure, 0.2))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _drawn(figure: Figure, margin: float) -> Bbox:
    """What of the page is drawn on, and so many inches around it.

    As bbox_inches="tight" finds it, which draws all of it once more for layouts that we do not use.
    """
    return figure.get_tightbbox(figure.canvas.get_renderer()).padded(margin)


def pixels(figure: Figure) -> np.ndarray:
    """The figure as it would be saved, uint8 (H, W, 3), at fewer pixels an inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, bbox_inches=_drawn(figure, 0.15))
    return np.asarray(Image.open(file).convert("RGB"))


def read_small(path: Path, most: int = 800) -> np.ndarray:
    """A picture's pixels, uint8 (H, W, 3), with at most `most` on a side."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def empty_figure(width: float, height: float) -> Figure:
    """An empty Agg figure; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without a frame, with their lower left corner and size in inches."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    return axes


def put_title(figure: Figure, title: str, above: float) -> None:
    """Title at the left edge of the axes, so many inches above them, wrapped at about the figure's width.

    The lines are about equally long, so that no word stands alone in the last.
    """
    width, height = figure.get_size_inches()
    text = balanced(plain(title), max(48, int(10 * width)))
    figure.text(0, 1 + above / height, text, size=12, weight="bold", color=INK, va="bottom", parse_math=False)


def balanced(text: str, width: int) -> str:
    """The text in as few lines of at most `width` characters as it takes, all about equally long."""
    lines = textwrap.wrap(text, width)
    while lines and len(lines) == len(narrower := textwrap.wrap(text, width - 1)) and width > 20:
        lines, width = narrower, width - 1
    return "\n".join(lines)


def put_heading(axes: Axes, text: str, above: float = 6) -> None:
    """What one of several panels shows, over its upper left corner, so many points above it."""
    position = {"xycoords": "axes fraction", "xytext": (0, above), "textcoords": "offset points"}
    axes.annotate(plain(text), (0, 1), size=10, weight="bold", color=INK, va="bottom", parse_math=False, **position)


def put_legend(axes: Axes, columns: int = 3) -> None:
    """The names of what is drawn, over the axes' upper left corner."""
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.4, "borderpad": 0}
    legend = axes.legend(**above, ncols=columns, frameon=False, labelcolor=INK, fontsize=9, columnspacing=1.4)
    for text in legend.get_texts():
        text.set_parse_math(False)


def put_colorbar(axes: Axes, image: AxesImage, ticks: dict[float, str], label: str, inches: float) -> None:
    """A bar right of the axes, so many inches high."""
    width, height = axes.get_position().size * axes.figure.get_size_inches()
    inset = axes.inset_axes((1 + 0.2 / width, 0, 0.14 / width, inches / height))
    bar = axes.figure.colorbar(image, cax=inset)
    bar.outline.set_visible(False)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(length=0, colors=INK, labelsize=8)
    bar.set_label(label, color=INK, size=9)


def text_on(color: tuple[float, float, float, float]) -> str:
    """The colour of a text that can be read on another colour."""
    red, green, blue = color[:3]
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def plain(text: str) -> str:
    """Text as one line that a font can draw: folder names may hold line breaks and undecodable bytes."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def shorten(name: str, most: int = MAX_NAME) -> str:
    """Cut from the middle: long class names often differ only at one end."""
    name = plain(name)
    half = most // 2
    return name if len(name) <= most else f"{name[: half - 1]}…{name[-half:]}"


def widest(texts: list[str], size: float) -> float:
    """Inches that the widest of the texts takes at a font size in points."""
    renderer = empty_figure(1, 1).canvas.get_renderer()
    font = FontProperties(size=size)
    return max(renderer.get_text_width_height_descent(text, font, False)[0] for text in texts) / DPI
