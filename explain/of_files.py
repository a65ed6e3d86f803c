"""Explaining image files: what speaks for the class that each was given, and for any that is named."""

from pathlib import Path

import numpy as np

from common.console import percent, say
from explain.explained import Explained, in_words
from explain.output import finish, make_folder
from explain.pictures import ROWS, Row, plot_maps
from options.infer import ExplainOptions
from tasks.inference import read_images, tell_unreadable


def explain_files(explained: Explained, args: ExplainOptions, paths: list[Path], named: list[int], folder: Path) -> int:
    """Draw maps-001.png and so on, ten images in each. Returns the exit code: 1 when some could not be read.

    Args:
        explained: model and methods.
        args: `explain_count`, the number of images that the faithfulness is measured on.
        paths: of the images.
        named: classes to explain beside the predicted one.
        folder: for the pictures.
    """
    unreadable: list[str] = []
    readable, images = read_images(paths, explained.task, unreadable)
    if readable:
        make_folder(folder)
        _explain(explained, args.explain_count, readable, images, named, folder)
    tell_unreadable(unreadable, len(paths))
    return 1 if unreadable else 0


def _explain(
    explained: Explained,
    count: int,
    paths: list[Path],
    images: np.ndarray,
    named: list[int],
    folder: Path,
) -> None:
    probabilities = explained.probabilities(images)
    said = probabilities.argmax(1)
    class_names = explained.task.class_names
    measured = {}
    for method in explained.methods:
        measured[method], _ = explained.measure(method, images[:count], said[:count])
        say(in_words(method, measured[method]))
    # What eigencam shows is the same for every class.
    others = [(method, label) for label in named for method in explained.methods if method != "eigencam"]
    faithful = {method: f"faithfulness {one['faithfulness']:.3f}" for method, one in measured.items()}
    columns = ["", *(f"{method}\n{words}" for method, words in faithful.items())]
    columns += [f"{method}\nfor {class_names[label]}" for method, label in others]
    pictures = []
    for start in range(0, len(images), ROWS):
        part = slice(start, start + ROWS)
        rows = [
            Row(image, [path.name, f"{class_names[label]} {percent(row[label], 0)}"])
            for path, image, row, label in zip(paths[part], images[part], probabilities[part], said[part], strict=True)
        ]
        for method in explained.methods:
            explained.add_column(rows, method, said[part], probabilities[part])
        for method, label in others:
            explained.add_column(rows, method, [label] * len(rows), probabilities[part])
        pictures.append(f"maps-{start // ROWS + 1:03d}.png")
        plot_maps(columns, rows, folder / pictures[-1], f"{explained.name}: what speaks for a class{explained.where()}")
    answers = [
        {"image": str(path), "class": class_names[label], "probability": row[label]}
        for path, label, row in zip(paths, said, probabilities.tolist(), strict=True)
    ]
    finish(explained, folder, pictures, measured, {"images": answers})
