"""Runs, checkpoints and weights of an earlier version go on working: resumed to the same numbers, tested, compared."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import compare
from tests.conftest import predict
from tests.driver import train

# Two runs of eight steps on digits, of the version before the rooms and the options were made anew.
EARLIER = Path(__file__).parent / "fixtures" / "earlier_runs"
NAMES = ["classes", "images"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    shutil.copytree(EARLIER, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_within_an_epoch_is_resumed_to_the_weights_and_figures_that_the_run_had(name, runs, tmp_path):
    codes, printed = train(
        ["--resume", str(runs / name / "checkpoints" / "step-3"), "--output-dir", str(tmp_path), "--run-name", "again"]
    )
    assert codes == [0], printed
    assert "step 3" in printed
    for file in (EARLIER / name / "checkpoints" / "step-8").glob("*.safetensors"):
        before, now = load_file(file), load_file(tmp_path / "again" / "checkpoints" / "step-8" / file.name)
        assert before.keys() == now.keys()
        for key, value in before.items():  # made on another CPU, which rounds in its own way
            torch.testing.assert_close(now[key], value, rtol=1e-3, atol=1e-4)
    before, now = (json.loads((run / "train.json").read_text()) for run in (EARLIER / name, tmp_path / "again"))
    assert before["best_epoch"] == now["best_epoch"]
    for one, other in zip(before["epochs"], now["epochs"], strict=True):
        assert one.keys() <= other.keys()  # all that the earlier version told, and what later ones have added
        assert (one["epoch"], one["step"], one["lr"]) == (other["epoch"], other["step"], other["lr"])
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_tested_on_the_images_and_to_the_figures_of_their_run(name, runs, capsys):
    code, _, err = predict(capsys, "--weights", runs / name)
    assert (code, "warning" in err) == (0, False), err
    before, now = (json.loads((runs / name / file).read_text()) for file in ("test.json", "best-test/test.json"))
    assert before.keys() <= now.keys()
    assert now["samples"] == before["samples"]
    for key in ("accuracy", "loss"):
        assert now[key] == pytest.approx(before[key], abs=1e-4)


def test_runs_are_compared(runs, capsys):
    compare.main([str(runs)])
    out = capsys.readouterr().out
    for name in NAMES:
        accuracy = json.loads((runs / name / "test.json").read_text())["accuracy"]
        assert f"{100 * accuracy:.2f} %" in out
