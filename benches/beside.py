"""Bench `beside`: what train.py's loop loses to one other process that keeps a core busy, as on anyone's laptop."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from accelerate import Accelerator

from benches.budget import Budget
from benches.loop import begin_run, end_run, take_turns
from benches.report import Row, Section, in_words, round_ratios, spread
from engine.run import Run
from options.bench import BenchOptions

ALONE, BESIDE = "loop of train.py, alone", "beside one busy process"
# Busy until whoever started it is gone, by whatever signal: it is told who that is, as it may be gone already.
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(10**6))"


def measure(
    args: BenchOptions,
    accelerator: Accelerator,
    batch_size: int,
    begin: Callable[..., Run],
    steps: Callable[[Run], Iterator[int]],
    budget: Budget,
) -> Section:
    """Let a run of train.py take some steps alone and some beside a busy process, in turn; see `loop.measure`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, neighbour() as busy:
        run = begin_run(args, accelerator, batch_size, begin, folder)
        loop = steps(run)

        def step(beside: bool) -> None:
            busy(beside)
            next(loop)

        timings = take_turns(run, {ALONE: lambda: step(False), BESIDE: lambda: step(True)}, budget)
        end_run(run)
    ratios = round_ratios(timings[ALONE], timings[BESIDE])
    facts = {
        "batch_size": batch_size,
        "ratio": spread(ratios),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
    }
    title = (
        f"beside: train.py with {args.model}, {batch_size} images of {args.channels}x{args.image_size}x"
        f"{args.image_size} a step, {args.optimizer}, {run.accelerator.mixed_precision} precision"
    )
    rows = [Row(name, batch_size, timing) for name, timing in timings.items()]
    return Section("beside", title, rows, ["", in_words(ratios)], facts)


@contextmanager
def neighbour() -> Iterator[Callable[[bool], None]]:
    """Gives what starts another process that is busy, or ends it, as it is wanted or not."""
    running: list[subprocess.Popen] = []

    def wanted(yes: bool) -> None:
        if yes and not running:
            running.append(subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]))
        elif running and not yes:
            process = running.pop()
            process.kill()
            process.wait()

    try:
        yield wanted
    finally:
        wanted(False)
