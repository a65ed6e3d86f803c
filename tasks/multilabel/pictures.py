"""What is drawn of a test with several labels an image."""

from matplotlib.figure import Figure

from common import console, plot_style

MOST_CLASSES = 40  # of average_precision.png


def precision_figure(metrics: dict, name: str) -> Figure:
    """A bar for each class, the best first; of many the worst."""
    rows = [(key, row["average_precision"]) for key, row in metrics["per_class"].items()]
    rows = sorted([row for row in rows if row[1] is not None], key=lambda row: -row[1])
    left_out = max(0, len(rows) - MOST_CLASSES)
    rows = rows[left_out:]
    width, height = 4.5, max(0.5, 0.24 * len(rows))
    figure = plot_style.empty_figure(width, height)
    axes = plot_style.add_axes(figure, 0, 0, width, height)
    places = range(len(rows))
    axes.barh(places, [100 * value for _, value in rows], height=0.7, color=plot_style.TRAIN)
    axes.set_yticks(places, [plot_style.shorten(key) for key, _ in rows], parse_math=False)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("average precision (%)", color=plot_style.INK, labelpad=6)
    for place, (_, value) in zip(places, rows, strict=True):
        axes.annotate(f"{100 * value:.1f}", (100, place), (6, 0), textcoords="offset points", va="center", size=9)
    mean = "not finite" if metrics["map"] is None else console.percent(metrics["map"])
    worst = f", the {len(rows)} worst of {len(rows) + left_out} classes" if left_out else ""
    plot_style.put_title(figure, f"{name}, test set: mean average precision {mean}{worst}", above=0.1)
    return figure
