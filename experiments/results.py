"""What finished runs tell: their options and results, read from their folders, and mean and spread of repetitions."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.console import percent
from common.errors import UserError
from common.files import is_folder
from options.groups import OPTIONS

REPEATS = tuple(name for name, option in OPTIONS.items() if option.repeat)
# result -> its column's title, and how it is written
RESULTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("test accuracy", percent),
    "val_accuracy": ("val accuracy", percent),
    "loss": ("test loss", "{:.4f}".format),
    "f1": ("macro F1", "{:.4f}".format),
    "auc": ("AUC", "{:.4f}".format),
    "epochs": ("epochs done", "{:.0f}".format),
    "parameters": ("parameters", "{:,.0f}".format),
    "seconds": ("seconds", "{:,.1f}".format),
    "images_per_second": ("images/s", "{:,.0f}".format),
}


@dataclass(frozen=True)
class Finished:
    """What a run's folder tells.

    Attributes:
        name: of the folder, as it is to be shown.
        options: as in args.yaml.
        results: the keys of RESULTS; None where unknown, as in a run that is still under way.
        history: of train.json.
        per_class: of test.json: class -> metric -> value; empty without a test.
    """

    name: str
    options: dict
    results: dict[str, float | None]
    history: list[dict]
    per_class: dict[str, dict]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs among `paths` and everywhere in them, resolved, so that none is there twice.

    Raises:
        UserError: a path is no folder, or holds no run with an epoch done.
    """
    found = []
    for path in paths:
        if not is_folder(path):
            raise UserError(f"{path} is no folder: give folders of runs, or folders that hold some")
        trained = (file.parent.resolve() for file in path.rglob("train.json"))
        here = sorted(run for run in trained if (run / "args.yaml").is_file())
        if not here:
            raise UserError(f"no run with an epoch done in {path}")
        found += [run for run in here if run not in found]
    return found


def read_run(folder: Path, name: str) -> Finished:
    """Read what a run left.

    Raises:
        UserError: a file of it cannot be read.
    """
    try:
        options = yaml.safe_load((folder / "args.yaml").read_text(encoding="utf-8"))
        history = json.loads((folder / "train.json").read_text(encoding="utf-8"))
        test = json.loads(file.read_text(encoding="utf-8")) if (file := folder / "test.json").exists() else None
        parameters = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["parameters"]
        epochs = history["epochs"]
        best = epochs[history["best_epoch"] - 1]
    except (OSError, ValueError, KeyError, IndexError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} does not hold a run's files as train.py leaves them: {error}") from error
    results = {
        "accuracy": test and test["accuracy"],
        "val_accuracy": best["val_accuracy"],
        "loss": test and test["loss"],
        "f1": test and test.get("f1", {}).get("macro"),
        "auc": test and test.get("auc"),
        "epochs": len(epochs),
        "parameters": parameters,
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "images_per_second": statistics.median(epoch["images_per_second"] for epoch in epochs),
    }
    return Finished(name, options, results, epochs, test.get("per_class", {}) if test else {})


def read_all(folders: Sequence[Path], root: Path) -> list[Finished]:
    """The runs, best first, named by their path below `root`.

    They are ranked by validation accuracy where every run has one, so that nobody chooses by the test set.
    """
    runs = [read_run(folder, str(folder.relative_to(root))) for folder in folders]
    key = "val_accuracy" if all(run.results["val_accuracy"] is not None for run in runs) else "accuracy"
    return sorted(runs, key=lambda run: -math.inf if run.results[key] is None else run.results[key], reverse=True)


def repetitions(runs: Sequence[Finished]) -> list[list[Finished]]:
    """The runs of each seed and fold: those of one seed are the same run again and say nothing of the spread."""
    found: dict[tuple, list[Finished]] = {}
    for run in runs:
        found.setdefault(tuple(run.options.get(name) for name in REPEATS), []).append(run)
    return list(found.values())


def summarize(runs: Sequence[Finished]) -> dict:
    """Mean and spread of every result, and per class, over runs that repeat one another.

    Reruns of one seed and fold count as one, with their mean.
    """
    apart = repetitions(runs)
    classes = {name: metrics for run in runs for name, metrics in run.per_class.items()}

    def over(value: Callable[[Finished], float | None]) -> dict[str, float | None]:
        return spread([spread([value(run) for run in same])["mean"] for same in apart])

    return {
        "n": len(apart),
        "runs": [run.name for run in runs],
        "results": {key: over(lambda run, key=key: run.results[key]) for key in RESULTS},
        "per_class": {
            name: {key: over(lambda run, name=name, key=key: run.per_class.get(name, {}).get(key)) for key in metrics}
            for name, metrics in classes.items()
        },
    }


def spread(values: list[float | None]) -> dict[str, float | None]:
    """Mean, sample standard deviation (None for one value), least and most of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "std": None, "min": None, "max": None}
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": deviation, "min": min(known), "max": max(known)}
