"""The images whose labels are most probably wrong, on one sheet."""

from pathlib import Path

import numpy as np

from cleaning.confident_learning import Judgement
from cleaning.out_of_fold import OutOfFold
from common.console import percent
from common.plot_style import INK, MUTED, WRONG, save, shorten
from tasks.classification.plots import MAX_EXAMPLES, captioned_figure

COLUMNS = 5


def plot_suspects(found: OutOfFold, labels: np.ndarray, judgement: Judgement, worst: np.ndarray, path: Path) -> None:
    """Draw the first 25 of the images `worst`, each with its label and the suggested one, and both probabilities.

    Args:
        found: the images and their probabilities.
        labels: the given ones, int64 (N,).
        judgement: of all of them.
        worst: numbers of images in the order to show, int64 (M,); M may be 0.
        path: the PNG to write, atomically; its folder exists.
    """
    shown = worst[:MAX_EXAMPLES]
    names, classes = found.train.names(), found.class_names

    def named(number: int, label: int) -> str:
        return f"{shorten(classes[label])} ({percent(found.probabilities[number, label], 0)})"

    captions = [
        [
            (shorten(names[number], 24), MUTED),
            (f"label: {named(number, labels[number])}", INK),
            (f"suggested: {named(number, judgement.suggested[number])}", WRONG),
        ]
        for number in shown
    ]
    cells = [divmod(index, COLUMNS) for index in range(len(shown))]
    title = f"{found.name}: {len(worst):,} labels of {len(labels):,} are probably wrong"
    title += f"; the worst {len(shown)}" if len(worst) > len(shown) else ""
    images = found.train.arrays.images[found.train.ids[shown]]
    save(captioned_figure(images, captions, cells, title), path)
