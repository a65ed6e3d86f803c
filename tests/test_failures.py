"""A run that fails ends at once, with all its processes and their workers, and says in a line which failed and why."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import resource_sharer
from pathlib import Path

import psutil
import pytest
import torch

from common import failures
from data import workers
from data.loader import Batch
from tests.conftest import REPOSITORY
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --model mlp --model-arg hidden=8 --mixed-precision no --limit-train 128 --batch-size 32 "
    "--epochs 3 --checkpoint-every 3 --run-name run --output-dir"
).split()


def errors(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("error: ")]


def nobody_writes_in(folder: Path) -> bool:
    """No process, such as a worker, holds the run's log any more; waits for those that are ending."""
    for _ in range(100):
        if not any(str(folder) in path for process in psutil.process_iter() for path in open_files(process)):
            return True
        time.sleep(0.1)
    return False


def open_files(process: psutil.Process) -> list[str]:
    try:
        return [file.path for file in process.open_files()]
    except psutil.Error:  # it has ended
        return []


def run(folder: Path, processes: int, *more: str, **fault: object) -> tuple[list[int], str]:
    """Exit codes (none is that of a process that had to be killed) and what was printed; no worker is left."""
    codes, printed = train([*OPTIONS, str(folder), *more], processes, Fault(**fault))
    assert -signal.SIGKILL not in codes or "kill_after" in fault, printed
    assert nobody_writes_in(folder)
    return codes, printed


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_want_of_memory_is_one_line_with_the_remedy_and_workers_end_too(tmp_path: Path, where: str) -> None:
    step = {"step": 5, "evaluation": 4}[where]
    codes, printed = run(tmp_path, 1, "--workers", "2", fail_in=(where, step, 0), failure="memory")
    assert codes == [1]
    assert [line[:22] for line in errors(printed)] == ["error: out of memory: "]
    assert "out of memory: try --accumulate auto, then --grad-checkpointing, then a smaller --image-size\n" in printed
    assert "Traceback" not in printed


def test_a_fault_of_ours_shows_its_traceback_and_workers_end_too(tmp_path: Path) -> None:
    codes, printed = run(tmp_path, 1, "--workers", "2", fail_in=("step", 5, 0))
    assert codes == [1]
    assert printed.rstrip().endswith("ZeroDivisionError: a bug")


def test_a_killed_worker_ends_the_run_in_one_line(tmp_path: Path) -> None:
    codes, printed = run(tmp_path, 1, "--workers", "2", kill_worker_after=(2, 0))
    assert codes == [1]
    assert len(errors(printed)) == 1 and "--workers was killed" in errors(printed)[0]


class BrokenOff(torch.utils.data.Dataset):
    """Its worker closes the connection over which a batch is fetched, as one does that is killed just then."""

    def __getitems__(self, ids: list[int]) -> Batch:
        def serve(self: resource_sharer._ResourceSharer) -> None:
            while True:
                os.close(self._listener._listener._socket.accept()[0].detach())

        resource_sharer._ResourceSharer._serve = serve
        images = torch.zeros(len(ids), 3, 2, 2, dtype=torch.uint8)
        return Batch(images=images, labels=torch.tensor(ids), ids=torch.tensor(ids))


def test_a_worker_killed_while_it_hands_over_a_batch_is_told_like_any_other() -> None:
    batches = workers.loader(BrokenOff(), [[0, 1], [2, 3]], 1, pin_memory=False)
    with pytest.raises(RuntimeError) as raised:
        list(batches)
    assert isinstance(raised.value.__cause__, ConnectionError | EOFError)
    assert "--workers was killed" in failures.in_one_line(raised.value)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("where", "step"), [("start-up", 0), ("step", 5), ("evaluation", 4), ("saving", 3)])
def test_all_processes_end_when_one_fails_and_say_which(tmp_path: Path, where: str, step: int, rank: int) -> None:
    codes, printed = run(tmp_path, 2, fail_in=(where, step, rank))
    assert codes == [1, 1]
    assert printed.count("\nZeroDivisionError: a bug\n") == 1 and printed.count("Traceback") == 1
    expected = ["error: process 1 has failed, so process 0 ends too: ZeroDivisionError: a bug"] if rank else []
    assert errors(printed) == expected


def test_want_of_memory_on_one_process_of_two_ends_both(tmp_path: Path) -> None:
    codes, printed = run(tmp_path, 2, "--workers", "1", fail_in=("step", 5, 1), failure="memory")
    assert codes == [1, 1]
    one, other = sorted(errors(printed))
    assert one.startswith("error: process 1 has failed, so process 0 ends too: process 1: out of memory")
    assert other.startswith("error: process 1: out of memory")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_was_killed_is_named_by_the_other(tmp_path: Path, rank: int) -> None:
    codes, printed = run(tmp_path, 2, "--workers", "1", kill_after=5, kill_ranks=(rank,))
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 1
    expected = f"process {rank} has failed, so process {1 - rank} ends too: it was killed, or its machine cannot be"
    to_go_on = f"to go on: start train.py as before, with no more options than --resume {tmp_path / 'run'}"
    assert errors(printed) == [f"error: {expected} reached; {to_go_on}"]


def test_workers_do_not_outlive_a_killed_main_process(tmp_path: Path) -> None:
    codes, _ = run(tmp_path, 1, "--workers", "2", kill_after=5)
    assert codes == [-signal.SIGKILL]


def small_shared_memory(size: str, tmp_path: Path, *more: str) -> subprocess.CompletedProcess:
    """A run with two workers, each batch of 9 MB, where /dev/shm has `size`; `more` is done there meanwhile."""
    options = [
        "--dataset",
        "digits",
        "--image-size",
        "192",
        "--batch-size",
        "256",
        "--workers",
        "2",
        "--epochs",
        "9999",
    ]
    command = [sys.executable, "train.py", *OPTIONS[:-1], "--limit-train", "1024", *options, "--output-dir"]
    steps = [f"mount -t tmpfs -o size={size} tmpfs /dev/shm", *more, f"exec {shlex.join([*command, str(tmp_path)])}"]
    unshared = ["unshare", *([] if os.getuid() == 0 else ["--map-root-user"]), "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshared, steps[0]], check=False).returncode:
        pytest.skip("NOT TESTED: no mount namespaces here, so no small /dev/shm")
    script = "; ".join(steps)
    return subprocess.run([*unshared, script], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def test_too_little_shared_memory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    ended = small_shared_memory("30m", tmp_path)
    assert ended.returncode == 2
    assert "--workers 2 needs 57 MB of shared memory and /dev/shm has 31 MB free: give --workers 0" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_shared_memory_that_fills_up_in_mid_run_ends_it_in_one_line(tmp_path: Path) -> None:
    trains = tmp_path / "run" / "train.json"
    fill = f"(until [ -e {trains} ]; do sleep 0.1; done; exec cat /dev/zero >/dev/shm/ballast) 2>{os.devnull} &"
    ended = small_shared_memory("64m", tmp_path, f"{fill} true")
    assert ended.returncode == 1
    assert [line[:37] for line in errors(ended.stderr)] == ["error: no room in shared memory (/dev"]


def test_a_process_that_waits_for_others_says_so_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    waiting = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        several = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "train.py", *OPTIONS, str(tmp_path)]
        waiting[number] = subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | meeting | several, stderr=subprocess.PIPE, text=True
        )
    for number, process in waiting.items():
        assert "waiting for the other processes: 2 in all, at 127.0.0.1:" in process.stderr.readline()
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait() == 128 + number
        assert "stopped before the first step: nothing is lost (it was waiting for other processes" in said
    assert not list(tmp_path.iterdir())
