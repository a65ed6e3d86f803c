"""What compare.py says of runs: a table for each data set, what differs alone, and no spread of one run done twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import compare
from common.tables import as_markdown, fitted
from experiments.comparison import table
from experiments.plots import comparison_figure
from experiments.results import read_all, summarize


def make_run(folder: Path, accuracy: float, loss: float = 0.5, **options: object) -> Path:
    """A run's folder, as train.py leaves it."""
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({"dataset": "digits", "seed": 0, "lr": 0.1, **options}))
    epoch = {"epoch": 1, "val_accuracy": accuracy, "seconds": 2.0, "images_per_second": 100.0}
    (folder / "train.json").write_text(json.dumps({"best_epoch": 1, "epochs": [epoch]}))
    f1 = {"macro": accuracy}
    test = {"accuracy": accuracy, "loss": loss, "f1": f1, "auc": None, "per_class": {"cat": {"f1": accuracy}}}
    (folder / "test.json").write_text(json.dumps(test))
    (folder / "environment.json").write_text(json.dumps({"parameters": 10}))
    return folder


def printed_tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown text: rows by the columns' names."""
    tables = []
    for block in text.split("\n\n"):
        lines = [line for line in block.strip().splitlines() if line.startswith("|")]
        if lines:
            header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


def test_each_data_set_has_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, accuracy, dataset in (("a", 0.9, "digits"), ("b", 0.8, "digits"), ("c", 0.7, "mnist")):
        make_run(tmp_path / name, accuracy, dataset=dataset)
    compare.main([str(tmp_path)])
    assert (tmp_path / "comparison.md").read_text() in capsys.readouterr().out.replace("\n\n\n", "\n\n")
    digits, mnist = printed_tables((tmp_path / "comparison.md").read_text())
    assert ([row["run"] for row in digits], [row["run"] for row in mnist]) == (["a", "b"], ["c"])
    assert {"comparison.png", "comparison-2.png"} <= {path.name for path in tmp_path.iterdir()}


def test_only_what_differs_is_told_and_no_number_has_a_tail(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(k), 0.9 + k / 100, lr=lr) for k, lr in enumerate((0.1 + 0.2, 0.1))]
    rows = table(read_all(folders, tmp_path), ["lr"])
    assert rows == [
        ["run", "lr", "test accuracy", "val accuracy", "macro F1"],  # loss, seconds, parameters are equal
        ["1", "0.1", "91.00 %", "91.00 %", "0.9100"],
        ["0", "0.3", "90.00 %", "90.00 %", "0.9000"],
    ]


def test_reruns_of_one_seed_are_one_repetition(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, 0.9) for name in ("first", "again")]
    runs = read_all(folders, tmp_path)
    found = summarize(runs)
    assert (found["n"], found["results"]["accuracy"]) == (1, {"mean": 0.9, "std": None, "min": 0.9, "max": 0.9})
    compare.main([str(tmp_path)])
    assert "±" not in (tmp_path / "comparison.md").read_text()
    assert not (tmp_path / "summary.json").exists()
    folders.append(make_run(tmp_path / "other seed", 0.8, seed=1))
    found = summarize(read_all(folders, tmp_path))
    assert found["n"] == 2
    assert found["results"]["accuracy"]["mean"] == pytest.approx(0.85)
    assert found["per_class"]["cat"]["f1"]["mean"] == pytest.approx(0.85)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_table_is_as_wide_as_the_terminal(width: int) -> None:
    rows = [
        ["run", "lr", "test accuracy", "test loss", "seconds"],
        ["a-name-that-is-rather-long" * 2, "0.1", "90 %", "0.5", "9"],
    ]
    found, left_out = fitted(rows, width, ["seconds", "test loss"])
    assert all(len(line) <= width for line in as_markdown(found).splitlines())
    assert found[0][:3] == ["run", "lr", "test accuracy"]
    assert left_out == ([] if width == 200 else ["seconds", "test loss"])
    assert (found == rows) == (width == 200)


def axes_titles(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_weight() == "bold"]


def test_the_picture_shows_each_run_and_what_the_options_did(tmp_path: Path) -> None:
    settings = [{"lr": lr, "width": width} for lr in ("0.1", "0.02") for width in ("16", "32", "64")]
    folders = [make_run(tmp_path / str(k), 0.9 + k / 100) for k in range(6)]
    runs = sorted(read_all(folders, tmp_path), key=lambda run: run.name)
    dots, grid = comparison_figure(runs, settings, "A title").axes
    assert [line.get_xdata().tolist() for line in dots.lines if line.get_label() == "test"] == [
        pytest.approx([90, 91, 92, 93, 94, 95])
    ]
    assert [label.get_text() for label in dots.get_yticklabels()] == list("012345")
    np.testing.assert_allclose(grid.images[0].get_array(), [[0.93, 0.94, 0.95], [0.9, 0.91, 0.92]])  # lr 0.02 on top
    more = [{**setting, "augment": "none" if k % 2 else "flip"} for k, setting in enumerate(settings)]
    figure = comparison_figure(runs, more, "A title")
    assert axes_titles(figure) == ["lr", "width", "augment"]
    means = [line.get_ydata()[0] for line in figure.axes[3].lines if line.get_linewidth() > 2]
    assert means == pytest.approx([92, 93])
