"""Several runs from one command: each is the run it would be alone, they resume together, and the summary is right."""

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from sklearn.metrics import confusion_matrix

import compare
import infer
from data.dataset import load_images
from engine.checkpoints import best_weights
from options.multirun import members
from options.train import parse_train
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --model mlp --limit-train 128 --batch-size 32 --epochs 2 --mixed-precision no "
    "--model-arg hidden=8 --checkpoint-every 3 --output-dir"
).split()
REPORT = Fault(report=True)


def options(folder: Path, *more: str, name: str = "group") -> list[str]:
    return [*OPTIONS, str(folder), "--run-name", name, *more]


def best(folder: Path) -> dict[str, torch.Tensor]:
    return best_weights.load(folder / "best.pth")["weights"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs with spaces")
    codes, printed = train(options(place, "--folds", "3", "--ensemble"), fault=Fault(report=True, draw=True))
    assert "warning" not in printed  # of training images that are others in each fold
    assert codes == [0], printed
    return place / "group"


def test_a_seed_of_several_is_bit_for_bit_the_run_of_that_seed_alone(tmp_path: Path) -> None:
    codes, printed = train(options(tmp_path, "--seeds", "3,5"), fault=REPORT)
    assert codes == [0], printed
    for seed in ("3", "5"):
        assert train(options(tmp_path, "--seed", seed, name=seed), fault=REPORT)[0] == [0]
        assert equal(best(tmp_path / "group" / f"seed-{seed}"), best(tmp_path / seed))
    found = read(tmp_path / "group" / "summary.json")["all"]
    accuracies = [read(tmp_path / seed / "test.json")["accuracy"] for seed in ("3", "5")]
    assert found["results"]["accuracy"]["mean"] == pytest.approx(statistics.mean(accuracies))
    assert found["results"]["accuracy"]["std"] == pytest.approx(statistics.stdev(accuracies))
    assert (tmp_path / "group" / "seeds.png").exists()


def test_every_image_of_train_is_validated_on_in_one_fold_only(folds: Path) -> None:
    sizes = []
    for number in range(3):
        place = folds / f"fold-{number}"
        notes = read(place / "test.json")["data"]
        assert notes["train_images"] == 128
        sizes.append(notes["val_images"])
        assert yaml.safe_load((place / "args.yaml").read_text())["fold"] == number
    assert sum(sizes) == 1438


def test_the_summary_of_folds_has_each_figure_of_each_class(folds: Path) -> None:
    found = read(folds / "summary.json")["all"]
    assert found["n"] == 3
    for name, figures in found["per_class"].items():
        f1 = [read(folds / f"fold-{number}" / "test.json")["per_class"][name]["f1"] for number in range(3)]
        assert figures["f1"]["mean"] == pytest.approx(statistics.mean(f1))
        assert (figures["f1"]["min"], figures["f1"]["max"]) == (min(f1), max(f1))
    assert (folds / "folds.png").stat().st_size > 10_000


def test_the_ensemble_is_the_mean_of_what_infer_finds_for_each_fold(folds: Path, tmp_path: Path) -> None:
    total = 0
    for number in range(3):
        place = shutil.copytree(folds / f"fold-{number}", tmp_path / str(number))
        command = ["--weights", str(place / "best.pth"), "--cpu", "--output", str(tmp_path / "p.json"), "--topk", "10"]
        AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate refuses a second precision in one process
        infer.infer(infer.parse_infer(command))
        rows = json.loads((tmp_path / "p.json").read_text())
        total = total + np.array(
            [[p["probability"] for p in sorted(row["predictions"], key=lambda p: p["class"])] for row in rows]
        )
    test = load_images("digits").test
    expected = confusion_matrix(test.arrays.labels[test.ids], total.argmax(1))
    assert read(folds / "ensemble.json")["confusion_matrix"] == expected.tolist()


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_one_run_a_sweep_goes_on_there_and_ends_with_the_same_bits(tmp_path: Path, processes: int) -> None:
    sweep = ("--sweep", "lr=0.01,0.02", "hidden=8,[8,8]")
    codes, printed = train(options(tmp_path, *sweep, name="whole"), processes)
    assert codes == [0] * processes, printed
    second = "lr=0.01_hidden=8,8"
    codes, _ = train(options(tmp_path, *sweep), processes, Fault(kill_after=5, kill_in=second))
    assert codes == [-9] * processes
    group = tmp_path / "group"
    first = (group / "lr=0.01_hidden=8" / "best.pth").stat().st_mtime_ns
    codes, printed = train(options(tmp_path, *sweep, "--resume", "auto"), processes, REPORT)
    assert codes == [0] * processes, printed
    assert "at step 3 of 8" in printed
    assert {place.name for place in group.iterdir() if place.is_dir()} == {
        f"lr={lr}_hidden={hidden}" for lr in ("0.01", "0.02") for hidden in ("8", "8,8")
    }
    for place in (path for path in group.iterdir() if path.is_dir()):
        assert equal(best(place), best(tmp_path / "whole" / place.name))
    again, printed = train(options(tmp_path, *sweep, "--resume", "auto"), processes, REPORT)
    assert again == [0] * processes
    assert printed.count("is done") == 4
    assert (group / "lr=0.01_hidden=8" / "best.pth").stat().st_mtime_ns == first


def test_a_group_is_not_overwritten_nor_mixed_with_other_options(folds: Path) -> None:
    codes, printed = train(options(folds.parent, "--folds", "3"))
    assert codes == [2]
    assert "exists: give another --run-name, or --resume auto" in printed
    codes, printed = train(options(folds.parent, "--folds", "3", "--resume", "auto", "--lr", "0.5"), fault=REPORT)
    assert codes == [2]
    assert "was done with other options (lr)" in printed


def test_a_group_that_starts_from_weights_goes_on(tmp_path: Path) -> None:
    assert train(options(tmp_path, name="first"))[0] == [0]
    group = options(tmp_path, "--seeds", "0,1", "--pretrained", str(tmp_path / "first" / "best.pth"))
    assert train(group, fault=Fault(kill_after=2, kill_in="seed-1"))[0] != [0]
    assert train(group + ["--resume", "auto"], fault=REPORT)[0] == [0]
    codes, printed = train([*group, "--resume", "auto"], fault=REPORT)
    assert codes == [0] and printed.count("is done") == 2, printed


def test_a_run_that_diverges_does_not_end_the_others(tmp_path: Path) -> None:
    sweep = ("--optimizer", "sgd", "--sweep", "lr=1e30,0.01")
    codes, printed = train(options(tmp_path, *sweep), fault=REPORT)
    assert codes == [1]
    assert "error: lr=1e30 has no result: the loss or gradient was not finite" in printed
    assert "| lr=0.01 " in (tmp_path / "group" / "comparison.md").read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_impossible_combination_of_a_sweep_is_listed_and_the_rest_goes_on(tmp_path: Path, processes: int) -> None:
    codes, printed = train(options(tmp_path, "--sweep", "batch_size=1000,32"), processes, fault=REPORT)
    assert codes == [1] * processes, printed
    reason = "batch_size=1000 has no result: --batch-size 1000 is more than the 128 training images"
    compared = (tmp_path / "group" / "comparison.md").read_text()
    assert f"error: {reason}" in printed
    assert f"\n{reason}" in compared
    assert "| batch_size=32 " in compared
    assert not (tmp_path / "group" / "batch_size=1000").exists()


def test_values_that_do_not_go_together_make_no_run_but_stop_no_other() -> None:
    typed = ["--sweep", "val_fraction=0,0.5", "patience=0,1"]
    runs, impossible = members(parse_train(typed), typed)
    assert list(runs) == ["val_fraction=0_patience=0", "val_fraction=0.5_patience=0", "val_fraction=0.5_patience=1"]
    assert list(impossible) == ["val_fraction=0_patience=1"]
    assert impossible["val_fraction=0_patience=1"].startswith("--patience waits for a better validation")


def test_a_run_that_is_asked_to_stop_says_how_all_go_on(tmp_path: Path) -> None:
    codes, printed = train(options(tmp_path, "--seeds", "0,1"), fault=Fault(signal_after=(3, 15)))
    assert codes == [143]
    assert "--run-name group --resume auto" in printed
    assert not (tmp_path / "group" / "seed-1").exists()


def test_compare_shows_what_differs_and_ranks_by_validation(folds: Path, capsys: pytest.CaptureFixture) -> None:
    train(options(folds.parent, "--lr", "0.3", name="another"))  # no report: still under way
    compare.main([str(folds.parent / "another"), str(folds), "--output-dir", str(folds.parent)])
    printed = capsys.readouterr().out
    header, _, *rows = (folds.parent / "comparison.md").read_text().split("\n\n")[0].splitlines()
    assert header in printed
    names = [cell.strip() for cell in header.strip("|").split("|")]
    assert names[:3] == ["run", "fold", "lr"]
    cells = [dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows]
    ranks = [float(row["val accuracy"].removesuffix("%")) for row in cells]
    assert ranks == sorted(ranks, reverse=True)
    assert next(row for row in cells if row["run"] == "another")["test accuracy"] == ""
    assert len((folds.parent / "comparison.csv").read_text().splitlines()) == 5


def test_compare_takes_one_run_by_a_relative_path(folds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folds)
    compare.main(["fold-1", "../group/fold-1"])  # and once only
    assert (folds / "comparison.md").read_text().count("\n| fold-1 |") == 1


def test_compare_refuses_what_is_no_run_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        compare.main([str(tmp_path)])
    assert end.value.code == 2
    assert "no run with an epoch done" in capsys.readouterr().err
    (tmp_path / "train.json").write_text("{}")
    (tmp_path / "args.yaml").write_text("{}")
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    assert "does not hold a run's files" in capsys.readouterr().err


def test_a_recipe_may_hold_a_sweep(tmp_path: Path) -> None:
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text("sweep: {lr: [0.01, 0.02]}\nseeds: [0, 1]\n")
    assert train(options(tmp_path, "--recipe", str(recipe)))[0] == [0]
    names = {f"lr={lr}_seed-{seed}" for lr in (0.01, 0.02) for seed in (0, 1)}
    assert names < {place.name for place in (tmp_path / "group").iterdir()}
