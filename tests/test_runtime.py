"""Threads, precision and randomness are as documented, and processes that would train alone do not start."""

import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from common.devices import widest_float
from common.errors import UserError
from engine.runtime import hardware
from engine.runtime.accelerator import check_processes, seed_step
from tests.driver import HANGS

ROOT = Path(__file__).parent.parent
LAUNCH_VARIABLES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OF_MPI = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No launcher has been here."""
    for name in list(os.environ):
        if name in (*LAUNCH_VARIABLES, *OF_MPI, "OMP_NUM_THREADS") or name.startswith("ACCELERATE_"):
            monkeypatch.delenv(name)


def usable_cores():
    """The physical cores that this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


@pytest.mark.parametrize("omp", (None, "1", "4", "junk"))
@pytest.mark.parametrize("processes", (None, 1, 2))
def test_processes_share_the_cores_unless_the_user_says_how_many_threads(monkeypatch, omp, processes):
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical: 8 if not logical else 16)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert hardware.threads_per_process() == (4 if omp == "4" else 8 // (processes or 1))


@pytest.mark.parametrize(("cores", "allowed", "processes", "expected"), ((8, 3, 1, 3), (2, 4, 4, 1), (None, 6, 2, 3)))
def test_threads_stay_within_the_cores_that_are_allowed(monkeypatch, cores, allowed, processes, expected):
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical: cores)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert hardware.threads_per_process() == expected


@pytest.mark.parametrize(
    ("wish", "launcher", "cpu_has_bf16", "expected"),
    (
        ("auto", None, True, "bf16"),
        ("auto", None, False, "no"),
        ("auto", "no", True, "bf16"),  # what accelerate launch says when nobody chose
        ("auto", "bf16", False, "bf16"),
        ("no", "bf16", True, "no"),  # what is typed wins
        ("bf16", "fp16", False, "bf16"),
        ("no", None, True, "no"),
    ),
)
def test_precision_on_a_cpu(monkeypatch, wish, launcher, cpu_has_bf16, expected):
    monkeypatch.setattr(hardware, "bf16_pays", lambda device: device == "cpu" and cpu_has_bf16)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert hardware.choose_precision(wish, cpu=True) == expected


@pytest.mark.parametrize(
    ("cpu", "amx", "avx512_bf16", "pays"),
    (
        ("Intel(R) Xeon(R) Platinum 8488C", True, True, True),
        ("Intel(R) Xeon(R) Processor", False, True, False),  # with AMX hidden: half of fp32's speed
        ("AMD EPYC 9B14", False, True, True),
        ("AMD EPYC 7B13", False, False, False),
    ),
)
def test_bf16_pays_on_cpus_that_multiply_faster_in_it(monkeypatch, cpu, amx, avx512_bf16, pays):
    monkeypatch.setattr(hardware, "cpu_name", lambda: cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert hardware.bf16_pays("cpu") is pays


@pytest.mark.parametrize(("wish", "launcher"), (("fp16", None), ("auto", "fp16"), ("fp16", "bf16")))
def test_fp16_on_a_cpu_is_refused(monkeypatch, wish, launcher):
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    with pytest.raises(UserError, match="fp16 does nothing on a CPU: give --mixed-precision bf16, no or auto"):
        hardware.choose_precision(wish, cpu=True)


@pytest.mark.parametrize(
    ("wish", "launcher", "has_bf16", "expected"),
    (
        ("auto", None, True, "bf16"),
        ("auto", None, False, "fp16"),  # such as Kaggle's T4, which only emulates bf16
        ("auto", "fp16", True, "fp16"),
        ("fp16", None, True, "fp16"),
        ("no", "fp16", True, "no"),
    ),
)
def test_precision_on_a_gpu(monkeypatch, wish, launcher, has_bf16, expected):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert hardware.choose_precision(wish, cpu=False) == expected


def test_weights_trained_in_fp16_are_used_on_a_cpu_in_what_it_can_compute():
    assert hardware.usable_precision("fp16", cpu=True) == "auto"
    assert hardware.usable_precision("bf16", cpu=True) == "bf16"
    assert hardware.usable_precision("no", cpu=True) == "no"


@pytest.mark.parametrize(
    ("device", "has_fp64", "expected"),
    [("cpu", None, torch.float64), ("cuda", None, torch.float64), ("mps", None, torch.float32)]
    + [("xpu", True, torch.float64), ("xpu", False, torch.float32)],
)
def test_metrics_are_summed_in_float64_where_the_device_has_it(monkeypatch, device, has_fp64, expected):
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: SimpleNamespace(has_fp64=has_fp64))
    assert widest_float(torch.device(device)) == expected


def test_randomness_is_a_function_of_seed_step_and_rank():
    def draw(seed, step, rank):
        seed_step(seed, step, rank, torch.device("cpu"))
        return torch.rand(4)

    torch.rand(3)
    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    places = list(itertools.product((0, 1, 2, 2**31 - 1), (0, 1, 2, 1000), (0, 1, 7)))
    assert len({tuple(draw(*place).tolist()) for place in places}) == len(places)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_memory_that_a_step_frees_costs_the_next_one_no_page_faults():
    program = """if True:
        import resource
        import torch
        from engine.runtime import hardware

        hardware.keep_freed_memory()
        for _ in range(8):  # the heap may grow once more until all finds its place
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            tensors = [torch.ones(mib * 2**18) for mib in (1, 40, 300)]
            del tensors
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 100, "of 87,000 pages"


def test_numbers_too_small_to_be_computed_with_at_full_speed_become_zero_on_every_thread():
    program = """if True:
        import torch
        from engine.runtime.accelerator import start_accelerator
        from options.train import parse_train

        start_accelerator(parse_train(["--cpu"]))
        torch.set_num_threads(2)
        small = torch.full((2**22,), 1e-39)
        print((small * 1).view(torch.int32).count_nonzero().item())
    """
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ended.stdout) == 0


def test_processes_that_would_each_train_alone_are_refused(monkeypatch):
    check_processes(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2)
    with pytest.raises(UserError, match="started 2 processes but 1 train together: each would train alone"):
        check_processes(1)


def run(*command, **variables):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )


def test_accelerate_launch_without_a_config_trains_on_all_cores(tmp_path):
    """It sets OMP_NUM_THREADS=1, which would leave all cores but one idle."""
    options = ["--dataset", "digits", "--epochs", "1", "--model", "mlp", "--track", "none", "--cpu"]
    options += ["--output-dir", str(tmp_path), "--run-name", "run"]
    launched = run("accelerate.commands.launch", "train.py", *options, HF_HOME=str(tmp_path))
    assert launched.returncode == 0, launched.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["threads_per_process"] == usable_cores()
    assert environment["num_processes"] == 1
    assert json.loads((tmp_path / "run" / "test.json").read_text())["samples"] == 359


def test_a_silent_single_process_ends_before_anything_is_written(tmp_path):
    """The real launcher: asked for two CPU processes, it starts one, and train.py says how it is done."""
    options = ["--track", "none", "--output-dir", str(tmp_path / "runs"), "--cpu"]
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "train.py", *options)
    launched = run(*launch, HF_HOME=str(tmp_path))
    assert launched.returncode != 0
    assert "torchrun --nproc-per-node 2 train.py --cpu" in launched.stderr
    assert not (tmp_path / "runs").exists()
