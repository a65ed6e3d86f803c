"""What is printed to nobody, to a reader that has left or a stream that was closed from the start, stops nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.driver import HANGS

TINY = "--cpu --dataset digits --model mlp --track none --epochs 1 --limit-train 320".split()


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run `script`, in which "$@" is train.py with these arguments."""
    command = ["bash", "-c", script, "bash", sys.executable, "train.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANGS)


@pytest.mark.parametrize("question", ["--list-models", "--list-datasets", "--help"])
def test_an_answer_whose_reader_has_left_is_no_failure(question: str) -> None:
    """As in `train.py --list-models | head -2`."""
    piped = shell('"$@" | true; exit ${PIPESTATUS[0]}', question)
    assert (piped.returncode, piped.stderr) == (0, "")


def test_a_run_without_input_output_and_error_stream_is_done_like_any_other(tmp_path: Path) -> None:
    ended = shell('exec "$@" <&- >&- 2>&-', *TINY, "--output-dir", str(tmp_path), "--run-name", "run")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["samples"] == 359
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    # What is said is in the log alone: no other file got the number of a closed stream.
    assert [path.name for path in written if b"weights  of epoch" in path.read_bytes()] == ["log.txt"]


def test_a_mistake_with_error_stream_closed_has_its_exit_code() -> None:
    assert shell('exec "$@" >&- 2>&-', "--nonsense").returncode == 2
