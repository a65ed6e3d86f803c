"""Work on many images at once; threads serve as well as processes, as Pillow lets others run while it decodes."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from common.progress import track


def in_threads(function: Callable, length: int, rows_at_once: int, title: str) -> Iterator:
    """Results of `function` for one range of rows after another, in order; few of them wait at a time."""
    threads = os.cpu_count() or 1
    ranges = [range(start, min(start + rows_at_once, length)) for start in range(0, length, rows_at_once)]
    with ThreadPoolExecutor(threads) as pool:
        several = (ranges[first : first + 8 * threads] for first in range(0, len(ranges), 8 * threads))
        results = (result for some in several for result in pool.map(function, some))
        yield from track(results, title, len(ranges))
