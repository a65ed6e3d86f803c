"""How many photos a second live decoding brings to the GPU: alone, and while a ResNet-50 is trained on them."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benches.decode import cache_in, write_photos
from data.augment.boxes import RandomCrop
from data.dataset import Subset, load_images
from data.loader import TrainSampler, train_loader
from tests.gpu.options import REPOSITORY, Options

SECONDS = 4.0
EPOCHS = 6  # of which the first two, in which workers start and the GPU's kernels are chosen, do not count
TINY = "--cpu --model cnn --model-arg width=2 --image-size 24 --batch-size 8".split()
FULL = "--model timm/resnet50 --image-size 224 --batch-size 128".split()


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """Images/s for some numbers of workers, on the device, where a model would take them; then of two runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count, side, batch, seconds = (40, 24, 2, 0.1) if options.dry_run else (4096, 224, 128, SECONDS)
    root = Path(options.scratch) / "photos"
    size = write_photos(root, count)
    with cache_in(Path(options.scratch)):
        data = load_images(str(root), image_size=side, val_fraction=0, decode="live")
        for workers in [2] if options.dry_run else sorted({1, max(1, cores // 2), cores}):
            rate = images_per_second(data.train, workers, batch, options.device, seconds)
            title = f"500x400 JPEG of {size // 1000} kB to {side}"
            record({"decoding": title, "workers": workers, "cores": cores, "images_per_second": rate})
        for way in ("live", "cache"):
            record(trained(options, root, way))


def images_per_second(part: Subset, workers: int, batch: int, device: torch.device, seconds: float) -> float:
    """Images that reach the device in a second, after the first batches of all workers."""
    sampler = TrainSampler(part.ids, 0, 0, 10**6, batch, 1, 0, 1)
    crop = RandomCrop(seed=0, stream=0, least=0.08, ratio=4 / 3)
    batches = iter(train_loader(part, sampler, workers, device.type == "cuda", crop))
    for _ in range(2 * workers):
        next(batches).to(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        count += len(next(batches).to(device).ids)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return count / (time.perf_counter() - start)


def trained(options: Options, root: Path, way: str) -> dict:
    """Images a second of a run of train.py that decodes in one `way` or the other."""
    command = [sys.executable, "train.py", "--dataset", str(root), "--decode", way, "--augment", "rrc,flip"]
    command += [*(TINY if options.dry_run else FULL), "--epochs", str(EPOCHS), "--val-fraction", "0.1"]
    command += ["--track", "none", "--output-dir", options.scratch, "--run-name", way]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if process.returncode:
        return {"run": f"--decode {way}", "failed": (process.stdout + process.stderr).splitlines()[-20:]}
    content = json.loads((Path(options.scratch) / way / "train.json").read_text(encoding="utf-8"))
    rates = [epoch["images_per_second"] for epoch in content["epochs"][2:]]
    return {"run": f"--decode {way}", "images_per_second": statistics.median(rates), "of_each_epoch": rates}
