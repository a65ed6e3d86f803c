"""train.main called as a function, as in a notebook: each call is a run of its own and returns its figures."""

import json
import logging
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
from accelerate import Accelerator

import train
from engine.runtime.signals import StopRequest
from tests.conftest import fresh_process

TINY = "--cpu --dataset digits --model mlp --track none --epochs 1 --limit-train 320 --output-dir".split()
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def read(path: str) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def hooks() -> list[object]:
    """What others in this process may have set, and go on with after a run."""
    signal.set_wakeup_fd(wakeup := signal.set_wakeup_fd(-1))
    logs = logging.getLogRecordFactory(), list(logging.getLogger().handlers), logging.getLogger().level
    fails = sys.excepthook, threading.excepthook, warnings.showwarning
    torchs = torch.get_default_dtype(), torch.distributed.is_initialized()
    return [[signal.getsignal(number) for number in SIGNALS], wakeup, *logs, *fails, *torchs, sys.stdout, sys.stderr]


@pytest.mark.parametrize(
    ("options", "code"),
    [("--max-time 0.01s", 0), ("--lr 1e30 --mixed-precision no", 1), ("--batch-size 100000000", 2)],
    ids=["stopped", "not-finite", "refused"],
)
def test_a_run_that_ends_early_leaves_the_process_as_it_was(tmp_path: Path, options: str, code: int) -> None:
    fresh_process()
    before = hooks()
    with pytest.raises(SystemExit) as ended:
        train.main([*TINY, str(tmp_path), "--run-name", "run", *options.split()])
    assert ended.value.code == code
    assert hooks() == before


def test_a_second_call_has_precision_and_compilation_of_its_own_and_leaves_the_process_as_it_was(
    tmp_path: Path,
) -> None:
    fresh_process()
    before = hooks()
    torch._dynamo.utils.counters.clear()
    wishes = {"no": ("--deterministic",), "bf16": ("--compile",)}
    for precision, more in wishes.items():
        figures = train.main([*TINY, str(tmp_path), "--run-name", precision, "--mixed-precision", precision, *more])
        assert figures.pop("folder") == str(tmp_path / precision)
        assert figures == read(tmp_path / precision / "test.json")
        assert read(tmp_path / precision / "environment.json")["mixed_precision"] == precision
        assert torch.are_deterministic_algorithms_enabled() == ("--deterministic" in more)
        assert (torch._dynamo.utils.counters["frames"]["ok"] > 0) == ("--compile" in more)
        assert hooks() == before


def test_a_run_works_where_an_accelerator_of_another_precision_was_made_before(tmp_path: Path) -> None:
    fresh_process()
    Accelerator(cpu=True, mixed_precision="bf16")
    figures = train.main([*TINY, str(tmp_path), "--run-name", "run", "--mixed-precision", "no"])
    assert figures["samples"] == 359
    assert read(tmp_path / "run" / "environment.json")["mixed_precision"] == "no"


def test_several_runs_return_the_figures_of_each(tmp_path: Path) -> None:
    fresh_process()
    again = [*TINY, str(tmp_path), "--run-name", "group", "--seeds", "0,1", "--resume", "auto"]
    for _ in range(2):  # trained, then read
        figures = train.main(again)
        assert figures["folder"] == str(tmp_path / "group")
        assert list(figures["runs"]) == ["seed-0", "seed-1"]
        for name, run in figures["runs"].items():
            assert run == {**read(tmp_path / "group" / name / "test.json"), "folder": str(tmp_path / "group" / name)}


def test_max_time_counts_from_the_beginning_of_the_call() -> None:
    now = time.monotonic()
    accelerator = Accelerator(cpu=True)
    assert StopRequest(3600, began=now).exit_code_on_all_ranks(accelerator) is None
    assert StopRequest(3600, began=now - 3601).exit_code_on_all_ranks(accelerator) == 0
    assert StopRequest(None, began=now - 10**9).exit_code_on_all_ranks(accelerator) is None
