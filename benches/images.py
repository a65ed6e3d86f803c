"""Made-up images: what is timed must not depend on a download, and their pixels do not matter."""

import numpy as np

from data.arrays import Arrays
from data.dataset import DataSplits, Subset

NUM_CLASSES = 10
ROWS = 50_000  # CIFAR's, so that a gather finds as little in the processor's caches as it does there
MOST_BYTES = 2**28


def make_images(side: int, channels: int, epoch_length: int = ROWS) -> DataSplits:
    """A training part of `epoch_length` random images, without validation and test.

    There are up to 50,000 different ones, fewer where they would take over 256 MiB; a longer epoch repeats them.
    """
    generator = np.random.default_rng(0)
    rows = max(1, min(ROWS, MOST_BYTES // (side * side * channels), epoch_length))
    images = generator.integers(0, 256, (rows, side, side, channels), dtype=np.uint8)
    labels = generator.integers(0, NUM_CLASSES, rows)
    arrays = Arrays(images, labels, np.arange(rows, dtype=np.uint64), np.zeros((rows, channels, 2)))
    ids = np.arange(epoch_length) * rows // epoch_length
    return DataSplits(
        name="made-up",
        train=Subset(arrays, ids),
        val=Subset(arrays, ids[:0]),
        test=Subset(arrays, ids[:0]),
        class_names=[str(label) for label in range(NUM_CLASSES)],
        shape=(side, side, channels),
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )
