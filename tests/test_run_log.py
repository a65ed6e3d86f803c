"""log.txt in a run's folder has every line, warning and error of its processes, over every start of the run."""

import logging
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from common import console, run_log
from tests.driver import Fault, train

# 4 steps an epoch, 3 epochs.
OPTIONS = "--cpu --track none --model mlp --limit-train 128 --batch-size 32 --epochs 3 --run-name run --output-dir"
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (\[rank \d\] )?")


def renames_hosts() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run(["unshare", "--uts", "true"], check=False).returncode == 0


def options(folder: Path, *more: str) -> list[str]:
    return [*OPTIONS.split(), str(folder), *more]


def log_of(folder: Path) -> str:
    """The log, of which each line has to begin with its time, and none may have a colour."""
    text = (folder / "log.txt").read_text(encoding="utf-8")
    assert all(STAMP.match(line) for line in text.splitlines())
    assert "\x1b" not in text and "\r" not in text
    return text


def test_every_line_and_warning_of_all_processes_is_in_the_log(tmp_path: Path) -> None:
    codes, printed = train(options(tmp_path), 2, Fault(warn_after=(5, 1), report=True))
    assert codes == [0, 0]
    log = log_of(tmp_path / "run")
    lines = {STAMP.sub("", line) for line in log.splitlines()}
    warned = ("something is odd", "warnings.warn", "odd in 3 places")  # which Python prints in two lines of its own
    assert {line.rstrip() for line in printed.splitlines() if line and not any(word in line for word in warned)} < lines
    assert "[rank 1] UserWarning: something is odd (" in log
    assert "[rank 1] warning: odd in 3 places (a.library)" in log
    assert "[rank 0] mlp on digits, 3 epochs: loading PyTorch ..." in log  # said before there was a folder
    assert "[rank 0]     3/3 " in log
    assert "[rank 0] UserWarning: something is odd" not in log


@pytest.mark.skipif(not renames_hosts(), reason="another machine's name is not this user's to give")
def test_a_process_on_another_machine_has_a_log_of_its_own(tmp_path: Path) -> None:
    codes, _ = train(options(tmp_path), 2, Fault(warn_after=(5, 1), hosts={1: "second"}))
    assert codes == [0, 0]
    own = (tmp_path / "run" / "log.rank-1.txt").read_text()
    assert "[rank 1] " in own and "something is odd" in own and "odd in 3 places" in own
    first = log_of(tmp_path / "run")
    assert "[rank 1]" not in first and " 3/3 " in first


def test_a_killed_and_resumed_run_has_both_halves(tmp_path: Path) -> None:
    train(options(tmp_path), 1, Fault(kill_after=6))
    before = log_of(tmp_path / "run")
    assert train(options(tmp_path, "--resume", "auto"))[0] == [0]
    log = log_of(tmp_path / "run")
    assert log.startswith(before)
    assert " at step 4 of 12" in log.removeprefix(before) and " 3/3 " in log


@pytest.mark.parametrize(("failure", "says"), [("bug", "ZeroDivisionError: a bug"), ("memory", "error: out of memory")])
def test_the_error_that_ends_a_run_is_in_the_log(tmp_path: Path, failure: str, says: str) -> None:
    codes, _ = train(options(tmp_path), 1, Fault(fail_in=("step", 6, 0), failure=failure))
    assert codes == [1]
    log = log_of(tmp_path / "run")
    assert says in log
    assert ("Traceback (most recent call last):" in log) == (failure == "bug")


def test_each_of_several_runs_has_its_own_log(tmp_path: Path) -> None:
    assert train(options(tmp_path, "--seeds", "0,1"))[0] == [0]
    for number, other in ((1, 2), (2, 1)):
        log = log_of(tmp_path / "run" / f"seed-{number - 1}")
        assert f"== run {number} of 2" in log and f"== run {other} of 2" not in log


def test_a_disk_without_room_costs_lines_and_no_run(capsys: pytest.CaptureFixture) -> None:
    with run_log.keeping():
        run_log.write_to(Path("/dev/full"))
        for number in range(3):
            console.say(f"line {number}")
    out, err = capsys.readouterr()
    assert out == "line 0\nline 1\nline 2\n"
    assert err == "warning: lines of the run's log.txt are lost: No space left on device\n"


def test_colours_stay_on_the_terminal_and_a_bad_record_stops_nothing(tmp_path: Path) -> None:
    with run_log.keeping():
        console.note("before the file")
        run_log.write_to(tmp_path / "log.txt")
        console.say("\x1b[1mbold\x1b[0m and\r\x1b[Kover")
        logging.getLogRecordFactory()("a.library", logging.ERROR, "a.py", 1, "%d", ("no number",), None)
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            warnings.warn("recorded elsewhere", stacklevel=1)
    assert [str(warning.message) for warning in recorded] == ["recorded elsewhere"]
    console.note("after the end")
    said = [STAMP.sub("", line) for line in log_of(tmp_path).splitlines()]
    assert said == ["before the file", "bold andover", "error: %d (a.library)"]
