"""A run imports what it does not need at its first step later, out of the way; its threads know how to wait."""

import os
import subprocess
import sys

import pytest

from common.openmp import SPINS
from tests.conftest import REPOSITORY
from tests.driver import HANGS

PROGRAM = """
import sys
import train

class FirstStep(Exception):
    pass

def first_step(run):
    next(steps(run))
    raise FirstStep

steps, train.steps = train.steps, first_step
for more in ("--optimizer sgd", "--optimizer adamw --ema 0.9", "--optimizer muon --augment flip,mixup"):
    options = "--cpu --track none --model cnn --model-arg width=8 --limit-train 64 --batch-size 32 --epochs 1"
    try:
        train.main([*options.split(), *more.split(), "--output-dir", sys.argv[1]])
    except FirstStep:
        pass
for name in ("torch._dynamo", "torch.distributed.tensor", "matplotlib", "tensorboard", "sklearn.metrics"):
    print("at the first step:", name, name in sys.modules)

from engine import final_test

def no_report(run):
    if run.imports is not None:
        run.imports.join()
    thread = "no thread" if run.imports is None else "a thread"
    imported = all(name in sys.modules for name in run.task.report_modules)
    print(f"at the report, {epochs}: {thread}, all is imported {imported}")

train.steps, final_test.report_run = steps, no_report
for epochs in ("1 epoch", "2 epochs"):
    train.main([*options.split(), "--epochs", epochs[0], "--output-dir", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def first_steps(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "TORCH_LOGS")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("runs"))],
        cwd=REPOSITORY,
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=True,
    )


def said(first_steps: subprocess.CompletedProcess, begins: str) -> list[str]:
    """What the program said behind these words, in lines of its own."""
    return [line.removeprefix(begins) for line in first_steps.stdout.splitlines() if line.startswith(begins)]


# Each takes a second or more.
def test_the_compiler_pictures_and_measures_of_the_report_are_not_imported_before_the_first_step(first_steps) -> None:
    assert said(first_steps, "at the first step: ") == [
        "torch._dynamo False",
        "torch.distributed.tensor False",
        "matplotlib False",
        "tensorboard False",
        "sklearn.metrics False",
    ]


def test_what_the_report_needs_is_imported_by_a_thread_in_the_last_epoch_of_several(first_steps) -> None:
    assert said(first_steps, "at the report, 1 epoch: ") == ["no thread, all is imported False"]
    assert said(first_steps, "at the report, 2 epochs: ") == ["a thread, all is imported True"]


def test_openmp_itself_says_that_threads_soon_sleep_where_they_wait(first_steps) -> None:
    if "GOMP_" not in first_steps.stderr:
        pytest.skip("NOT TESTED: PyTorch computes here by another OpenMP than libgomp")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in first_steps.stderr


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_environment_says_of_waiting_is_kept(name: str) -> None:
    program = (
        "import os; from common.openmp import wait_briefly; wait_briefly(); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | {name: "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ("7\n" if name == "GOMP_SPINCOUNT" else "None\n")
