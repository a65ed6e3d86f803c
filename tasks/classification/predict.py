"""Predictions of infer.py: for image files, or for the test split that a run held out."""

import argparse
import csv
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from common import console
from common.console import percent, printable, say
from common.errors import UserError
from common.files import is_folder, write_atomically
from common.progress import track
from data.class_folders import same_names
from data.dataset import ImageData, changed_parts
from data.decode import UNREADABLE, loses_values, read_image
from data.sources import found_again
from engine.build import load_data
from tasks import evaluate
from tasks.base import Task
from tasks.classification.task import Classification
from tasks.reports import REPORTS

UNLABELLED_FILE = "predictions.csv"
TOPK = 5  # classes named for each image in it
# Options that weights of earlier versions lack, as they then did their work.
YOUNGER_OPTIONS = {"task": "classify", "image_column": None, "label_column": None}
YOUNGER_OPTIONS |= {"limit_val": None, "limit_test": None, "smoke_test": False}


def check_options(args: argparse.Namespace) -> None:
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


def predict_files(
    args: argparse.Namespace,
    model: nn.Module,
    task: Classification,
    paths: list[Path],
    accelerator: Accelerator,
    batch_size: int,
) -> int:
    """Predict image files and put out what was found. Returns the exit code: 1 when some could not be read."""
    names, probabilities, unreadable = [], [], []
    main = accelerator.is_main_process
    model.eval()
    for start in track(range(0, len(paths), batch_size), "predicting", -(-len(paths) // batch_size), main):
        readable, images = read_images(paths[start : start + batch_size], task, unreadable)
        if not readable:
            continue
        with torch.no_grad(), accelerator.autocast():
            logits = task.predict(model, torch.from_numpy(images).to(accelerator.device))
        names += [str(path) for path in readable]
        probabilities.append(logits.float().softmax(1).cpu().numpy())
    if main:
        found = np.concatenate(probabilities) if probabilities else np.zeros((0, len(task.class_names)))
        _put_out(_rows(names, found, task.class_names, args.topk), args.output)
        tell_unreadable(unreadable, len(paths))
    return 1 if unreadable else 0


def predict_unlabelled(
    folder: Path, model: nn.Module, task: Classification, data: ImageData, accelerator: Accelerator, batch_size: int
) -> None:
    """Write predictions.csv, as --output does, of the images of a test split whose labels are kept secret."""
    logits, _ = evaluate.predict(model, task, data.unlabelled, accelerator, batch_size)
    if accelerator.is_main_process:
        names, probabilities = list(data.unlabelled.arrays.names), logits.softmax(1).numpy()
        text = _as_csv(_rows(names, probabilities, task.class_names, TOPK))
        encoded = text.encode("utf-8", errors="backslashreplace")
        write_atomically(folder / UNLABELLED_FILE, lambda place: place.write_bytes(encoded))


def read_images(paths: list[Path], task: Task, unreadable: list[str]) -> tuple[list[Path], np.ndarray]:
    """The paths that can be read with their images, uint8 (B, H, W, C), prepared as those that `task` was trained on.

    The others go to `unreadable`, with reasons. Those that lose values, as these lie beyond the range of training, are
    named on stderr.
    """

    def read(path: Path) -> np.ndarray | str:
        try:
            pixels = read_image(path, task.image_shape, task.ranges)
            if task.ranges and loses_values(path, task.ranges):
                print(f"note: {path} has values beyond the range of training, cut to it", file=sys.stderr)
            return pixels
        except UNREADABLE as error:
            return f"{path}: {error}"

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(read, paths))
    unreadable += [result for result in results if isinstance(result, str)]
    readable = [path for path, result in zip(paths, results, strict=True) if not isinstance(result, str)]
    images = [result for result in results if not isinstance(result, str)]
    return readable, np.stack(images) if images else np.zeros((0, *task.image_shape), dtype=np.uint8)


def tell_unreadable(unreadable: list[str], total: int) -> None:
    """Name the images, of `total`, that could not be read, with the reasons that `read_images` gave."""
    for line in unreadable:
        print(f"cannot read {line}", file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable)} of {total} images could not be read", file=sys.stderr)


def report_on_test_split(
    args: argparse.Namespace,
    content: dict,
    model: nn.Module,
    task: Task,
    accelerator: Accelerator,
    batch_size: int,
) -> int:
    """Test on the split that the run held out, with the run's own report, written beside the weights. Returns 0."""
    data = held_out_data(args, content, accelerator)
    report = REPORTS[content["options"].get("task", "classify")]
    if data.targets is not None:
        task.pairs = torch.from_numpy(data.targets)
    folder = folder_beside(args.weights, "test")
    try:
        folder.mkdir(exist_ok=True)
        test, probabilities = report.test_report(folder, model, task, data, accelerator, batch_size)
    except OSError as error:
        raise UserError(
            f"cannot write the report in {folder}: {error.strerror or error}; copy the weights to a folder with room "
            "that you may write in"
        ) from error
    if accelerator.is_main_process:
        if args.output is not None:  # of classes: there is none for a model that makes images
            true = [data.class_names[label] for label in data.test.arrays.labels[data.test.ids]]
            _put_out(_rows(data.test.names(), probabilities, task.class_names, args.topk, true), args.output)
        say("\n".join([report.headline(test), *data.remarks]))
        others = sorted(path.name for path in folder.iterdir() if path.name != "examples.png")
        say(f"open     {folder / 'examples.png'}, {', '.join(others)}")
    return 0


