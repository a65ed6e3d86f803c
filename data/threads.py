"""Work on many images at once; threads serve as well as processes, as Pillow lets others run while it decodes."""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from common.progress import track


def in_threads(function: Callable, length: int, rows_at_once: int, title: str) -> Iterator:
    """Results of `function` for one range of rows after another, in order; few of them wait at a time."""
    threads = os.cpu_count() or 1
    ranges = [range(start, min(start + rows_at_once, length)) for start in range(0, length, rows_at_once)]
    with ThreadPoolExecutor(threads) as pool:
        several = (ranges[first : first + 8 * threads] for first in range(0, len(ranges), 8 * threads))
        results = (result for some in several for result in pool.map(function, some))
        yield from track(results, title, len(ranges))


def of_a_batch(work: Callable[[int], object], length: int) -> list:
    """`work` for 0..length-1, the images of a batch, by as many threads as this process computes with.

    What Pillow warns of is silenced: it is harmless, or `work` tells it.
    """
    threads = torch.get_num_threads()  # one in a worker, which is one of several
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if threads == 1:
            return list(map(work, range(length)))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, range(length)))
