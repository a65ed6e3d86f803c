"""Ctrl-C is answered by one line that says what is lost: nothing, before the first step as in the test report."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from engine.runtime.signals import StopRequest
from tests.conftest import REPORT, REPOSITORY, fresh_process

OPTIONS = "train.py --cpu --dataset digits --model mlp --track none --epochs 1 --limit-train 320".split()


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


@pytest.mark.parametrize("line", ["loading PyTorch", "cpu, 1 process"])
def test_before_the_first_step_it_is_one_line(line: str, tmp_path: Path) -> None:
    process = start(*OPTIONS, "--epochs", "9999", "--output-dir", str(tmp_path), "--run-name", "run")
    while line not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    if "stopped at step" not in printed:  # it may have come as far as that
        assert error.startswith("stopped") and error.count("\n") == 1


def test_in_the_test_report_it_says_how_to_finish_that(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "my run"
    process = start(*OPTIONS, "--output-dir", str(tmp_path), "--run-name", "my run")
    while not (run / "test.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error.startswith("stopped in the test report; training is done and saved")
    _, *command = shlex.split(error.strip().split("to go on: ")[1])
    assert command == ["train.py", "--resume", str(run)]
    fresh_process()
    train.main(command[1:])
    printed, error = capsys.readouterr()
    assert error == "" and "step 20 of 20" in printed
    assert {path.name for path in run.iterdir()} >= set(REPORT)


def test_a_library_that_takes_the_end_for_an_error_of_its_own_changes_nothing(capfd: pytest.CaptureFixture) -> None:
    """As pybind11 does while it converts arguments, where a signal is heard too."""
    with pytest.raises(SystemExit) as ended, StopRequest():
        try:
            signal.raise_signal(signal.SIGINT)
        except SystemExit:
            raise TypeError("incompatible function arguments") from None
    assert ended.value.code == 130
    assert capfd.readouterr().err.count("stopped before the first step") == 1
    with pytest.raises(TypeError, match="a bug"), StopRequest():  # without a signal an error is an error
        raise TypeError("a bug")
