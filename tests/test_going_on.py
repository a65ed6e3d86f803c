"""A run goes on, or says why not, when what is around it changed: its terminal, its folder, its images."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.driver import HANGS, Fault, train

OPTIONS = (
    "--cpu --track none --model mlp --limit-train 128 --batch-size 32 --mixed-precision no --model-arg hidden=8 "
    "--checkpoint-every 3 --output-dir"
).split()


def options(folder: Path, *more: str, epochs: int = 3, name: str = "run") -> list[str]:
    return [*OPTIONS, str(folder), "--epochs", str(epochs), "--run-name", name, *more]


def best(folder: Path) -> dict:
    return torch.load(folder / "best.pth", weights_only=True)


def same_weights(one: dict, other: dict) -> bool:
    return all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was killed after its second epoch and a half."""
    codes, printed = train(options(tmp_path), fault=Fault(kill_after=9))
    assert codes == [-9], printed
    return tmp_path / "run"


def test_a_closed_terminal_saves_the_step_and_the_run_resumes(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "train.py", *options(tmp_path, epochs=9999)],
        cwd=REPOSITORY,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    screen = b""
    while b"epoch 4/9999" not in screen:
        screen += os.read(master, 4096)
    os.close(master)  # the kernel sends SIGHUP, and from here to print is an error
    assert process.wait(HANGS) == 129
    step = max(int(place.name.removeprefix("step-")) for place in (tmp_path / "run" / "checkpoints").iterdir())
    assert step >= 12
    codes, printed = train(options(tmp_path, "--resume", "auto", "--max-time", "1s", epochs=9999))
    assert codes == [0]
    assert f"at step {step} of" in printed


def test_nobody_reading_the_output_does_not_stop_the_run(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "train.py", *options(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(HANGS) == 0, error
    assert "BrokenPipe" not in error
    assert (tmp_path / "run" / "test.json").exists()


def test_a_terminal_that_lacks_the_letters_of_a_folder_stops_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *options(tmp_path / "Żółć", epochs=1)]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=HANGS)
    assert done.returncode == 0 and b"\\u017b\xf3\\u0142" in done.stdout, done.stderr
    assert (tmp_path / "Żółć" / "run" / "test.json").exists()


def test_a_run_goes_on_in_another_folder_with_the_best_weights_so_far(stopped: Path) -> None:
    codes, printed = train(options(stopped.parent, "--resume", str(stopped), name="branch"), fault=Fault(kill_after=10))
    assert codes == [-9], printed
    assert same_weights(best(stopped.parent / "branch"), best(stopped))
    codes, printed = train(options(stopped.parent, "--resume", str(stopped), name="other"), fault=Fault(report=True))
    assert codes == [0], printed
    assert (stopped.parent / "other" / "test.json").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_without_best_pth_the_best_is_looked_for_from_the_checkpoint_on(stopped: Path, processes: int) -> None:
    (stopped / "best.pth").unlink()
    fault = Fault(report=True)
    codes, printed = train(options(stopped.parent, "--resume", "auto"), processes, fault)
    assert codes == [0] * processes, printed
    assert "best.pth does not hold the best epoch so far" in printed
    assert best(stopped)["step"] == 12
    assert json.loads((stopped / "train.json").read_text())["best_epoch"] == 3
    (stopped / "best.pth").unlink()  # of a run that is done: the weights of the last step are tested
    codes, printed = train(options(stopped.parent, "--resume", "auto"), processes, fault)
    assert codes == [0] * processes, printed
    assert best(stopped)["step"] == 12


def test_changed_images_are_refused(tmp_path: Path, tree: Callable[..., Path], own_cache: Path) -> None:
    images = tree("cat", "dog", count=40)
    run = ["--dataset", str(images), "--cpu", "--track", "none", "--model", "mlp", "--epochs", "2", "--output-dir"]
    run += [str(tmp_path / "runs"), "--run-name", "run"]
    assert train(run)[0] == [0]
    (images / "cat" / "0.png").write_bytes((images / "dog" / "1.png").read_bytes())
    time.sleep(0.01)
    codes, printed = train([*run, "--resume", "auto"])
    assert codes == [2]
    assert "is of a run on other images: the train" in printed
    assert f"images of --dataset {images} have changed since" in printed


def test_more_epochs_from_an_older_checkpoint_forget_what_came_after_it(tmp_path: Path) -> None:
    assert train(options(tmp_path, "--keep", "9"))[0] == [0]
    older = tmp_path / "run" / "checkpoints" / "step-6"
    again = options(tmp_path, "--keep", "9", "--resume", str(older), epochs=6)
    assert train(again, fault=Fault(kill_after=10))[0] == [-9]
    assert {place.name for place in older.parent.iterdir()} == {"step-3", "step-6", "step-9"}
    epochs = {
        name: json.loads((older.parent / name / "state.json").read_text())["options"]["epochs"]
        for name in ("step-6", "step-9")
    }
    assert epochs == {"step-6": 3, "step-9": 6}


def test_a_run_whose_loss_was_no_number_goes_on_and_is_reported(tmp_path: Path) -> None:
    """The last step of an epoch may make the weights so large that validation has no loss."""
    wild = ["--optimizer", "sgd", "--lr", "1e25", "--batch-size", "128", "--warmup", "0"]
    codes, printed = train(options(tmp_path, *wild, epochs=1), fault=Fault(report=True))
    assert codes == [0] and "loss not finite" in printed, printed
    assert json.loads((tmp_path / "run" / "test.json").read_text())["loss"] is None
    codes, printed = train(options(tmp_path, *wild, "--resume", "auto", epochs=2))
    assert codes == [1] and "Traceback" not in printed and "finite" in printed, printed


def test_more_epochs_go_on_and_fewer_are_refused(stopped: Path) -> None:
    codes, printed = train(options(stopped.parent, "--resume", "auto", epochs=2))
    assert codes == [2]
    assert "is of a run of --epochs 3: give that many, or more" in printed
    codes, printed = train(options(stopped.parent, "--resume", "auto", epochs=4))
    assert codes == [0], printed
    assert len(json.loads((stopped / "train.json").read_text())["epochs"]) == 4
