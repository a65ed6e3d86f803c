"""Runs side by side: what differs in their options, what came out, and mean and spread of those that repeat another."""

import csv
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from common import tables as tables_of_text
from common.console import percent, plain_number, say, width
from common.errors import UserError
from common.files import is_folder, write_atomically, write_json
from experiments import plots
from options.groups import OPTIONS

REPEATS = tuple(name for name, option in OPTIONS.items() if option.repeat)
UNTOLD = {name for name, option in OPTIONS.items() if not option.is_compared}
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
ALWAYS_TOLD = ("accuracy", "val_accuracy")  # of other results only what is not the same for all
EXPENDABLE = ("auc", "epochs", "parameters", "images_per_second", "f1", "seconds", "loss")  # where a terminal is narrow


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


def by_data_set(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each data set, which alone can be compared, in their order."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        name = Path(str(run.options.get("dataset"))).name + (" (coarse)" if run.options.get("coarse") else "")
        task = run.options.get("task", "classify")
        groups.setdefault(name if task == "classify" else f"{name}, {task}", []).append(run)
    return groups


def settings_of(runs: Sequence[Finished], names: Sequence[str]) -> list[dict[str, str]]:
    """Of each run these options, as they are written."""
    every = [_flat(run.options) for run in runs]
    return [{name: _written(options.get(name)) for name in names} for options in every]


def _written(value: object) -> str:
    """An option's value; empty for None."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return "" if value is None else plain_number(value)


def table(runs: Sequence[Finished], columns: Sequence[str]) -> list[list[str]]:
    """A header and a row for each run: its name, the options in `columns`, accuracies, and results that differ."""

    def told(key: str) -> bool:
        known = {run.results[key] for run in runs} - {None}
        return bool(known) and (key in ALWAYS_TOLD or len(known) > 1 or len(runs) == 1)

    results = [key for key in RESULTS if told(key)]
    rows = [
        [run.name, *setting.values(), *(_result(key, run.results[key]) for key in results)]
        for run, setting in zip(runs, settings_of(runs, columns), strict=True)
    ]
    return [["run", *columns, *(RESULTS[key][0] for key in results)], *rows]


def _result(key: str, value: float | None) -> str:
    return "" if value is None else RESULTS[key][1](value)


def settings(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs by their setting: what differs in the options, but for seed and fold, in words."""
    names = [name for name in differing(runs) if name not in REPEATS]
    groups: dict[str, list[Finished]] = {}
    for run, setting in zip(runs, settings_of(runs, names), strict=True):
        groups.setdefault(", ".join(f"{name}={value or 'none'}" for name, value in setting.items()), []).append(run)
    return groups


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
    classes = {name: figures for run in runs for name, figures in run.per_class.items()}

    def over(value: Callable[[Finished], float | None]) -> dict[str, float | None]:
        return spread([spread([value(run) for run in same])["mean"] for same in apart])

    return {
        "n": len(apart),
        "runs": [run.name for run in runs],
        "results": {key: over(lambda run, key=key: run.results[key]) for key in RESULTS},
        "per_class": {
            name: {key: over(lambda run, name=name, key=key: run.per_class.get(name, {}).get(key)) for key in figures}
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
    found = {setting: summarize(runs) for setting, runs in groups.items()}
    known = {key for one in found.values() for key, figure in one["results"].items() if figure["mean"] is not None}
    keys = [key for key in RESULTS if key in known - {"epochs", "parameters"}]
    rows = [["setting", "n", *(RESULTS[key][0] for key in keys)]]
    for setting, one in found.items():
        rows.append([setting or "all", str(one["n"]), *(_with_spread(key, one["results"][key]) for key in keys)])
    return rows


def _with_spread(key: str, figure: dict) -> str:
    mean = _result(key, figure["mean"])
    return mean if figure["std"] is None else f"{mean} ± {_result(key, figure['std'])}"


def report(place: Path, folders: Sequence[Path], root: Path, failed: Mapping[str, str] = MappingProxyType({})) -> None:
    """Print how runs compare and write comparison.md, .csv and .png into `place`; for repetitions summary.json too.

    There is a table, and a picture, for each data set. With folds, folds.png shows their figures and those of the
    classes, with seeds alone seeds.png.

    Args:
        root: the runs are named by their path below it.
        failed: why runs have no result, by their name: they are listed last.

    Raises:
        UserError: a run's file cannot be read.
    """
    for name, reason in failed.items():
        print(f"error: {name} has no result: {reason}", file=sys.stderr, flush=True)
    if not folders:
        return
    runs = read_all(folders, root)
    data_sets = by_data_set(runs)
    text, pictures, repeated = [], [], {}
    for number, (name, group) in enumerate(data_sets.items()):
        tables = [table(group, differing(group))]
        groups = settings(group)
        if any(len(repetitions(members)) > 1 for members in groups.values()):
            tables.append(summary_table(groups))
            repeated[name] = {setting or "all": summarize(members) for setting, members in groups.items()}
        heading = [f"## {name}"] * (len(data_sets) > 1)
        text.append("\n\n".join([*heading, *map(tables_of_text.as_markdown, tables)]))
        say("\n" + "\n\n".join([*heading, *map(_for_the_terminal, tables)]) + "\n")
        pictures += _draw(place, group, f"{root.name}: {name}", f"-{number + 1}" if number else "")
    text += [f"{name} has no result: {reason}" for name, reason in failed.items()]
    if repeated:
        write_json(place / "summary.json", repeated if len(data_sets) > 1 else repeated[name])
    write_atomically(place / "comparison.md", lambda path: path.write_text("\n\n".join(text) + "\n", encoding="utf-8"))
    write_atomically(place / "comparison.csv", lambda path: _write_csv(path, runs, differing(runs)))
    say(f"open     {place / 'comparison.md'}, comparison.csv, {', '.join(pictures)}")


def _draw(place: Path, runs: list[Finished], title: str, suffix: str) -> list[str]:
    """Draw the runs of one data set; returns the pictures' names, which end in `suffix`."""
    names = [name for name in differing(runs) if name not in REPEATS]
    pictures = [f"comparison{suffix}.png"]
    plots.plot_comparison(
        runs, settings_of(runs, names), place / pictures[0], f"{title}, {len(runs)} run{'s' * (len(runs) > 1)}"
    )
    apart = repetitions(runs)
    if len(settings(runs)) == 1 and len(apart) > 1:
        kind = "folds" if len({run.options.get("fold") for run in runs}) > 1 else "seeds"
        pictures.append(f"{kind}{suffix}.png")
        once = [same[0] for same in apart]
        plots.plot_repeats(once, summarize(runs), place / pictures[-1], f"{title}, {len(apart)} {kind}")
    return pictures


def _for_the_terminal(rows: list[list[str]]) -> str:
    """A table as wide as the terminal; all of it where there is none."""
    if not sys.stdout.isatty():
        return tables_of_text.as_markdown(rows)
    fitting, left_out = tables_of_text.fitted(rows, width(), [RESULTS[key][0] for key in EXPENDABLE])
    more = f"\n(too wide for the terminal, in comparison.md: {', '.join(left_out)})" if left_out else ""
    return tables_of_text.as_markdown(fitting) + more


def _write_csv(path: Path, runs: Sequence[Finished], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *columns, *RESULTS])
        for run in runs:
            options = _flat(run.options)
            writer.writerow([run.name, *(options.get(name) for name in columns), *run.results.values()])
