"""How many photos a second this machine can decode for a GPU: JPEGs of 500x400 pixels to 224, in worker processes."""

import io
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data.decode import open_image, to_array
from tests.gpu.options import Options

SECONDS = 5.0
DIFFERENT = 64  # photos; what a decoder does depends little on which


class Photos(Dataset):
    """Encoded photos, decoded when they are asked for, without end: uint8 (side, side, 3)."""

    def __init__(self, width: int, height: int, side: int) -> None:
        generator = np.random.default_rng(0)
        self.side = side
        self.encoded = [_photo(generator, width, height) for _ in range(DIFFERENT)]

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, number: int) -> torch.Tensor:
        with open_image({"bytes": self.encoded[number % DIFFERENT], "path": None}) as image:
            return torch.from_numpy(to_array(image, 3, (self.side, self.side)).copy())


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """Images/s for some numbers of workers, on the device, where a model would take them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    width, height, side, batch, seconds = (50, 40, 24, 2, 0.1) if options.dry_run else (500, 400, 224, 128, SECONDS)
    photos = Photos(width, height, side)
    for workers in [2] if options.dry_run else sorted({1, max(1, cores // 2), cores}):
        rate = images_per_second(photos, workers, batch, options.device, seconds)
        title = f"{width}x{height} JPEG to {side}"
        record({"decoding": title, "workers": workers, "cores": cores, "images_per_second": rate})


def images_per_second(photos: Dataset, workers: int, batch: int, device: torch.device, seconds: float) -> float:
    """Images that reach the device in a second, after the first batches of all workers."""
    pinned = device.type == "cuda"
    loader = DataLoader(photos, batch_size=batch, num_workers=workers, pin_memory=pinned, prefetch_factor=4)
    batches = iter(loader)
    for _ in range(2 * workers):
        next(batches).to(device, non_blocking=True)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        count += len(next(batches).to(device, non_blocking=True))
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return count / (time.perf_counter() - start)


def _photo(generator: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG with coarse and fine detail, about as large as a camera's of that size at quality 90."""
    coarse = Image.fromarray(generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += generator.integers(-8, 9, pixels.shape, dtype=np.int16)
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()
