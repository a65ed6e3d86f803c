"""How long calls take: warmed up apart, in interleaved rounds, waiting for the device before the clock is read."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter as clock

import psutil
import torch

from benches.budget import UNLIMITED, Budget
from common import console

try:
    import resource
except ImportError:  # Windows
    resource = None

WARM_UP_CALLS = 3
ROUND_SECONDS = 0.25
MOST_CALLS = 50


@dataclass(frozen=True)
class Timing:
    """What was measured of one variant.

    Attributes:
        seconds: of one call, the mean over a round, for each round.
        calls: of a round.
        peak_memory: most bytes held on the accelerator in a round; None on a CPU, where the whole process's alone is
            known.
    """

    seconds: list[float]
    calls: int
    peak_memory: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def warm_up(call: Callable[[], object], device: torch.device, budget: Budget = UNLIMITED) -> float:
    """Call until compilers, profilers and allocators have done their work; seconds that the last call took.

    Once is enough where the time for it is over.
    """
    console.status("warming up")
    seconds = 0.0
    for _ in range(WARM_UP_CALLS):
        synchronize(device)
        start = clock()
        call()
        synchronize(device)
        seconds = clock() - start
        if not budget.may_prepare():
            break
    return seconds


def warmed_up(
    calls: Mapping[str, Callable[[], object]], device: torch.device, budget: Budget
) -> dict[str, tuple[Callable[[], object], int]]:
    """What `interleave` takes: each call, warmed up, and how many of it fill a round."""
    return {name: (call, calls_for(warm_up(call, device, budget))) for name, call in calls.items()}


def calls_for(seconds: float, round_seconds: float = ROUND_SECONDS, most: int = MOST_CALLS) -> int:
    """How many calls of so many seconds fill a round, 1 to `most`."""
    return max(1, min(most, round(round_seconds / max(seconds, 1e-9))))


def interleave(
    variants: dict[str, tuple[Callable[[], object], int]],
    rounds: int,
    device: torch.device,
    budget: Budget = UNLIMITED,
) -> dict[str, Timing]:
    """Time variants in turn, round after round, so that a machine that gets slower or faster favours none of them.

    Every other round goes through them backwards, so that neither does what came just before.

    Args:
        variants: name -> (a call, warmed up before; calls of a round).
        rounds: how often each is timed, at most.
        device: waited for before the clock is read.
        budget: no round but the first is begun that would not end in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, list[int]] = {name: [] for name in variants}
    for turn in range(rounds):
        left = budget.left()
        for name in list(variants) if turn % 2 == 0 else reversed(variants):
            call, calls = variants[name]
            console.status(f"round {turn + 1} of {rounds}: {name}")
            measures_memory = device.type in ("cuda", "xpu")
            if measures_memory:
                torch.accelerator.reset_peak_memory_stats(device)
            synchronize(device)
            start = clock()
            for _ in range(calls):
                call()
            synchronize(device)
            seconds[name].append((clock() - start) / calls)
            if measures_memory:
                peaks[name].append(torch.accelerator.max_memory_allocated(device))
        if budget.left() < left - budget.left():  # the next one takes as long
            break
    return {name: Timing(seconds[name], calls, max(peaks[name], default=None)) for name, (_, calls) in variants.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_rss() -> int | None:
    """Most bytes of main memory that this process has held so far."""
    if resource is None:
        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if psutil.MACOS else peak * 1024
