"""What a launcher asks for through the environment is an option of the run or is refused, and its death is told."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from common.errors import UserError
from engine.checkpoints import store
from engine.runtime import launcher
from options.train import parse_train
from tests.conftest import REPOSITORY, nobody_is_left
from tests.driver import HANGS

TINY = "--cpu --dataset digits --model mlp --track none --epochs 1 --limit-train 320".split()
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
MARKED = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_MODE": "default"}
MARKED |= {"ACCELERATE_DYNAMO_USE_FULLGRAPH": "False"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in launcher.WHOLE_NUMBERS or name.startswith(("ACCELERATE_", "SLURM_")) or name == "MASTER_ADDR":
            monkeypatch.delenv(name)


def started(command: list[str], folder: Path, *more: str, new_session: bool = False, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, "train.py", *TINY, "--output-dir", str(folder), "--run-name", "run", *more],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        start_new_session=new_session,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DeepSpeed, which is not supported: .*fsdp2.yaml"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "asks for Megatron-LM, which is not supported: .*fsdp2.yaml"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "asks for a parallelism_config, which is not supported"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK .*but not RANK and WORLD_SIZE and MASTER_ADDR.*: unset LOCAL_RANK"),
        ({"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK .*but not MASTER_ADDR"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun has started 4 processes that would each train alone: .*one torchrun"),
        ({"ACCELERATE_TORCH_DEVICE": "cuda"}, "ACCELERATE_TORCH_DEVICE=cuda in the environment would choose a device"),
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is .*but not RANK and MASTER_ADDR, .*: unset WORLD_SIZE, or start with torchrun",
        ),
        ({"RANK": "1"}, "RANK is in the environment but not WORLD_SIZE and MASTER_ADDR, .*: unset RANK"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many in the environment is no whole number"),
        ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU=maybe in the environment is neither true nor false"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(
    environment: dict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        launcher.check_environment()


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # the shell of a job, as salloc opens it
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "-1"},
        {"SLURM_STEP_NUM_TASKS": "2", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node0"},  # torchrun, by srun
    ],
)
def test_what_slurm_says_of_a_job_stops_no_run(environment: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launcher.check_environment()


def test_variables_that_are_set_but_empty_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launcher.WHOLE_NUMBERS, *launcher.FLAGS):
        monkeypatch.setenv(name, "")
    launcher.check_environment()
    assert not [name for name in (*launcher.WHOLE_NUMBERS, *launcher.FLAGS) if name in os.environ]


@pytest.mark.parametrize(
    ("environment", "typed", "taken"),
    [
        ({}, "", {"compile": False, "cpu": False, "accumulate": 1}),
        ({}, "--compile --cpu --accumulate 4", {"compile": True, "cpu": True, "accumulate": 4}),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "", {"compile": True}),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "--no-compile", {"compile": False}),
        ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, "--compile", {"compile": True}),
        ({"ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "max-autotune"}, "", {"compile": False}),
        ({"ACCELERATE_USE_CPU": "True"}, "", {"cpu": True}),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "--accumulate 4", {"accumulate": 4}),
    ],
)
def test_what_the_launcher_asks_for_is_an_option_of_the_run(
    environment: dict, typed: str, taken: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    args = parse_train(typed.split())
    args = launcher.with_options(args)
    assert {name: getattr(args, name) for name in taken} == taken


@pytest.mark.parametrize(
    ("environment", "typed", "says"),
    [
        ({"ACCELERATE_DYNAMO_BACKEND": "CUDAGRAPHS"}, "", "asks for dynamo_backend cudagraphs: leave it out"),
        ({"ACCELERATE_DYNAMO_MODE": "max-autotune"}, "--compile", "asks for dynamo_mode max-autotune"),
        ({"ACCELERATE_DYNAMO_USE_DYNAMIC": "True"}, "--compile", "asks for dynamo_use_dynamic"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "", "give --accumulate 4"),
    ],
)
def test_what_is_no_option_of_a_run_is_refused(
    environment: dict, typed: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        launcher.with_options(parse_train(typed.split()))


def test_a_precision_that_only_the_launcher_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(UserError, match=r"asks for mixed precision fp8, .*: give --mixed-precision no, fp16 or bf16"):
        launcher.wanted_precision()


@pytest.mark.slow
def test_the_launchers_compilation_and_precision_are_recorded_and_a_resume_compares_them(tmp_path: Path) -> None:
    asked = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_MIXED_PRECISION": "bf16"}
    first = started([sys.executable], tmp_path, new_session=True, **asked)  # as a service, or a notebook's kernel
    printed, _ = first.communicate(timeout=HANGS)
    assert first.returncode == 0, printed
    recorded = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert (recorded["compile"], recorded["mixed_precision"]) == (True, "bf16")
    again = started([sys.executable], tmp_path, "--resume", "auto", "--epochs", "2", "--mixed-precision", "no")
    printed, _ = again.communicate(timeout=HANGS)
    assert again.returncode == 2
    assert "--mixed-precision was bf16 and is no" in printed


def test_the_end_of_the_thread_that_started_a_run_is_not_the_launchers_death(tmp_path: Path) -> None:
    """Linux tells a child of the death of its parent's thread, not of its parent; as with a pool of threads."""
    runs = []

    def start_and_end() -> None:
        runs.append(started([sys.executable], tmp_path, "--epochs", "300", "--checkpoint-every", "1", **MARKED))
        while runs[0].poll() is None and not store.list_checkpoints(tmp_path / "run" / "checkpoints"):
            time.sleep(0.1)

    thread = threading.Thread(target=start_and_end)
    thread.start()
    thread.join(HANGS)
    time.sleep(1)
    assert runs[0].poll() is None, runs[0].stdout.read()
    runs[0].terminate()
    runs[0].wait(HANGS)


def test_an_address_that_a_job_script_exports_does_not_stop_one_process(tmp_path: Path) -> None:
    export = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    launched = started(LAUNCH, tmp_path, "--max-time", "0.01s", **export)
    printed, _ = launched.communicate(timeout=HANGS)
    assert launched.returncode == 0, printed
    assert "stopped at step 1 of" in printed


@pytest.mark.parametrize("when", ["while it imports", "while it trains"])
def test_the_run_ends_with_its_launcher_and_says_so(tmp_path: Path, when: str) -> None:
    launched = started(LAUNCH, tmp_path, "--epochs", "100000", new_session=True)
    process = psutil.Process(launched.pid)
    found = []
    while not found and launched.poll() is None:
        time.sleep(0.05)
        # A process that is to become another one has the launcher's command line until then.
        found = [child for child in process.children() if child.cmdline()[1:2] == ["train.py"]]
    while when == "while it trains" and not (tmp_path / "run" / "train.json").exists() and launched.poll() is None:
        time.sleep(0.1)
    launched.kill()
    printed, _ = launched.communicate(timeout=HANGS)  # until the child has closed its output, too
    assert nobody_is_left(launched)  # which takes a moment more
    if when == "while it trains":
        assert "stopped at step" in printed
        assert store.newest_intact(tmp_path / "run" / "checkpoints") is not None
    else:
        assert "error: the accelerate launch that started this process has ended: stopping" in printed
        assert not (tmp_path / "run").exists()
