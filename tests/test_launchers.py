"""What the launchers that people use do to a run: torchrun and accelerate launch, signalled and bereaved."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engine.checkpoints import store
from tests.conftest import nobody_is_left
from tests.driver import HANGS, free_port

REPOSITORY = Path(__file__).resolve().parent.parent
OPTIONS = "--cpu --track none --model mlp --batch-size 64 --epochs 100000 --checkpoint-every 200 --run-name run".split()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "PORT"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
PLAIN = [sys.executable]
# As the scripts in slurm/ start it: of itself torchrun hands on no SIGUSR1, but dies of it.
TORCHRUN_USR1 = [*TORCHRUN, "--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGUSR1"]


def start(launcher: list[str], folder: Path, *more: str) -> subprocess.Popen:
    launcher = [str(free_port()) if word == "PORT" else word for word in launcher]
    command = [*launcher, "train.py", *OPTIONS, "--output-dir", str(folder), *more]
    folder.mkdir(exist_ok=True)
    log = (folder / "log").open("a")
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True)


def wait_for(condition: object, launcher: subprocess.Popen, seconds: float = HANGS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert launcher.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def trains(folder: Path) -> bool:
    return bool(store.list_checkpoints(folder / "run" / "checkpoints"))


def newest_step(folder: Path) -> int:
    found = store.newest_intact(folder / "run" / "checkpoints")
    return found[2]["step"] if found else 0


def to_the_launcher(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)


def to_every_process(process: subprocess.Popen) -> None:
    """As Slurm does, and as a terminal does with Ctrl-C."""
    os.killpg(process.pid, signal.SIGTERM)


def usr1_to_the_launcher(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGUSR1)


def usr1_to_every_process(process: subprocess.Popen) -> None:
    """As Slurm does with --signal=USR1@120."""
    os.killpg(process.pid, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("launcher", "more", "signalled", "code"),
    [
        pytest.param(PLAIN, ["--workers", "2"], to_every_process, 143, id="plain-all"),
        pytest.param(PLAIN, [], to_the_launcher, 143, id="plain", marks=pytest.mark.slow),
        pytest.param(ACCELERATE, [], to_the_launcher, -signal.SIGTERM, id="accelerate", marks=pytest.mark.slow),
        pytest.param(TORCHRUN, [], to_the_launcher, 1, id="torchrun-2", marks=pytest.mark.slow),
        pytest.param(PLAIN, [], usr1_to_the_launcher, 75, id="plain-usr1", marks=pytest.mark.slow),
        pytest.param(PLAIN, ["--workers", "2"], usr1_to_every_process, 75, id="plain-all-usr1", marks=pytest.mark.slow),
        pytest.param(TORCHRUN_USR1, [], usr1_to_the_launcher, 1, id="torchrun-2-usr1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_run_goes_on(
    tmp_path: Path, launcher: list[str], more: list[str], signalled: Callable, code: int
) -> None:
    process = start(launcher, tmp_path, *more)
    wait_for(lambda: trains(tmp_path), process)
    signalled(process)
    assert process.wait(HANGS) == code
    assert nobody_is_left(process)
    stopped_at = newest_step(tmp_path)
    log = (tmp_path / "log").read_text()
    assert f"stopped at step {stopped_at} of" in log
    again = start(launcher, tmp_path, "--resume", "auto")
    wait_for(lambda: newest_step(tmp_path) > stopped_at, again)
    assert f"at step {stopped_at} of" in (tmp_path / "log").read_text()
    again.send_signal(signal.SIGTERM)
    again.wait(HANGS)
    assert nobody_is_left(again)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "codes"),
    [
        pytest.param(PLAIN, (143, -signal.SIGTERM), id="plain"),
        pytest.param(ACCELERATE, (-signal.SIGTERM,), id="accelerate"),
        pytest.param(TORCHRUN, (1,), id="torchrun-2"),
    ],
)
@pytest.mark.parametrize("seconds", [4, 7])  # in the imports, or the set-up after them
def test_sigterm_in_start_up_ends_all_at_once_and_leaves_nothing(
    tmp_path: Path, launcher: list[str], codes: tuple[int, ...], seconds: float
) -> None:
    process = start(launcher, tmp_path)
    time.sleep(seconds)
    if trains(tmp_path):
        pytest.skip("NOT TESTED: this machine starts too fast to be caught in it")
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANGS) in codes
    assert nobody_is_left(process)
    assert not trains(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "code"),
    [pytest.param(PLAIN, 143, id="plain"), pytest.param(TORCHRUN, 1, id="torchrun-2")],
)
def test_sigterm_while_the_run_does_little_but_evaluate_saves_and_resumes(
    tmp_path: Path, launcher: list[str], code: int
) -> None:
    evaluating = ["--val-fraction", "0.9", "--limit-train", "64", "--epochs", "90000", "--model-arg", "hidden=1024"]
    process = start(launcher, tmp_path, *evaluating, "--checkpoint-every", "5")
    wait_for(lambda: trains(tmp_path), process)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANGS) == code
    assert nobody_is_left(process)
    stopped_at = newest_step(tmp_path)
    again = start(launcher, tmp_path, *evaluating, "--checkpoint-every", "5", "--resume", "auto")
    wait_for(lambda: newest_step(tmp_path) > stopped_at, again)
    assert f"at step {stopped_at} of" in (tmp_path / "log").read_text()
    again.send_signal(signal.SIGTERM)
    again.wait(HANGS)
    assert nobody_is_left(again)


@pytest.mark.slow
def test_when_one_process_of_two_is_killed_the_other_ends_and_a_relaunch_goes_on(tmp_path: Path) -> None:
    launcher = TORCHRUN
    process = start(launcher, tmp_path)
    wait_for(lambda: trains(tmp_path), process)
    victim = psutil.Process(process.pid).children()[1]
    victim.send_signal(signal.SIGKILL)
    assert process.wait(HANGS) != 0
    assert nobody_is_left(process)
    stopped_at = newest_step(tmp_path)
    again = start(launcher, tmp_path, "--resume", "auto")
    wait_for(lambda: newest_step(tmp_path) > stopped_at, again)
    again.send_signal(signal.SIGTERM)
    again.wait(HANGS)
    assert nobody_is_left(again)
