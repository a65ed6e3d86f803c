"""Which labels images have: printed, or written as CSV or JSON."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from common import console
from common.console import percent, printable
from tasks.base import Task
from tasks.classification.predictions import write

BETWEEN = "|"  # labels in a cell


def rows(
    names: list[str],
    probabilities: np.ndarray,
    class_names: list[str],
    thresholds: Sequence[float],
    truth: np.ndarray | None = None,
) -> list[dict]:
    """For each name {"image", "labels": [...], "probabilities": {class: p}}, likeliest labels first.

    Where the true ones are known, 0 or 1 (N, K), "true" comes after "image".
    """
    said = probabilities >= np.asarray(thresholds, dtype=np.float32)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    known = [{}] * len(names) if truth is None else [{"true": names_of(row, class_names)} for row in truth]
    return [
        {
            "image": name,
            **true,
            "labels": [class_names[k] for k in likeliest if there[k]],
            "probabilities": dict(zip(class_names, map(float, row), strict=True)),
        }
        for name, true, row, there, likeliest in zip(names, known, probabilities, said, order, strict=True)
    ]


def answers(task: Task, names: list[str], probabilities: np.ndarray, truth: np.ndarray) -> str:
    """test.csv: of each image its name, its true labels, 0 or 1 (N, K), those that are said, and all probabilities."""
    return as_csv(rows(names, probabilities, task.class_names, task.thresholds, truth))


def names_of(there: np.ndarray, class_names: list[str]) -> list[str]:
    """The names of the classes that are there, 0 or 1 (K,)."""
    return [class_names[k] for k in np.flatnonzero(there)]


def put_out(rows: list[dict], output: str | None) -> None:
    """Print the rows, or write them to a .csv or .json file.

    Raises:
        UserError: no room or no right to write.
    """
    console.clear()
    if output is not None:
        write(rows, output, as_csv)
        return
    for row in rows:
        likely = ", ".join(f"{name} {percent(row['probabilities'][name], 1)}" for name in row["labels"])
        name, most = max(row["probabilities"].items(), key=lambda item: item[1])
        print(printable(f"{row['image']}: {likely or f'none (likeliest: {name} {percent(most, 1)})'}"))


def as_csv(rows: list[dict]) -> str:
    """One line an image: its name, its true labels where they are known, those that are said, all probabilities."""
    classes = list(rows[0]["probabilities"]) if rows else []
    first = ["image", *(["true"] if rows and "true" in rows[0] else []), "labels"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*first, *(f"probability_{name}" for name in classes)])
    for row in rows:
        cells = [row[column] if column == "image" else BETWEEN.join(row[column]) for column in first]
        writer.writerow([*cells, *row["probabilities"].values()])
    return text.getvalue()
