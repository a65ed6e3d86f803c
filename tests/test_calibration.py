"""Confidence that can be believed: the temperature of the least loss, kept with the weights and applied with them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import infer
import train
from common.errors import UserError
from engine.checkpoints import best_weights
from options.infer import parse_infer
from options.train import parse_train
from tasks.classification.calibration import fit_temperature, reliability, withheld

# Trained until it is sure of what it has seen: 300 images, no regularisation.
OPTIONS = "--cpu --track none --model mlp --limit-train 300 --epochs 25 --weight-decay 0 --augment none".split()


def overconfident(seed: int, classes: int = 5, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits three times as large as those that the labels were drawn by."""
    random = torch.Generator().manual_seed(seed)
    honest = torch.randn(count, classes, generator=random) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0]
    return 3 * honest, labels


def test_the_temperature_is_that_of_the_least_loss() -> None:
    logits, labels = overconfident(0)
    found = fit_temperature(logits, labels)
    assert abs(found - 3) < 0.15
    grid = np.geomspace(0.1, 15, 3001)
    losses = [F.cross_entropy(logits.double() / temperature, labels).item() for temperature in grid]
    assert abs(found - grid[int(np.argmin(losses))]) < 0.01


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_the_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = overconfident(1, classes)
    probabilities = logits.softmax(1)
    expected = multiclass_calibration_error(probabilities, labels, classes, n_bins=15, norm="l1").item()
    found = reliability(probabilities.numpy(), labels.numpy())
    assert abs(found["error"] - expected) < 1e-5  # its sums are in float32
    assert sum(each["images"] for each in found["bins"]) == len(labels)
    sure = reliability(np.eye(3, dtype=np.float32), np.array([0, 1, 0]))
    assert [each["accuracy"] for each in sure["bins"]] == [pytest.approx(2 / 3)] and sure["error"] == pytest.approx(
        1 / 3
    )


def test_answers_below_the_threshold_are_withheld() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.95, 0.05]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1])
    assert withheld(probabilities, labels, 0.8) == {"threshold": 0.8, "coverage": 0.5, "accuracy": 0.5}
    assert withheld(probabilities, labels, 0.99) == {"threshold": 0.99, "coverage": 0.0, "accuracy": None}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without and with --calibrate, as "plain" and "calibrated"."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("plain", []), ("calibrated", ["--calibrate"])):
        train.main([*OPTIONS, *more, "--output-dir", str(folder), "--run-name", name])
    return folder


def read(folder: Path) -> dict:
    return json.loads((folder / "test.json").read_text())


def test_it_is_fitted_on_validation_and_changes_no_answer_but_what_they_are_worth(runs: Path) -> None:
    plain, calibrated = read(runs / "plain"), read(runs / "calibrated")
    content = [best_weights.load(runs / name / "best.pth") for name in ("plain", "calibrated")]
    assert "temperature" not in content[0] and calibrated["temperature"] == content[1]["temperature"] > 1.05
    for name, value in content[0]["weights"].items():
        assert torch.equal(value, content[1]["weights"][name])
    assert calibrated["accuracy"] == plain["accuracy"] and calibrated["confusion_matrix"] == plain["confusion_matrix"]
    assert calibrated["uncalibrated"]["calibration"] == plain["calibration"]
    assert calibrated["uncalibrated"]["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert calibrated["loss"] < plain["loss"] and "uncalibrated" not in plain
    assert (runs / "calibrated" / "reliability.png").exists()


def test_the_report_that_is_made_later_and_predictions_go_by_it(runs: Path, tmp_path: Path) -> None:
    for arguments, folder in (([], "best-test"), (["--dataset", "digits"], "best-on-digits")):
        with pytest.raises(SystemExit) as ended:
            infer.main(["--weights", str(runs / "calibrated"), "--cpu", *arguments])
        assert ended.value.code == 0
        again = read(runs / "calibrated" / folder)
        assert again["temperature"] == read(runs / "calibrated")["temperature"]
    later = read(runs / "calibrated" / "best-test")
    assert later["loss"] == read(runs / "calibrated")["loss"]


def test_a_run_that_is_reported_again_or_trained_on_is_calibrated_again(runs: Path) -> None:
    before = read(runs / "calibrated")
    (runs / "calibrated" / "test.json").unlink()
    options = ["--output-dir", str(runs), "--run-name", "calibrated", "--resume", "auto", "--calibrate"]
    train.main([*OPTIONS, *options])
    again = read(runs / "calibrated")
    assert again["temperature"] == before["temperature"] and again["loss"] == before["loss"]


def test_a_run_that_is_done_can_be_calibrated_later(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain", tmp_path / "plain")
    options = ["--output-dir", str(tmp_path), "--run-name", "plain", "--resume", "auto", "--calibrate"]
    train.main([*OPTIONS, *options])
    assert read(tmp_path / "plain")["temperature"] == read(runs / "calibrated")["temperature"]
    done = (tmp_path / "plain" / "test.json").stat().st_mtime_ns
    train.main([*OPTIONS, *options])
    assert (tmp_path / "plain" / "test.json").stat().st_mtime_ns == done


def test_unsure_answers_are_unknown_and_the_test_says_what_that_costs(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "answers.csv"
    with pytest.raises(SystemExit):
        infer.main(["--weights", str(runs / "calibrated"), "--cpu", "--reject", "0.9", "--output", str(output)])
    printed = capsys.readouterr().out
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sure = [float(row["probability_1"]) >= 0.9 for row in rows]
    assert 0 < sum(sure) < len(rows)
    assert [row["answer"] for row in rows] == [
        row["class_1"] if s else "unknown" for row, s in zip(rows, sure, strict=True)
    ]
    right = [row["answer"] == row["true"] for row, s in zip(rows, sure, strict=True) if s]
    assert (
        f"--reject 0.9: {100 * np.mean(sure):.2f} % of the images get an answer, {100 * np.mean(right):.2f} %"
        in printed
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--calibrate --val-fraction 0", "--calibrate needs the validation part"),
        ("--calibrate --task multilabel", "--calibrate: of no use for --task multilabel"),
        ("--calibrate --task transform --transform invert", "--calibrate: of no use for --task transform"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_line(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_train(options.split())


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(UserError, match="--reject"):
        parse_infer(["--weights", "best.pth", "--reject", "1.5"])
