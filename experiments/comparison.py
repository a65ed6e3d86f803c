"""Runs side by side: what differs in their options, what came out, and mean and spread of those that repeat another."""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from common import tables as tables_of_text
from common.console import plain_number, say, width
from common.files import write_atomically, write_json
from experiments import paired, plots
from experiments.results import REPEATS, RESULTS, Finished, read_all, repetitions, summarize
from options.groups import OPTIONS
from pages.page import write_page

UNTOLD = {name for name, option in OPTIONS.items() if not option.is_compared}
ALWAYS_TOLD = ("accuracy", "val_accuracy")  # of other results only what is not the same for all
EXPENDABLE = ("auc", "epochs", "parameters", "images_per_second", "f1", "seconds", "loss")  # where a terminal is narrow


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


def summary_table(groups: dict[str, list[Finished]]) -> list[list[str]]:
    """A header and a row for each setting: n, and mean +- standard deviation of the results."""
    found = {setting: summarize(runs) for setting, runs in groups.items()}
    known = {key for one in found.values() for key, spread in one["results"].items() if spread["mean"] is not None}
    keys = [key for key in RESULTS if key in known - {"epochs", "parameters"}]
    rows = [["setting", "n", *(RESULTS[key][0] for key in keys)]]
    for setting, one in found.items():
        rows.append([setting or "all", str(one["n"]), *(_with_spread(key, one["results"][key]) for key in keys)])
    return rows


def _with_spread(key: str, spread: dict) -> str:
    mean = _result(key, spread["mean"])
    return mean if spread["std"] is None else f"{mean} ± {_result(key, spread['std'])}"


def report(output: Path, folders: Sequence[Path], root: Path, failed: Mapping[str, str] = MappingProxyType({})) -> None:
    """Print how runs compare and write comparison.html, .md, .csv and .png into `output`; of repetitions summary.json.

    There is a table, and a picture, for each data set. With folds, folds.png shows their results and those of the
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
    text, pictures, repeated, shown = [], [], {}, []
    for number, (name, group) in enumerate(data_sets.items()):
        tables = [table(group, differing(group))]
        groups = settings(group)
        if any(len(repetitions(members)) > 1 for members in groups.values()):
            tables.append(summary_table(groups))
            repeated[name] = {setting or "all": summarize(members) for setting, members in groups.items()}
        heading = [f"## {name}"] * (len(data_sets) > 1)
        pair = _paired(group, root)
        text.append("\n\n".join([*heading, *map(tables_of_text.as_markdown, tables), *pair]))
        say("\n" + "\n\n".join([*heading, *map(_for_the_terminal, tables), *pair]) + "\n")
        pictures += _draw(output, group, f"{root.name}: {name}", f"-{number + 1}" if number else "")
        shown.append(_for_the_page(name, group, tables[0], pair))
    text += [f"{name} has no result: {reason}" for name, reason in failed.items()]
    if repeated:
        write_json(output / "summary.json", repeated if len(data_sets) > 1 else repeated[name])
    write_atomically(output / "comparison.md", lambda path: path.write_text("\n\n".join(text) + "\n", encoding="utf-8"))
    write_atomically(output / "comparison.csv", lambda path: _write_csv(path, runs, differing(runs)))
    write_page(output / "comparison.html", {"title": f"{root.name}: {len(runs)} runs", "lines": [], "groups": shown})
    say(f"open     {output / 'comparison.html'}, comparison.md, comparison.csv, {', '.join(pictures)}")


def _for_the_page(name: str, runs: Sequence[Finished], rows: list[list[str]], lines: list[str]) -> dict:
    """A data set of comparison.html: the table, and the curves of each run."""
    head, *rest = rows
    curves = [{"name": run.name, "epochs": run.history} for run in runs]
    return {"name": name, "lines": lines, "head": head, "rows": rest, "runs": curves}


def _paired(runs: list[Finished], root: Path) -> list[str]:
    """A line on whether two runs that were tested on the same images differ by chance; of other numbers none."""
    if len(runs) != 2:
        return []
    answers = tuple(paired.read_answers(root / run.name) for run in runs)
    if None in answers or answers[0].images != answers[1].images:
        return []
    return [paired.in_words(tuple(run.name for run in runs), answers)]


def _draw(output: Path, runs: list[Finished], title: str, suffix: str) -> list[str]:
    """Draw the runs of one data set; returns the pictures' names, which end in `suffix`."""
    names = [name for name in differing(runs) if name not in REPEATS]
    pictures = [f"comparison{suffix}.png"]
    plots.plot_comparison(
        runs, settings_of(runs, names), output / pictures[0], f"{title}, {len(runs)} run{'s' * (len(runs) > 1)}"
    )
    apart = repetitions(runs)
    if len(settings(runs)) == 1 and len(apart) > 1:
        kind = "folds" if len({run.options.get("fold") for run in runs}) > 1 else "seeds"
        pictures.append(f"{kind}{suffix}.png")
        once = [same[0] for same in apart]
        plots.plot_repeats(once, summarize(runs), output / pictures[-1], f"{title}, {len(apart)} {kind}")
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
