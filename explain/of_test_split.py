"""Explaining a test split: examples that were right and wrong, the mean map of each class, a figure for each method."""

from pathlib import Path

import numpy as np

from common.console import say
from common.errors import UserError
from data.dataset import DataSplits
from explain.explained import MIDDLE, Explained, in_words
from explain.output import finish, make_folder
from explain.pictures import ROWS, Row, heat, plot_maps
from options.infer import ExplainOptions

MOST_CLASSES = 20  # in a picture of mean maps


def explain_test_split(
    explained: Explained,
    args: ExplainOptions,
    data: DataSplits,
    probabilities: np.ndarray,
    named: list[int],
    folder: Path,
) -> None:
    """Draw right.png, wrong.png and average.png.

    Args:
        explained: model and methods.
        args: `explain_count`, the images of each class that the means and the faithfulness are taken from.
        data: of the weights.
        probabilities: float (N, K) of the test part, in its order.
        named: classes to look at alone; none: all.
        folder: for the pictures.

    Raises:
        UserError: there is no image of the classes named, or no room or right to write.
    """
    labels = explained.task.one_label(data.test.arrays.labels[data.test.ids], probabilities)
    classes = named or list(range(len(data.class_names)))
    said = probabilities.argmax(1)
    if not np.isin(labels, classes).any():
        absent = ", ".join(data.class_names[label] for label in classes)
        raise UserError(f"--explain-class: the test split has no image of {absent}; name other classes")
    make_folder(folder)
    measured, pictures = {}, []
    sample = np.concatenate([np.flatnonzero(labels == label)[: args.explain_count] for label in classes])
    images = _images(data, sample)
    shown = [label for label in classes if (labels[sample] == label).any()][:MOST_CLASSES]
    means = [Row(_mean(images[labels[sample] == label]), [data.class_names[label]]) for label in shown]
    for method in [*explained.methods, MIDDLE]:
        measured[method], heats = explained.measure(method, images, labels[sample])
        say(in_words(method, measured[method]))
        if method != MIDDLE:
            for row, label in zip(means, shown, strict=True):
                of_class = heats[labels[sample] == label]
                hottest = heat(of_class.mean(0, keepdims=True), images.shape[1:3])[0]
                row.maps.append((hottest, f"mean of {len(of_class)}"))
    right = _first_of_each(np.flatnonzero(said == labels), labels, classes)
    among = (np.isin(labels, classes) | np.isin(said, classes)) & (labels >= 0)
    wrong = np.flatnonzero((said != labels) & among)
    wrong = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:ROWS]
    columns = [f"{method}\nfaithfulness {measured[method]['faithfulness']:.3f}" for method in explained.methods]
    title = f"{explained.name}, test set of {data.name}"
    for earlier in ("right.png", "wrong.png"):
        (folder / earlier).unlink(missing_ok=True)
    if len(right):
        _draw_right(explained, data, right, labels, probabilities, folder / "right.png", columns, title)
        pictures.append("right.png")
    if len(wrong):
        _draw_wrong(explained, data, wrong, labels, probabilities, folder / "wrong.png", title)
        pictures.append("wrong.png")
    plot_maps(
        ["mean image", *columns],
        means,
        folder / "average.png",
        f"{title}: mean maps of the true class{explained.where()}",
    )
    more = {"accuracy": float((said == labels).mean()), "test_images": len(labels)}
    finish(explained, folder, [*pictures, "average.png"], measured, more)


def _draw_right(
    explained: Explained,
    data: DataSplits,
    right: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    path: Path,
    columns: list[str],
    title: str,
) -> None:
    labels = labels[right]
    rows = [Row(image, [data.class_names[label]]) for image, label in zip(_images(data, right), labels, strict=True)]
    for method in explained.methods:
        explained.add_column(rows, method, labels, probabilities[right])
    plot_maps(["", *columns], rows, path, f"{title}: what speaks for a class, rightly predicted{explained.where()}")


def _draw_wrong(
    explained: Explained,
    data: DataSplits,
    wrong: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    path: Path,
    title: str,
) -> None:
    labels, said = labels[wrong], probabilities[wrong].argmax(1)
    rows = [
        Row(image, [f"true: {data.class_names[true]}", f"predicted: {data.class_names[answer]}"])
        for image, true, answer in zip(_images(data, wrong), labels, said, strict=True)
    ]
    columns = [""]
    for method in explained.methods:
        explained.add_column(rows, method, said, probabilities[wrong])
        columns.append(f"{method}\nfor the predicted class")
        if method != "eigencam":  # which shows the same for every class
            explained.add_column(rows, method, labels, probabilities[wrong])
            columns.append(f"{method}\nfor the true class")
    plot_maps(columns, rows, path, f"{title}: the mistakes made with most confidence{explained.where()}")


def _images(data: DataSplits, indices: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, C) of images of the test part."""
    return np.ascontiguousarray(data.test.arrays.images[data.test.ids[indices]])


def _mean(images: np.ndarray) -> np.ndarray:
    return images.mean(0).round().astype(np.uint8)


def _first_of_each(indices: np.ndarray, labels: np.ndarray, classes: list[int]) -> np.ndarray:
    """Up to ROWS of `indices`, as evenly from the classes as there are some, classes together."""
    rank = dict.fromkeys(classes, 0)
    turns = []
    for index in indices:
        label = labels[index]
        if label in rank:
            turns.append((rank[label], classes.index(label), index))
            rank[label] += 1
    chosen = sorted(turns)[:ROWS]
    return np.array([index for _, _, index in sorted(chosen, key=lambda turn: turn[1:])], dtype=np.int64)
