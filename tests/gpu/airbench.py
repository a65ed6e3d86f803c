"""Runs airbench94_muon.py, whose code is not ours: python -m tests.gpu.airbench FILE SCRATCH RUNS DATA_DIR DEVICE.

The last line printed is JSON: test accuracies (with test-time augmentation), the seconds of training that the script
itself counts, and the seconds from this process's start to the end of the first run, with compilation and warm-up.
"""

import contextlib
import importlib.util
import io
import json
import os
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import torch

from data.dataset import Subset, load_images


def main() -> None:
    """Train `RUNS` times with one compiled model, as the script's own `__main__` does 200 times."""
    path, scratch, runs, data_dir, device = sys.argv[1:]
    sys.argv = [path]  # whose code the script reads, to log it
    os.chdir(scratch)
    save_images(data_dir or None, device)
    script = load(path)
    model = script.CifarNet().to(device).to(memory_format=torch.channels_last)
    model.compile(mode="max-autotune")
    accuracies, seconds = [], []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        script.main("warmup", model)
        for run in range(int(runs)):
            accuracies.append(script.main(run, model))
            if run == 0:
                process_seconds = time.time() - psutil.Process().create_time()
            seconds.append(training_seconds(printed.getvalue()))
    found = {
        "n": len(accuracies),
        "mean_test_accuracy": statistics.mean(accuracies),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "median_training_seconds": statistics.median(seconds),
        "process_seconds_of_the_first": process_seconds,
    }
    print(json.dumps(found))


def load(path: str) -> ModuleType:
    """The script as a module, its `__main__` not run."""
    spec = importlib.util.spec_from_file_location("airbench94_muon", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_images(data_dir: str | None, device: str) -> None:
    """Write cifar10/train.pt and cifar10/test.pt, which the script would else download; digits on a CPU."""
    if device == "cpu":
        data = load_images("digits", image_size=32, val_fraction=0)
    else:
        data = load_images("cifar10", data_dir=data_dir, val_fraction=0)
    Path("cifar10").mkdir()
    for name, part in (("train", data.train), ("test", data.test)):
        torch.save(as_tensors(part, data.class_names), f"cifar10/{name}.pt")


def as_tensors(part: Subset, class_names: list[str]) -> dict:
    """Images uint8 (N, 32, 32, C), labels int64 (N,) and class names, under the names that the script reads."""
    rows = part.ids
    images, labels = torch.from_numpy(part.arrays.images[rows]), torch.from_numpy(part.arrays.labels[rows])
    return {"images": images, "labels": labels, "classes": class_names}


def training_seconds(printed: str) -> float:
    """Seconds of the last run, from the last table row of its evaluation."""
    row = [line for line in printed.splitlines() if " eval " in line][-1]
    return float(row.strip("| ").split("|")[-1])


if __name__ == "__main__":
    main()
