"""What a person sees while a run goes on: it fits the terminal, says what there is to say, and costs nothing a step."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from common import console, progress
from engine.output.progress import Progress
from tests.conftest import REPOSITORY

RECORD = {
    "epoch": 100,
    "train_loss": 1.23456,
    "train_accuracy": 1.0,
    "val_loss": 1e30,
    "val_accuracy": 0.98554,
    "seconds": 3723.4,
    "images_per_second": 123456.7,
}
# An epoch of 12 steps of a run of 100, of 128 images each; it prints how often the loss was fetched.
EPOCH = """
import sys, time
import common.progress
from engine.output import progress
asked = 0
def so_far():
    global asked
    asked += 1
    return {{"loss": 1.23456, "accuracy": 0.5614}}
shown = progress.Progress(True, 100, 12, 128)
common.progress.REDRAW = {redraw}
shown.begin(1188)
for step in range(1189, 1201):
    time.sleep(0.01)
    shown.step(step, so_far)
shown.epoch({record}, True)
print("asked", asked)
"""


def in_terminal(code: str, columns: int, **env: str) -> str:
    """What Python code writes to a terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "COLUMNS", "RANK")}
    plain |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **env}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=plain, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = b""
    while True:
        try:
            written += os.read(master, 4096)
        except OSError:  # the process has ended, and the terminal with it
            break
    os.close(master)
    assert process.wait() == 0, written.decode()
    return written.decode()


def states(written: str) -> list[str]:
    """The states of the live line, one after another."""
    found = [text for text in re.split(r"[\r\n]+", written) if text.startswith("epoch ")]
    return [text.rstrip() for text in found]


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        (40, ["loss"]),
        (60, ["loss", "left, run"]),
        (80, ["loss", "left, run", "accuracy"]),
        (120, ["loss", "left, run", "accuracy", "images/s"]),
    ],
)
def test_the_live_line_fits_and_drops_fields_as_it_narrows(columns: int, fields: list[str]) -> None:
    written = in_terminal(EPOCH.format(redraw=0, record=RECORD), columns)
    found = states(written)
    assert found[0].startswith("epoch 100/100   0 %")  # before the first step
    assert "loss 1.2346" in found[1]  # from the first step on
    assert found[-1].startswith("epoch 100/100 100 %")
    assert all(len(state) < columns for state in found)
    shown = [field for field in ("loss", "left, run", "accuracy", "images/s") if field in found[-1]]
    assert shown == fields


def test_the_loss_is_fetched_from_the_device_only_to_show_it() -> None:
    written = in_terminal(EPOCH.format(redraw=3600, record=RECORD), 80)
    assert "asked 1\r" in written
    assert len(states(written)) == 2  # at the beginning, and after the first step


def test_an_epochs_line_has_at_most_80_columns(capsys: pytest.CaptureFixture) -> None:
    shown = Progress(True, 100, 12, 128)
    shown.epoch(RECORD, True)
    shown.epoch({**RECORD, "val_loss": None, "val_accuracy": None}, False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == "100/100 1.2346 100.00 % 1e+30 98.55 % 1:02:03 123,457 best".split()
    assert lines[2].split() == "100/100 1.2346 100.00 % 1:02:03 123,457".split()
    assert lines[0].split() == "epoch train loss accuracy val loss accuracy time images/s".split()


def test_where_there_is_no_terminal_a_line_comes_when_it_was_quiet_for_long(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Progress(True, 2, 4, 32)
    shown.begin(0)
    shown.step(1, lambda: {"loss": 2.0, "accuracy": 0.25})
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "QUIET", 0.0)
    shown.begin(0)
    shown.step(1, lambda: {"loss": 2.0, "accuracy": 0.25})
    shown.step(2, lambda: {"loss": 1.5, "accuracy": 0.5})
    line = capsys.readouterr().err.splitlines()[-1]
    times = r"\S+ s left, run \S+ s"
    assert re.fullmatch(rf"epoch 1/2  50 %  loss 1\.5000  {times}  accuracy 50\.0 %  [\d,]+ images/s", line)
    assert list(progress.track("ab", "testing", 2)) == ["a", "b"]
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0][:13]) == ("", "testing  50 %")


def test_colour_is_for_terminals_that_have_it_and_people_who_want_it() -> None:
    code = EPOCH.format(redraw=3600, record=RECORD)
    assert "\x1b[32m  best\x1b[0m" in in_terminal(code, 80)
    assert "\x1b" not in in_terminal(code, 80, NO_COLOR="1")
    dumb = in_terminal(code, 80, TERM="dumb")
    assert "\x1b" not in dumb
    assert not states(dumb)  # a line that cannot be rewritten is not drawn


def test_the_first_line_is_there_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "train.py", "--epochs", "3"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("cnn on digits, 3 epochs: loading PyTorch ...\n", "torch\n")


def test_figures_are_written_in_one_way() -> None:
    assert [console.percent(share) for share in (0.98554, 1, 0, None)] == ["98.55 %", "100.00 %", "0.00 %", ""]
    assert [console.plain_number(value) for value in (0.1 + 0.2, 3, 1e-5, 0.0001)] == ["0.3", "3", "1e-05", "0.0001"]
    assert [console.duration(s) for s in (4.94, 59.4, 125, 3753)] == ["4.9 s", "59 s", "2:05", "1:02:33"]
