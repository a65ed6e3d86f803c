"""cifar10_94 with five seeds, each a whole process, beside the record script that its network is from."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.gpu.options import REPOSITORY, Options

SEEDS = 5
# What makes a run tiny enough for a dry run, and of images that come with scikit-learn.
TINY = "--cpu --dataset digits --image-size 32 --epochs 1 --batch-size 100 --limit-train 200 --val-fraction 0".split()


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """Ours, seed by seed; then the record script; then ours compiled."""
    runs = []
    for seed in range(1 if options.dry_run else SEEDS):
        runs.append(run_recipe(options, "cifar10_94", seed, "--model-arg", "width=8"))
        record(runs[-1])
    finished = [run for run in runs if "test_accuracy" in run]
    if finished:
        record(summary(finished))
    if options.airbench:
        record(run_airbench(options))
    if not options.dry_run:
        record(run_recipe(options, "cifar10_94", 0, more=["--compile"]))


def summary(runs: list[dict]) -> dict:
    """Mean, spread and seconds of several runs of one recipe."""
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "summary": runs[0]["run"],
        "n": len(runs),
        "mean_test_accuracy": statistics.mean(accuracies),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "median_training_seconds": statistics.median(run["training_seconds"] for run in runs),
        "median_process_seconds": statistics.median(run["process_seconds"] for run in runs),
    }


def run_recipe(options: Options, recipe: str, seed: int, *tiny: str, more: list[str] | None = None) -> dict:
    """Train a recipe as a user would, in a process of its own.

    Args:
        options: of the parts.
        recipe: its name.
        seed: of the run.
        tiny: options that make the recipe's model small, in a dry run.
        more: options of train.py.

    Returns:
        Test accuracy, seconds of training (without imports, validation and report) and seconds of the whole process;
        what it printed last where it failed.
    """
    name = "-".join([recipe, str(seed), *(more or [])])
    command = [sys.executable, "train.py", "--recipe", recipe, "--seed", str(seed), "--track", "none"]
    command += ["--output-dir", options.scratch, "--run-name", name, *(more or [])]
    if options.dry_run:
        command += [*TINY, *tiny]
    elif options.data_dir:
        command += ["--data-dir", options.data_dir]
    start = time.monotonic()
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if process.returncode:
        return {"run": recipe, "seed": seed, "failed": (process.stdout + process.stderr).splitlines()[-20:]}
    folder = Path(options.scratch) / name
    epochs = json.loads((folder / "train.json").read_text(encoding="utf-8"))["epochs"]
    return {
        "run": " ".join([recipe, *(more or [])]),
        "seed": seed,
        "test_accuracy": json.loads((folder / "test.json").read_text(encoding="utf-8"))["accuracy"],
        "training_seconds": sum(epoch["seconds"] for epoch in epochs),
        "first_epoch_seconds": epochs[0]["seconds"],
        "process_seconds": seconds,
    }


def run_airbench(options: Options) -> dict:
    """Run the record script on the same images; what it measures itself, and its first run as a whole process."""
    runs = "1" if options.dry_run else str(SEEDS)
    command = [sys.executable, "-m", "tests.gpu.airbench", options.airbench, options.scratch, runs]
    command += [options.data_dir or "", str(options.device)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if process.returncode:
        return {"run": "airbench94_muon.py", "failed": (process.stdout + process.stderr).splitlines()[-20:]}
    return {"run": "airbench94_muon.py", **json.loads(process.stdout.splitlines()[-1])}
