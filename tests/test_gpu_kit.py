"""What `make test-gpu` does on a GPU goes through on a CPU, tiny: every part, and a part that takes too long is cut."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.gpu.__main__ import PARTS

REPOSITORY = Path(__file__).resolve().parent.parent
# Stands in for the record script, whose code is not ours: the same names, and the table that it prints.
AIRBENCH = """
import torch
class CifarNet(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
    def compile(self, mode):
        assert mode == "max-autotune"
def main(run, model):
    for split, least in (("train", 1000), ("test", 300)):
        data = torch.load(f"cifar10/{split}.pt")
        assert data["images"].shape[1:3] == (32, 32) and len(data["images"]) == len(data["labels"]) > least
    print("|  %s  |     eval  |             |           |     0.9401  |        2.5900  |" % run)
    return 0.9401
"""


def run_kit(folder: Path, *options: str) -> tuple[int, str, dict[str, dict]]:
    """(exit code, what was printed, the JSON of each part) of a dry run."""
    command = [sys.executable, "-m", "tests.gpu", "--dry-run", "--output-dir", str(folder), *options]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout, {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.slow
def test_every_part_goes_through_and_leaves_what_it_measured(tmp_path: Path) -> None:
    (tmp_path / "airbench94_muon.py").write_text(AIRBENCH)
    options = "--jobs", "2", "--airbench", str(tmp_path / "airbench94_muon.py")
    code, printed, parts = run_kit(tmp_path / "out", *options)
    assert code == 0, printed
    assert set(parts) == {part.module for part in PARTS}
    assert all(part["status"] == "done" and part["dry_run"] and part["machine"]["torch"] for part in parts.values())

    outcomes = {row["test"]: row["outcome"] for row in parts["checks"]["measured"]}
    assert set(outcomes.values()) == {"passed", "skipped"}
    assert outcomes["test_killed_and_resumed_equals_uninterrupted[no]"] == "passed"

    ours, mean, record = parts["records"]["measured"]
    assert 0 < ours["training_seconds"] < ours["process_seconds"]
    assert mean["mean_test_accuracy"] == ours["test_accuracy"] and mean["n"] == 1
    assert (record["mean_test_accuracy"], record["median_training_seconds"]) == (0.9401, 2.59)
    (recipe,) = parts["recipes"]["measured"]
    assert recipe["run"] == "cifar10_97" and 0 <= recipe["test_accuracy"] <= 1

    ratio, waits = parts["loop"]["measured"]
    assert ratio["ratio"]["median"] > 0
    assert len(waits["waits_of_each_step"]) == waits["profiled_steps"] == 9
    assert all(count > 0 for count in waits["waits_of_each_step"]), "a CPU looks at every step, which shows as waits"

    modes = {(row["bench"].split(":")[0], row["mode"].split(",")[0]): row for row in parts["modes"]["measured"]}
    for what in ("forward", "train"):
        assert modes[what, "torch.export"]["images_per_second"] > 0
        assert modes[what, "CUDA graphs"]["not_run"] == "CUDA graphs need a CUDA GPU"
    assert parts["decoding"]["measured"][0]["images_per_second"] > 0


def processes_of(folder: Path) -> list[int]:
    found = psutil.process_iter(["pid", "cmdline"])
    return [process.pid for process in found if str(folder) in " ".join(process.info["cmdline"] or [])]


def test_a_part_that_takes_too_long_is_ended_with_its_processes(tmp_path: Path) -> None:
    code, printed, parts = run_kit(tmp_path, "--parts", "records", "decoding", "--budget", "5")
    assert code == 1, printed
    assert [parts[name]["status"] for name in ("records", "decoding")] == ["cut off", "cut off"]
    assert not processes_of(tmp_path)


def test_parts_end_with_the_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--dry-run", "--output-dir", str(tmp_path), "--parts", "records"]
    driver = subprocess.Popen(command, cwd=REPOSITORY)
    while len(processes_of(tmp_path)) < 2:
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 120
    while processes_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
