"""Runs side by side: what differs in their options, what came out, and mean and spread of those that repeat another."""

import csv
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from engine.console import say
from engine.errors import UserError
from engine.files import is_folder, write_atomically, write_json
from engine.folder import NOT_COMPARED

REPEATS = ("seed", "fold")  # runs that differ in these alone are repetitions of one another
# Options that change no figure, or none that is compared.
UNTOLD = NOT_COMPARED | {"skip_bad_images", "eval_every", "folds"}
# result -> its column's title and format
RESULTS = {
    "accuracy": ("test accuracy", "{:.2%}"),
    "val_accuracy": ("val accuracy", "{:.2%}"),
    "loss": ("test loss", "{:.4f}"),
    "f1": ("macro F1", "{:.4f}"),
    "auc": ("AUC", "{:.4f}"),
    "epochs": ("epochs done", "{:.0f}"),
    "parameters": ("parameters", "{:,.0f}"),
    "seconds": ("seconds", "{:,.1f}"),
    "images_per_second": ("images/s", "{:,.0f}"),
}


@dataclass(frozen=True)
class Finished:
    """What a run's folder tells.

    Attributes:
        name: of the folder, as it is to be shown.
        options: as in args.yaml.
        results: the keys of RESULTS; None where unknown, as in a run that is still under way.
        history: of train.json.
        per_class: of test.json: class -> figure -> value; empty without a test.
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


def differing(runs: Sequence[Finished]) -> list[str]:
    """Names of the options, `model_arg.width` for arguments of the model, that are not the same in all runs."""
    every = [_flat(run.options) for run in runs]
    names = sorted(set().union(*every) - UNTOLD)
    return [name for name in names if any(options.get(name) != every[0].get(name) for options in every)]


def _flat(options: dict) -> dict:
    inner = {f"model_arg.{key}": value for key, value in (options.get("model_arg") or {}).items()}
    return {key: value for key, value in options.items() if key != "model_arg"} | inner


def table(runs: Sequence[Finished], columns: Sequence[str]) -> list[list[str]]:
    """A header and a row for each run: its name, the options in `columns`, the results that any run has."""
    results = [key for key in RESULTS if any(run.results[key] is not None for run in runs)]
    header = ["run", *columns, *(RESULTS[key][0] for key in results)]
    rows = [
        [run.name, *("" if (value := _flat(run.options).get(name)) is None else str(value) for name in columns)]
        + ["" if run.results[key] is None else RESULTS[key][1].format(run.results[key]) for key in results]
        for run in runs
    ]
    return [header, *rows]


def as_markdown(rows: list[list[str]]) -> str:
    """A table that reads well in a terminal too: columns of one width."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def settings(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs by their setting: what differs in the options, but for seed and fold, in words."""
    names = [name for name in differing(runs) if name not in REPEATS]
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        options = _flat(run.options)
        groups.setdefault(", ".join(f"{name}={options.get(name)}" for name in names), []).append(run)
    return groups


def summarize(runs: Sequence[Finished]) -> dict:
    """Mean and spread of every result, and per class, over runs that repeat one another."""
    classes = {name: figures for run in runs for name, figures in run.per_class.items()}
    return {
        "n": len(runs),
        "runs": [run.name for run in runs],
        "results": {key: spread([run.results[key] for run in runs]) for key in RESULTS},
        "per_class": {
            name: {key: spread([run.per_class.get(name, {}).get(key) for run in runs]) for key in figures}
            for name, figures in classes.items()
        },
    }


def spread(values: list[float | None]) -> dict[str, float | None]:
    """Mean, sample standard deviation (None for one value), least and most of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "std": None, "min": None, "max": None}
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": deviation, "min": min(known), "max": max(known)}


def summary_table(groups: dict[str, list[Finished]]) -> list[list[str]]:
    """A header and a row for each setting: n, and mean +- standard deviation of the results."""
    keys = [key for key in RESULTS if key not in ("epochs", "parameters")]
    rows = [["setting", "n", *(RESULTS[key][0] for key in keys)]]
    for setting, runs in groups.items():
        found = summarize(runs)["results"]
        rows.append([setting or "all", str(len(runs)), *(_with_spread(found[key], RESULTS[key][1]) for key in keys)])
    return rows


def _with_spread(figure: dict, form: str) -> str:
    if figure["mean"] is None:
        return ""
    mean = form.format(figure["mean"])
    return mean if figure["std"] is None else f"{mean} ± {form.format(figure['std'])}"


def report(place: Path, folders: Sequence[Path], root: Path, failed: Mapping[str, str] = MappingProxyType({})) -> None:
    """Print how runs compare and write comparison.md, .csv and .png into `place`; for repetitions summary.json too.

    With folds, folds.png shows their figures and those of the classes, with seeds alone seeds.png.

    Args:
        root: the runs are named by their path below it.
        failed: why runs have no result, by their name: they are listed last.

    Raises:
        UserError: a run's file cannot be read.
    """
    from engine import plots_of_runs

    for name, reason in failed.items():
        print(f"error: {name} has no result: {reason}", file=sys.stderr, flush=True)
    if not folders:
        return
    runs = read_all(folders, root)
    columns = differing(runs)
    rows = table(runs, columns)
    text = as_markdown(rows)
    groups = settings(runs)
    if len(groups) < len(runs):
        text += "\n\n" + as_markdown(summary_table(groups))
        write_json(place / "summary.json", {name or "all": summarize(members) for name, members in groups.items()})
    text += "".join(f"\n\n{name} has no result: {reason}" for name, reason in failed.items())
    say(f"\n{text}\n")
    write_atomically(place / "comparison.md", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    write_atomically(place / "comparison.csv", lambda path: _write_csv(path, runs, columns))
    plots_of_runs.plot_comparison(runs, place / "comparison.png", f"{root.name}: {len(runs)} runs")
    pictures = ["comparison.png"]
    if len(groups) == 1 and len(runs) > 1:
        name = "folds.png" if "fold" in columns else "seeds.png"
        plots_of_runs.plot_repeats(runs, summarize(runs), place / name, f"{root.name}: {len(runs)} {name[:-4]}")
        pictures.append(name)
    say(f"open     {place / 'comparison.md'}, comparison.csv, {', '.join(pictures)}")


def _write_csv(path: Path, runs: Sequence[Finished], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *columns, *RESULTS])
        for run in runs:
            options = _flat(run.options)
            writer.writerow([run.name, *(options.get(name) for name in columns), *run.results.values()])
