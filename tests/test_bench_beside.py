"""bench.py --what beside times the loop beside a process that is busy only meanwhile, and ends with it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from torch import Tensor, nn

import bench
import models
from benches import beside
from tests.conftest import REPOSITORY, fresh_process
from tests.driver import HANGS

TINY = "--cpu --mixed-precision no --image-size 8 --channels 1 --batch-sizes 4 --rounds 2 --budget 100000".split()


def busy_processes() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if "sum(range(" in " ".join(process.cmdline())]


class Disturbed(nn.Module):
    """A network whose pass takes a second of the clock of this test, and beside a busy process `beside` of them."""

    seconds, beside = 0, 2

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        Disturbed.seconds += Disturbed.beside if busy_processes() else 1
        return self.layer(images.flatten(1))


@pytest.mark.parametrize(("beside", "code"), [(2, 0), (3, 1)])
def test_check_fails_where_a_step_takes_more_than_2_2_times_as_long_beside_a_busy_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, beside: int, code: int
) -> None:
    fresh_process()
    monkeypatch.setitem(models.MODELS, "ours", (__name__, Disturbed.__name__, ""))
    monkeypatch.setattr(Disturbed, "beside", beside)
    for module in ("budget", "timing"):
        monkeypatch.setattr(f"benches.{module}.clock", lambda: Disturbed.seconds)
    with pytest.raises(SystemExit) as ended:
        bench.main([*TINY, "--check", "--what", "beside", "--model", "ours", "--output-dir", str(tmp_path)])
    assert ended.value.code == code
    (section,) = json.loads((tmp_path / "bench.json").read_text())["benches"]
    assert section["ratio"]["median"] == 1 / beside
    assert ("NOT reached" in capsys.readouterr().out) == bool(code)
    assert not busy_processes()


def test_what_is_busy_ends_with_a_bench_that_is_killed() -> None:
    code = "import signal\nfrom benches.beside import neighbour\nwith neighbour() as busy:\n    busy(True)\n    "
    code += "print('busy', flush=True)\n    signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE) as started:
        assert started.stdout.readline() == b"busy\n"
        (busy,) = psutil.Process(started.pid).children()
        started.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs([busy], timeout=HANGS)[1]


def test_what_is_busy_ends_at_once_where_the_bench_is_gone_before_it_begins() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert subprocess.run([sys.executable, "-c", beside.BUSY, str(gone.pid)], timeout=HANGS).returncode == 0
