"""Predicted classes: of image files, or of test images without labels; printed, or written as CSV or JSON."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from common import console
from common.console import percent, printable, say
from common.errors import UserError
from common.files import is_folder, write_text
from data.dataset import DataSplits
from options.infer import PredictOptions
from tasks import evaluate
from tasks.base import Task
from tasks.classification.calibration import UNKNOWN, withheld
from tasks.inference import infer_files, tell_unreadable

UNLABELLED_FILE = "predictions.csv"
TOPK = 5  # classes named for each image in it


def check_options(args: PredictOptions) -> None:
    """Raise UserError unless the predictions can be written to --output (None: they are printed)."""
    output = args.output
    if output is None:
        return
    if Path(output).suffix not in (".csv", ".json"):
        raise UserError(f"--output {output}: must end in .csv or .json")
    folder = Path(output).absolute().parent
    if not is_folder(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--output {output}: the folder {folder} does not exist, or must not be written to")
    if is_folder(Path(output)):
        raise UserError(f"--output {output}: is a folder; give the name of a file")


def reject_in_words(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> str:
    """What answers below a threshold of confidence cost, and bring, in a line."""
    found = withheld(probabilities, labels, threshold)
    accuracy = "" if found["accuracy"] is None else f", {percent(found['accuracy'])} of these answers are right"
    return f"--reject {threshold:g}: {percent(found['coverage'])} of the images get an answer{accuracy}"


def predict_files(
    task: Task,
    args: PredictOptions,
    model: nn.Module,
    paths: list[Path],
    accelerator: Accelerator,
    batch_size: int,
) -> int:
    """Predict image files and put out what was found. Returns the exit code: 1 when some could not be read."""
    names, probabilities = [], [np.zeros((0, len(task.class_names)), dtype=np.float32)]
    unreadable: list[str] = []

    def predict(images: Tensor) -> Tensor:
        return task.probabilities(task.predict(model, images))

    model.eval()
    for readable, found in infer_files(predict, task, paths, accelerator, batch_size, unreadable):
        names += [str(path) for path in readable]
        probabilities.append(found.numpy())
    if accelerator.is_main_process:
        task.put_out(names, np.concatenate(probabilities), args)
        tell_unreadable(unreadable, len(paths))
    return 1 if unreadable else 0


def predict_unlabelled(
    task: Task, folder: Path, model: nn.Module, data: DataSplits, accelerator: Accelerator, batch_size: int
) -> str:
    """Write predictions.csv, as --output does, of the images of a test split whose labels are kept secret."""
    logits, _ = evaluate.predict(model, task, data.unlabelled, accelerator, batch_size)
    if accelerator.is_main_process:
        names, probabilities = list(data.unlabelled.arrays.names), task.probabilities(logits).numpy()
        write_text(folder / UNLABELLED_FILE, task.as_csv(names, probabilities))
    return f"{len(data.unlabelled):,} images without labels: their classes are in {UNLABELLED_FILE}"


def answers(class_names: list[str], names: list[str], probabilities: np.ndarray, labels: np.ndarray) -> str:
    """test.csv: of each image its name, true class, loss (cross-entropy in nats) and likeliest classes.

    Args:
        class_names: of each label; `names`: of the images; `labels`: their true classes, int64 (N,).
        probabilities: float32 (N, K).
    """
    true = [class_names[label] for label in labels]
    chosen = probabilities[np.arange(len(labels)), labels].clip(min=np.finfo(np.float32).tiny)
    found = rows(names, probabilities, class_names, TOPK, true)
    return as_csv([{**row, "loss": float(loss)} for row, loss in zip(found, -np.log(chosen), strict=True)])


def rows(
    names: list[str],
    probabilities: np.ndarray,
    class_names: list[str],
    topk: int,
    true: list[str] | None = None,
    reject: float | None = None,
) -> list[dict]:
    """For each name the `topk` likeliest classes: {"image", "predictions": [{"class", "probability"}, ...]}.

    Where the true classes are known, "true" comes after "image"; with `reject` then "answer": the likeliest class, or
    UNKNOWN where it is less likely than that.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
    known = [{}] * len(names) if true is None else [{"true": name} for name in true]
    return [
        {
            "image": name,
            **truth,
            **({} if reject is None else {"answer": class_names[likeliest[0]] if row.max() >= reject else UNKNOWN}),
            "predictions": [{"class": class_names[k], "probability": float(row[k])} for k in likeliest],
        }
        for name, truth, row, likeliest in zip(names, known, probabilities, order, strict=True)
    ]


def put_out(rows: list[dict], output: str | None) -> None:
    """Print the rows, or write them to a .csv or .json file.

    Raises:
        UserError: no room or no right to write.
    """
    console.clear()
    if output is None:
        for row in rows:
            likely = ", ".join(f"{p['class']} {percent(p['probability'], 1)}" for p in row["predictions"])
            unknown = row.get("answer") == UNKNOWN
            print(printable(f"{row['image']}: {f'{UNKNOWN} (likeliest: {likely})' if unknown else likely}"))
        return
    write(rows, output, as_csv)


def write(rows: list[dict], output: str, as_csv: Callable[[list[dict]], str]) -> None:
    """Write what is predicted of each image to a .csv file, by `as_csv`, or a .json file.

    Raises:
        UserError: no room or no right to write.
    """
    text = as_csv(rows) if output.endswith(".csv") else json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    try:
        write_text(Path(output), text)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}; give another path") from error
    say(f"written  {output}: {len(rows)} images")


def as_csv(rows: list[dict]) -> str:
    """One line an image: its name; true class, answer and loss where there are such; predictions with probabilities."""
    depth = len(rows[0]["predictions"]) if rows else 0
    first = ["image", *(column for column in ("true", "answer", "loss") if rows and column in rows[0])]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*first, *(f"{part}_{k + 1}" for k in range(depth) for part in ("class", "probability"))])
    for row in rows:
        flat = [value for p in row["predictions"] for value in (p["class"], p["probability"])]
        writer.writerow([*(row[column] for column in first), *flat])
    return text.getvalue()
