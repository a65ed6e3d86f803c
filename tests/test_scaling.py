"""bench.py --what scaling trains on several processes, says where their speed goes, and leaves none of them running."""

import json
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bench
import train
from benches import ddp, group, prediction, scaling
from benches.group import Group
from benches.member import exchanged
from common.errors import RunFailed
from engine.runtime.agreement import average_statistics, running_statistics
from options.bench import parse_bench
from tests.conftest import REPOSITORY, fresh_process
from tests.driver import HANGS, server

TINY = (
    "--cpu --mixed-precision no --model mlp --model-arg hidden=8 --image-size 8 --channels 1 --batch-sizes 4 "
    "--rounds 2 --budget 100000"
).split()
HERE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
WEIGHTS = 64 * 8 + 8 + 8 * 10 + 10  # of that model: two linear layers, 8x8 pixels to 8 to 10 classes


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """As many as a machine of two has, on any; processes start from where PyTorch has been imported."""
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    monkeypatch.setattr(group, "cores", lambda: [HERE, HERE])
    monkeypatch.setattr(group, "start_method", server)
    for module in (scaling, ddp):
        monkeypatch.setattr(module, "CHUNK_SECONDS", 0.05)
    monkeypatch.setattr(scaling, "ROUND_SECONDS", 0.05)
    multiprocessing.forkserver.ensure_running()  # before it is counted, and its socket's folder
    fresh_process()
    yield
    fresh_process()


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """run(*options) -> (exit code, standard output, standard error, bench.json or None)."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def run_bench(*options: str) -> tuple[int, str, str, dict | None]:
        with pytest.raises(SystemExit) as ended:
            bench.main([*TINY, "--output-dir", str(tmp_path / "out"), *options])
        written = tmp_path / "out" / "bench.json"
        content = json.loads(written.read_text(), parse_constant=pytest.fail) if written.exists() else None
        assert not multiprocessing.active_children()
        assert not list((tmp_path / "temporary").glob("bench-*"))
        return ended.value.code or 0, *capsys.readouterr(), content

    return run_bench


def test_two_processes_train_and_it_is_said_where_their_speed_goes(run, tmp_path):
    code, out, err, content = run("--what", "scaling", "--bandwidth", "25")
    assert code == 0, err
    (section,) = content["benches"]
    rows = {row["variant"]: row for row in section["rows"]}
    assert {name: row["images_per_call"] for name, row in rows.items()} == {
        "1 process": 4,
        "2 processes, weak": 8,
        "2 processes, strong": 4,
        "4 processes, weak": 16,
        "4 processes, strong": 4,
    }
    assert out.count("not run: it needs 4 cores, and there are 2") == 2
    for name, parts in section["parts"].items():
        step, *others = parts["milliseconds_of_a_step"].values()
        assert sum(others) == pytest.approx(step)
        share = {"1 process": 1, "2 processes, weak": 1, "2 processes, strong": 1 / 2}[name]
        ratios = [share * a / b for a, b in zip(rows["1 process"]["seconds"], rows[name]["seconds"], strict=True)]
        assert parts["efficiency"]["median"] == pytest.approx(sum(ratios) / 2)
        assert step == pytest.approx(1000 * sum(rows[name]["seconds"]) / 2)
    assert section["exchanged"] == {"gradient_bytes": 4 * WEIGHTS, "buffer_bytes": 0}
    assert f"{4 * WEIGHTS:,} bytes of gradients" in out
    measured = prediction.Measured(**section["predicted"]["from"])
    entry = section["predicted"]["table"][-1]
    assert (entry["gbit_per_second"], entry["scaling"], entry["nodes"]) == (25, "strong", 32)
    assert entry["efficiency"] == prediction.strong(measured, 32, 25e9)._asdict()
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_change_no_bit_are_told_from_those_that_round(run):
    code, out, err, content = run("--what", "ddp", "--rounds", "1")
    assert code == 0, err
    rows = {row["variant"]: row for row in content["benches"][0]["rows"]}
    differences = {name: row["difference"] for name, row in rows.items() if row["difference"] is not None}
    assert {*differences} == {*ddp.SETTINGS}
    assert 0 < differences.pop("bf16_compress_hook") < 0.1
    assert {*differences.values()} == {0.0}, out


def test_bytes_are_those_of_the_gradients_and_of_the_statistics_that_are_all_reduced(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].weight.requires_grad = False
    gradients, all_reduced = 4 * (4 + 2 * 4 + 4 * 2 + 2), []
    all_reduce = torch.distributed.all_reduce

    def counted(flat: torch.Tensor) -> None:
        all_reduced.append(flat.nbytes)
        all_reduce(flat)

    monkeypatch.setattr(torch.distributed, "all_reduce", counted)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        wrapped(torch.ones(5, 3)).sum().backward()
        reduced = wrapped._get_ddp_logging_data()["bucket_sizes"]
        average_statistics(running_statistics(wrapped), 2)
        assert exchanged(wrapped) == (sum(map(int, reduced.split(","))), *all_reduced) == (gradients, 8 * 2 * 4)
    finally:
        torch.distributed.destroy_process_group()


def test_predictions_are_those_of_a_ring_computed_by_hand():
    # A megabyte at 1 Gbit/s on 4 nodes: 6 times 2 ms for a quarter of it, and 6 times 0.1 ms.
    assert prediction.ring_seconds(4, 1_000_000, 1e9, 1e-4) == pytest.approx(0.0126)
    assert prediction.bandwidth_of(4, 1_000_000, 0.0126, 1e-4) == pytest.approx(1e9)
    # 100 ms for the whole batch and 60 ms for its half: 20 ms and 80 ms for the batch.
    assert prediction.fixed_seconds(0.1, 0.06, 2) == pytest.approx(0.02)
    assert [prediction.fixed_seconds(0.1, part, 2) for part in (0.04, 0.2)] == [0, 0.1]
    measured = prediction.Measured(step=0.1, backward=0.01, fixed=0.02, gradient_bytes=1_000_000, latency=1e-4)
    assert prediction.weak(measured, 4, 1e9) == pytest.approx((0.1 / 0.1126, 0.1 / 0.1026))
    # A quarter of the batch takes 40 ms, 4 of which are the backward pass; 25 ms would be all that it should.
    assert prediction.strong(measured, 4, 1e9) == pytest.approx((0.025 / 0.0526, 0.025 / 0.0486))
    assert prediction.weak(measured._replace(backward=0.05), 4, 1e9).overlapped == 1


def test_a_process_that_is_killed_is_one_line_and_takes_the_others_with_it():
    args = replace(parse_bench(TINY), what=["scaling"])
    with (
        pytest.raises(RunFailed, match=r"one of 2 processes was killed \(SIGKILL\)"),
        Group([HERE, HERE], args, train.begin, train.steps) as two,
    ):
        os.kill(two.processes[1].pid, signal.SIGKILL)
        two.ask("all_reduce", 4, 1)
    assert not any(process.is_alive() for process in two.processes)


def _exchange(under_way: str) -> None:
    """All-reduces without end."""
    group.start_method = multiprocessing.get_context("fork")  # PyTorch is there, and has done nothing
    with Group([HERE, HERE], parse_bench(TINY), train.begin, train.steps) as two:
        Path(under_way).mkdir()
        two.ask("all_reduce", 4, 10**12)


def kill(pid: int, processes: int, is_under_way: Callable[[], bool], before: set[psutil.Process]) -> None:
    """SIGKILL a process that has started so many others, once it is under way; they end, too."""
    killed, started = psutil.Process(pid), time.monotonic()
    while not is_under_way():
        assert killed.is_running() and time.monotonic() - started < HANGS
        time.sleep(0.1)
    others = {*psutil.Process().children(recursive=True)} - before - {killed}
    assert len(others) >= processes
    killed.kill()
    assert not psutil.wait_procs(others, timeout=HANGS)[1]


def test_no_process_waits_for_others_when_what_started_them_is_killed(tmp_path):
    under_way, before = tmp_path / "under way", {*psutil.Process().children(recursive=True)}
    starter = server.Process(target=_exchange, args=(str(under_way),))
    starter.start()
    kill(starter.pid, 2, under_way.exists, before)


@pytest.mark.slow
def test_no_process_outlives_a_bench_that_is_killed(tmp_path):
    options = [*TINY, "--what", "scaling", "--rounds", "50", "--output-dir", str(tmp_path)]
    code = f"import bench; from benches import group; group.cores = lambda: [{HERE}] * 2; bench.main({options})"
    before = {*psutil.Process().children(recursive=True)}
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    started = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment)
    # The folders of its runs are there when all are under way: of one process and, weak and strong, of two.
    kill(started.pid, 3, lambda: len(list(tmp_path.glob("bench-*/*/*"))) == 3, before)


@pytest.mark.parametrize(
    ("cores", "options", "says"),
    [
        (1, "", "scaling and ddp compare processes on a core each, and there is 1: leave them out"),
        (2, "--processes 1 4", "--processes 1 4: give at least 2 and at most the 2 cores there are"),
        (2, "--batch-sizes 5", "--batch-sizes 5: does not divide among 2 processes"),
        (2, "--bandwidth 0", "0 is out of range"),
    ],
)
@pytest.mark.parametrize("what", ["scaling", "ddp"])
def test_what_cannot_be_compared_is_refused_in_one_line(run, tmp_path, monkeypatch, what, cores, options, says):
    monkeypatch.setattr(group, "cores", lambda: [HERE] * cores)
    code, out, err, content = run("--what", what, *options.split())
    assert (code, out, err.count("\n"), content) == (2, "", 1, None)
    assert err.startswith("error: ") and says in err


def test_benches_that_need_the_machine_to_themselves_run_on_request_alone():
    assert not {*parse_bench([]).what} & {"scaling", "ddp"}


def test_processes_get_a_physical_core_each(monkeypatch):
    monkeypatch.undo()
    found = group.cores()
    assert len({*found}) == len(found) <= len(os.sched_getaffinity(0))