def folder_beside(weights: str, purpose: str) -> Path:
    """The folder for what is made with a file of weights: beside it, or in the working directory where that cannot be.

    `runs/first/best.pth` of a read-only disk has its test in `first-best-test`.
    """
    path = Path(weights).absolute()
    beside = Path(weights).parent / f"{path.stem}-{purpose}"
    writable = os.access(beside if beside.is_dir() else beside.parent, os.W_OK | os.X_OK)
    return beside if writable else Path(f"{path.parent.name}-{beside.name}")


def held_out_data(args: argparse.Namespace, content: dict, accelerator: Accelerator) -> ImageData:
    """The data set that the weights were trained on, split as it was then.

    Args:
        args: `weights`, the file that `content` is from, and `data_dir`, where to look first.
        content: as `engine/checkpoints/best_weights.py` loads it.
        accelerator: of this process.

    Raises:
        UserError: it is not on this machine, or its test images are no longer the same.
    """
    options = argparse.Namespace(**(YOUNGER_OPTIONS | content["options"]))
    options.dataset, options.data_dir = found_again(options.dataset, options.data_dir, args.data_dir)
    options.pretrained = None  # the file that training began with may be gone, and nothing is to be had from it now
    try:
        data = load_data(options, accelerator)
    except UserError as error:
        raise UserError(
            f"no image is named, so the test split of {options.dataset} is wanted, but: {error} (or name images)"
        ) from error
    if not same_names(data.class_names, content["class_names"]) or list(data.shape) != content["shape"]:
        raise UserError(f"the data set {options.dataset} has other classes or sizes than {args.weights} was trained on")
    check_same_test_images(args.weights, content, data, accelerator)
    return data


def check_same_test_images(path: str, content: dict, data: ImageData, accelerator: Accelerator) -> None:
    """See to it that the test part of `data` is that of the run which the weights in the file `path` are from.

    Where the other parts alone have changed, or weights of an earlier version do not say, the main process warns.

    Args:
        path, content: the file, and what `engine/checkpoints/best_weights.py` loads from it.
        data: split as the run's options say.
        accelerator: of this process.

    Raises:
        UserError: the test images are others, some of which the model may have been trained on.
    """
    before, dataset = content.get("fingerprints"), content["options"]["dataset"]
    changed = changed_parts(before or {}, data.fingerprints())
    if "test" in changed:
        raise UserError(
            f"the {changed} images of {dataset} have changed since {path} was trained: bring them back, say with "
            "--data-dir where they are now, or name images"
        )
    warning = ""
    if before is None:
        warning = f"{path} is of an earlier version: it does not say which images its run was tested on"
    elif changed:
        warning = f"the {changed} images of {dataset} have changed since {path} was trained; its test images have not"
    if warning and accelerator.is_main_process:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def _rows(
    names: list[str], probabilities: np.ndarray, class_names: list[str], topk: int, true: list[str] | None = None
) -> list[dict]:
    """For each name the `topk` likeliest classes: {"image", "predictions": [{"class", "probability"}, ...]}.

    Where the true classes are known, "true" comes after "image".
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
    known = [{}] * len(names) if true is None else [{"true": name} for name in true]
    return [
        {
            "image": name,
            **truth,
            "predictions": [{"class": class_names[k], "probability": float(row[k])} for k in likeliest],
        }
        for name, truth, row, likeliest in zip(names, known, probabilities, order, strict=True)
    ]


def _put_out(rows: list[dict], output: str | None) -> None:
    """Print the rows, or write them to a .csv or .json file.

    Raises:
        UserError: no room or no right to write.
    """
    console.clear()
    if output is None:
        for row in rows:
            likely = ", ".join(f"{p['class']} {percent(p['probability'], 1)}" for p in row["predictions"])
            print(printable(f"{row['image']}: {likely}"))
        return
    text = _as_csv(rows) if output.endswith(".csv") else json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 reach Python as lone surrogates, which no encoding can hold.
    encoded = text.encode("utf-8", errors="backslashreplace")
    try:
        write_atomically(Path(output), lambda place: place.write_bytes(encoded))
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}; give another place") from error
    say(f"written  {output}: {len(rows)} images")


def _as_csv(rows: list[dict]) -> str:
    """One line an image: its name, its true class where that is known, class and probability of each prediction."""
    depth = len(rows[0]["predictions"]) if rows else 0
    first = ["image", *(["true"] if rows and "true" in rows[0] else [])]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*first, *(f"{part}_{k + 1}" for k in range(depth) for part in ("class", "probability"))])
    for row in rows:
        flat = [value for p in row["predictions"] for value in (p["class"], p["probability"])]
        writer.writerow([*(row[column] for column in first), *flat])
    return text.getvalue()
