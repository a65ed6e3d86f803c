"""The pictures hold what was asked for: no text is cut off, covered by another, or read as mathtext."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib import image as mpl_image
from matplotlib.text import Text

from common import plot_style
from explain.pictures import Row, plot_maps
from tasks.classification.confusion import by_confusion, confusion_figure, plot_confusion, worst_pairs
from tasks.classification.plots import examples_figure, plot_examples
from tasks.curves import curve_figure, curves_figure, plot_curve, plot_curves
from tasks.image_to_image.pictures import plot_translations

pytestmark = pytest.mark.draws

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def long_names(num_classes):
    return [f"$x_{k}$ class {k} ".ljust(40, "w") for k in range(num_classes)]


def confusion(num_classes):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 20, (num_classes, num_classes)) + 900 * np.eye(num_classes, dtype=int)).tolist()


def history(epochs):
    return [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "val_loss": 2.2 / epoch + epoch / 50,
            "train_accuracy": 1 - 0.9 / epoch,
            "val_accuracy": 1 - 0.95 / epoch - epoch / 500,
        }
        for epoch in range(1, epochs + 1)
    ]


def examples(count, channels=3):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 10
    images = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    return images, labels, (labels + 1) % 10, np.linspace(1, 0.5, count)


def drawn_texts(figure):
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def assert_nothing_is_clipped(path):
    """The outermost pixels of the file are the white margin: nothing touches the edge."""
    pixels = mpl_image.imread(path)[..., :3]
    margin = 10
    for edge in (pixels[:margin], pixels[-margin:], pixels[:, :margin], pixels[:, -margin:]):
        assert edge.min() == 1
    assert pixels.min() < 0.5


def assert_apart(texts):
    """No text covers the next one."""
    renderer = texts[0].figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts]
    for first, second in pairwise(boxes):
        assert not first.overlaps(second), (first, second)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("names_of", [long_names, lambda k: [f"name {i}" for i in range(k)]], ids=["long", "short"])
def test_no_class_name_is_clipped(tmp_path, num_classes, names_of):
    names = names_of(num_classes)
    figure = confusion_figure(confusion(num_classes), names, "A title")
    figure.draw_without_rendering()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(shown) == sorted(name.strip() for name in names)
    assert_apart(figure.axes[0].get_yticklabels())
    plot_confusion(confusion(num_classes), names, tmp_path / "matrix.png", "A title")
    assert_nothing_is_clipped(tmp_path / "matrix.png")


def test_column_names_do_not_cover_each_other():
    for num_classes in (2, 10, 100):
        figure = confusion_figure(confusion(num_classes), [f"n{k}" for k in range(num_classes)], "A title")
        figure.draw_without_rendering()
        assert_apart(figure.axes[0].get_xticklabels())


def test_counts_are_written_up_to_20_classes():
    matrix = confusion(20)
    axes = confusion_figure(matrix, long_names(20), "").axes[0]
    written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    cells = {(row, column): str(count) for row, counts in enumerate(matrix) for column, count in enumerate(counts)}
    assert written == {
        cell: count for cell, count in cells.items() if count != "0"
    }  # what never happened is left white
    assert len(confusion_figure(confusion(21), long_names(21), "").axes[0].texts) == 0


def test_few_classes_are_in_their_own_order_but_for_capitals():
    def names_shown(names):
        return [label.get_text() for label in confusion_figure(confusion(3), names, "").axes[0].get_yticklabels()]

    assert names_shown(["Bird", "Cat", "ant"]) == ["ant", "Bird", "Cat"]
    assert names_shown(["T-shirt", "Trouser", "Dress"]) == ["T-shirt", "Trouser", "Dress"]


def test_many_classes_are_ordered_by_what_is_confused_with_the_worst_pairs_beside():
    counts = 50 * np.eye(40, dtype=int)
    for label in range(20):  # each is taken for the one 20 further on
        counts[label, label + 20] = 10 + label
    order = by_confusion(counts)
    assert all(abs(order.index(label) - order.index(label + 20)) == 1 for label in range(20))
    names = [f"class {label}" for label in range(40)]
    worst = worst_pairs(counts, names)
    assert worst[0] == ("class 19 → class 39", 29, pytest.approx(29 / 79))
    assert len(worst) == 15
    matrix, pairs = confusion_figure(counts, names, "").axes[:2]
    assert [label.get_text() for label in matrix.get_yticklabels()] == [names[label] for label in order]
    assert [bar.get_width() for bar in pairs.patches] == [count for _, count, _ in worst]


def test_colours_are_shares_of_the_true_class_even_for_an_empty_row():
    figure = confusion_figure([[3, 1, 0], [0, 0, 0], [1, 0, 9]], ["a", "b", "c"], "")
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [0, 0, 0], [0.1, 0, 0.9]])


def test_names_past_40_characters_keep_both_ends():
    names = ["first " + "x" * 60 + " end1", "first " + "x" * 60 + " end2"]
    labels = [label.get_text() for label in confusion_figure(confusion(2), names, "").axes[0].get_yticklabels()]
    assert [len(label) for label in labels] == [40, 40]
    assert labels[0].startswith("first ") and labels[0].endswith("end1") and labels[1].endswith("end2")


@pytest.mark.parametrize("name", ["$", "$x$", "$\\frac{$", "a_b^c", "line\nbreak", "\udcff undecodable", "naïve é"])
def test_any_name_can_be_drawn(tmp_path, name):
    names = [name] + CIFAR10[1:]
    plot_confusion(confusion(10), names, tmp_path / "matrix.png", name)
    plot_examples(*examples(2), names, tmp_path / "examples.png", name)
    plot_curve(history(2), "loss", tmp_path / "loss.png", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.png", "loss.png", "matrix.png"]


def test_no_text_of_a_name_is_read_as_mathtext():
    figures = [
        confusion_figure(confusion(2), ["$a$", "$b$"], "$t$"),
        examples_figure(*examples(1), ["$a$"] * 10, "$t$"),
    ]
    for figure in figures:
        named = [text for text in drawn_texts(figure) if "$" in text.get_text()]
        assert named and not any(text.get_parse_math() for text in named)


@pytest.mark.parametrize("key", ["loss", "accuracy"])
@pytest.mark.parametrize("epochs", [1, 2, 10, 200])
def test_curve_draws_every_epoch_and_whole_epoch_ticks(tmp_path, key, epochs):
    rows = history(epochs)
    axes = curve_figure(rows, key, "A title").axes[0]
    scale = 100 if key == "accuracy" else 1
    for line, name in zip(axes.lines, ("train", "val"), strict=False):
        assert line.get_xdata().tolist() == [row["epoch"] for row in rows]
        np.testing.assert_allclose(line.get_ydata(), [scale * row[f"{name}_{key}"] for row in rows])
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)
    plot_curve(rows, key, tmp_path / "curve.png", "A long title with many words " * 6)
    assert_nothing_is_clipped(tmp_path / "curve.png")


def test_ring_is_at_the_best_validation_epoch():
    rows = history(30)
    for key, best_of in (("loss", min), ("accuracy", max)):
        best = best_of(rows, key=lambda row: row[f"val_{key}"])
        ring = curve_figure(rows, key, "").axes[0].lines[2]
        assert ring.get_xdata() == [best["epoch"]]
        assert f"epoch {best['epoch']}" in ring.get_label()


def test_curves_show_loss_and_accuracy_with_the_test_as_a_line_and_their_ends_in_words(tmp_path):
    rows, test = history(10), {"loss": 1.5, "accuracy": 0.7654}
    figure = curves_figure(rows, "A title", test, {"loss": "loss", "accuracy": "accuracy (%)"})
    for axes, height in zip(figure.axes, (1.5, 76.54), strict=True):
        assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "test"] == [pytest.approx(height)]
    words = [text.get_text() for text in drawn_texts(figure)]
    assert {"test 76.54 %", "train 91.00 %", "validation 88.50 %", "test 1.5", "train 0.2", "validation 0.42"} <= set(
        words
    )
    for axes in figure.axes:
        assert_apart([text for text in axes.texts if text.get_text().split()[0] in ("train", "validation", "test")])
    plot_curves(rows[:1], tmp_path / "curves.png", "A title", {}, {"loss": "loss", "accuracy": "accuracy (%)"})
    assert_nothing_is_clipped(tmp_path / "curves.png")


def test_one_epoch_shows_a_marker():
    assert curve_figure(history(1), "loss", "").axes[0].lines[0].get_marker() == "o"


def test_epochs_without_validation_are_bridged():
    rows = history(10)
    for row in rows:
        if row["epoch"] % 5:
            row["val_loss"] = None
    rows[2]["train_loss"] = float("nan")
    del rows[0]["val_loss"]
    train, validation, _ = curve_figure(rows, "loss", "").axes[0].lines
    assert validation.get_xdata().tolist() == [5, 10]
    assert 3 not in train.get_xdata()


@pytest.mark.parametrize("missing", ["absent", "none"])
def test_run_without_validation_draws_train_alone(missing):
    rows = [{"epoch": row["epoch"], "train_loss": row["train_loss"]} for row in history(5)]
    if missing == "none":
        rows = [{**row, "val_loss": None} for row in rows]
    assert len(curve_figure(rows, "loss", "").axes[0].lines) == 1


def captions(figure):
    """The lines over each image, from the bottom to the top, in the order of the images."""
    lines = {}
    for text in [text for axes in figure.axes for text in axes.texts]:
        lines.setdefault(tuple(text.xy), []).append(text)
    return list(lines.values())


@pytest.mark.parametrize(("count", "channels"), [(0, 3), (1, 3), (7, 1), (30, 3)])
def test_examples_show_up_to_25_answers(tmp_path, count, channels):
    data = examples(count, channels)
    figure = examples_figure(*data, long_names(10), "A title")
    assert sum(len(axes.images) for axes in figure.axes) == min(count, 25)
    words = [text.get_text() for text in drawn_texts(figure)]
    if count == 0:
        assert "no image to show" in words
    else:
        assert f"predicted: {long_names(10)[1]} (100 %)" in words
    for texts in captions(figure):
        assert_apart(texts)
    plot_examples(*data, long_names(10), tmp_path / "examples.png", "A title")
    assert_nothing_is_clipped(tmp_path / "examples.png")


def test_examples_are_named_and_right_answers_begin_a_row():
    images, labels, predictions, confidences = examples(9)
    predictions[7:] = labels[7:]
    figure = examples_figure(images, labels, predictions, confidences, CIFAR10, "", [f"cat/{k}.png" for k in range(9)])
    words = [[text.get_text() for text in texts] for texts in captions(figure)]
    assert words[0] == ["predicted: automobile (100 %)", "true: airplane", "cat/0.png"]
    assert words[7] == ["right: horse (56 %)", "cat/7.png"]
    corners = [(image.get_extent()[0], image.get_extent()[2]) for image in figure.axes[0].images]
    assert corners[7][0] == corners[0][0] and corners[7][1] < corners[6][1]


def test_captions_of_neighbours_do_not_cover_each_other():
    figure = examples_figure(*examples(5), long_names(10), "A title")
    figure.draw_without_rendering()
    for line in (0, 1, 2):
        assert_apart([texts[line] for texts in captions(figure)])


def test_example_pixels_are_the_images_own():
    images, *rest = examples(3, channels=1)
    figure = examples_figure(images, *rest, CIFAR10, "")
    for drawn, image in zip(figure.axes[0].images, images, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), image[..., 0])
        assert drawn.get_clim() == (0, 255)


def luminance(color):
    """Of a colour on a screen (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_can_be_read_and_what_is_compared_differs_in_more_than_red_and_green():
    for color in (plot_style.INK, plot_style.MUTED):
        assert 1.05 / (luminance(color) + 0.05) > 4.5  # WCAG's contrast for text on white
    for one, other in ((plot_style.TRAIN, plot_style.VALIDATION), (plot_style.RIGHT, plot_style.WRONG)):
        blue = [int(color[5:], 16) for color in (one, other)]
        assert abs(blue[0] - blue[1]) > 100


def test_no_line_of_a_title_holds_an_orphan():
    title = "imagenette/best.pth, test set of imagenette: the mistakes made with most confidence"
    lines = plot_style.balanced(title, 60).split("\n")
    assert len(lines) == 2 and abs(len(lines[0]) - len(lines[1])) < 12


def test_errors_are_scaled_to_the_largest_and_no_caption_meets_the_next_row(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("tasks.image_to_image.pictures.save", lambda figure, path: figures.append(figure))
    targets = np.zeros((3, 8, 8, 1))
    predictions = np.stack([np.full((8, 8, 1), error) for error in (0.1, 0.4, 0.25)])
    plot_translations(np.zeros((3, 8, 8, 1), np.uint8), targets, predictions, tmp_path / "a.png", "A title")
    (figure,) = figures
    errors = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.images[0].get_clim()[1] for axes in errors] == [0.4] * 3
    assert "error (black: 0.4)" in [text.get_text() for text in drawn_texts(figure)]
    renderer = figure.canvas.get_renderer()
    for above, below in pairwise(errors):
        assert above.xaxis.label.get_window_extent(renderer).y0 > below.get_window_extent(renderer).y1


def test_an_empty_map_says_so_and_the_colours_are_explained(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("explain.pictures.save", lambda figure, path: figures.append(figure))
    image = np.zeros((8, 8, 3), np.uint8)
    rows = [Row(image, ["a"], [(np.zeros((8, 8)), "cat 9 %")]), Row(image, ["b"], [(np.eye(8), "dog 91 %")])]
    plot_maps(["", "gradcam"], rows, tmp_path / "maps.png", "A title")
    words = [text.get_text() for text in drawn_texts(figures[0])]
    assert words.count("empty: nothing\nspeaks for it") == 1
    assert {"speaks for the class", "nothing", "most"} <= set(words)


def test_drawing_leaves_no_global_state_behind(tmp_path):
    before = dict(matplotlib.rcParams)
    plot_curve(history(3), "accuracy", tmp_path / "a.png", "A title")
    assert dict(matplotlib.rcParams) == before
