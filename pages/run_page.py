"""report.html: what a run's folder, or a report of infer.py, holds, to look at in a browser."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

import yaml

from common.console import duration, percent, plain_number
from options.groups import OPTIONS
from pages.page import embedded, write_page

NAME = "report.html"
MOST_CLASSES = 60  # of a whole confusion matrix
MOST_ROWS = 100  # of mistakes, and of pairs that are confused
PICTURES = {"examples.png": "Examples", "average_precision.png": "Average precision"}
FACTS = ("device", "accelerators", "cpu", "cpu_cores", "memory_gib", "num_processes", "threads_per_process")
FACTS += ("mixed_precision", "started", "git_commit", "sameloop", "python", "platform")


def write_report(folder: Path, title: str, lines: list[str]) -> None:
    """Write report.html into the folder of a run, or of a report alone, from the files that are there.

    Args:
        folder: with test.json at least.
        title: of the page; `lines`: below it, such as the test in a line.

    Raises:
        OSError: no room or no right to write.
    """
    test = _json(folder / "test.json")
    trained = _json(folder / "train.json")
    epochs = trained.get("epochs", [])
    matrix, names = test.get("confusion_matrix"), list(test.get("per_class", {}))
    shown = {key: test[key] for key in ("per_class", "calibration", "uncalibrated") if test.get(key)}
    if matrix is not None and len(matrix) <= MOST_CLASSES:
        shown["confusion_matrix"] = matrix
    options = changed_options(_yaml(folder / "args.yaml"))
    content = {
        "title": title,
        "lines": lines,
        "tiles": _tiles(test, trained),
        "test": shown,
        "epochs": epochs,
        "class_names": names,
        "confused": _confused(matrix, names) if matrix is not None else [],
        "mistakes": _mistakes(folder / "test.csv"),
        "pictures": {words: embedded(folder / name) for name, words in PICTURES.items() if (folder / name).exists()},
        "options": options,
        "hardware": _facts(_json(folder / "environment.json")),
        "command": f"python train.py --recipe {quote(str(folder / 'args.yaml'))}" if options else "",
    }
    write_page(folder / NAME, content)


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _tiles(test: dict, trained: dict) -> list[list[str]]:
    """The few figures that are asked for first: name, value, and what belongs to it."""
    intervals = test.get("intervals", {})

    def between(name: str) -> str:
        return " to ".join(percent(end) for end in intervals[name]) + " (95 %)" if name in intervals else ""

    tiles = [["test accuracy", percent(test["accuracy"]), between("accuracy")]]
    macro = test.get("f1", {}).get("macro")
    tiles += [["macro F1", percent(macro), between("macro_f1")]] if macro is not None else []
    for key, words in (("balanced_accuracy", "balanced accuracy"), ("top5_accuracy", "top-5 accuracy"), ("auc", "AUC")):
        tiles += [[words, percent(test[key]), ""]] if test.get(key) is not None else []
    tiles += [["loss", f"{test['loss']:.4f}", ""]] if test.get("loss") is not None else []
    if test.get("calibration"):
        before = test.get("uncalibrated", {}).get("calibration")
        more = f"{percent(before['error'])} before" if before else ""
        tiles.append(["calibration error", percent(test["calibration"]["error"]), more])
    tiles.append(["test images", f"{test['samples']:,}", f"{test.get('images_per_second', 0):,.0f} images/s"])
    epochs = trained.get("epochs", [])
    if epochs:
        seconds = sum(epoch["seconds"] for epoch in epochs)
        more = f"{len(epochs)} epochs, the best {trained['best_epoch']}"
        tiles.append(["trained for", duration(seconds), more])
    return tiles


def _confused(matrix: list[list[int]], names: list[str]) -> list[list]:
    """[true, said, images, share of the true class] of the pairs that are confused most often."""
    pairs = [
        [names[true], names[said], count, count / sum(row)]
        for true, row in enumerate(matrix)
        for said, count in enumerate(row)
        if count and true != said
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_ROWS]


def _mistakes(path: Path) -> list[list]:
    """[image, true, said, confidence, loss] of the mistakes that were made with the most confidence."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "class_1" not in rows[0]:
        return []
    wrong = [row for row in rows if row["true"] != row["class_1"]]
    columns = [
        [row["image"], row["true"], row["class_1"], float(row["probability_1"]), float(row["loss"])] for row in wrong
    ]
    finite = [row for row in columns if math.isfinite(row[3])]
    return sorted(finite, key=lambda row: -row[3])[:MOST_ROWS]


def _yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def changed_options(options: Mapping) -> list[list[str]]:
    """[option, value, default] of those that differ from their defaults."""
    rows = []
    for name, value in options.items():
        found = OPTIONS.get(name)
        if found is None or value == found.default or (found.default is None and found.default_by):
            continue
        rows.append([found.flag, _written(value), _written(found.default)])
    return rows


def _written(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={plain_number(inner)}" for key, inner in value.items())
    return "" if value is None else plain_number(value)


def _facts(environment: dict) -> list[list[str]]:
    known = [[name.replace("_", " "), environment.get(name)] for name in FACTS]
    known += [[name, number] for name, number in environment.get("packages", {}).items()]
    return [
        [name, ", ".join(value) if isinstance(value, list) else str(value)]
        for name, value in known
        if value not in (None, [])
    ]
