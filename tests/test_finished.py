"""A run that is done stays as it is when it is resumed: its end is saved, and of its report only what lacks is made."""

import json
from pathlib import Path

import pytest

from tests.conftest import REPORT
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --model mlp --limit-train 128 --batch-size 32 --mixed-precision no --model-arg hidden=8 "
    "--checkpoint-every 1000 --run-name run --output-dir"
).split()
STEPS = 8


def run(place: Path, *more: str, epochs: int = 2, report: bool = True) -> tuple[str, int]:
    """Run train.py: (what it printed, steps that it trained)."""
    rates = place / "ledger.lr.0"
    rates.unlink(missing_ok=True)
    fault = Fault(report=report, ledger=place / "ledger")
    codes, printed = train([*OPTIONS, str(place), "--epochs", str(epochs), *more], fault=fault)
    assert codes == [0], printed
    return printed, len(rates.read_text().splitlines()) if rates.exists() else 0


def written(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    assert run(tmp_path)[1] == STEPS
    return tmp_path / "run"


def test_the_last_step_is_saved_and_a_finished_run_is_left_as_it_is(done: Path) -> None:
    assert [place.name for place in (done / "checkpoints").iterdir()] == [f"step-{STEPS}"]
    before = written(done)
    printed, steps = run(done.parent, "--resume", "auto")
    assert steps == 0 and written(done) == before
    accuracy = json.loads((done / "test.json").read_text())["accuracy"]
    assert f"nothing is left to train\ntest accuracy {100 * accuracy:.2f}" in printed
    assert "to train on, add --epochs above 2" in printed


@pytest.mark.parametrize("lost", ["test.json", "examples.png"])
def test_a_report_that_lacks_a_part_is_made_again(lost: str, done: Path) -> None:
    before = json.loads((done / "test.json").read_text())["confusion_matrix"]
    (done / lost).unlink()
    assert run(done.parent, "--resume", "auto")[1] == 0
    assert {name for name in REPORT if (done / name).exists()} == set(REPORT)
    assert json.loads((done / "test.json").read_text())["confusion_matrix"] == before


def test_a_run_that_was_trained_on_is_reported_as_it_then_is(done: Path) -> None:
    assert run(done.parent, "--resume", "auto", epochs=3, report=False)[1] == 4
    assert not any((done / name).exists() for name in REPORT)  # they are of the shorter run
    assert run(done.parent, "--resume", "auto", epochs=3)[1] == 0
    assert all((done / name).exists() for name in REPORT)
