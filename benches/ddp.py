"""Bench `ddp`: the settings of DistributedDataParallel, on as many processes as there is room for."""

import contextlib
import tempfile

from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType

from benches.budget import Budget
from benches.group import Chunk, Group, find_slots, take_turns
from benches.member import Begin, Steps
from benches.report import Row, Section
from benches.scaling import CHUNK_SECONDS
from benches.timing import Timing, calls_for
from benches.variants import NO_TIME
from options.bench import BenchOptions

USUAL, NO_SYNC = "as train.py has it", "no all-reduce (no_sync): the bound"
# As Accelerate's DistributedDataParallelKwargs names them.
SETTINGS = {
    "bucket_cap_mb=1": {"bucket_cap_mb": 1},
    "bucket_cap_mb=5": {"bucket_cap_mb": 5},
    "bucket_cap_mb=100": {"bucket_cap_mb": 100},
    "gradient_as_bucket_view": {"gradient_as_bucket_view": True},
    "static_graph": {"static_graph": True},
    "gradient_as_bucket_view, static_graph": {"gradient_as_bucket_view": True, "static_graph": True},
    "bf16_compress_hook": {"comm_hook": DDPCommunicationHookType.BF16},
}
FIRST_STEPS = 10  # after which weights are compared


def measure(
    args: BenchOptions, accelerator: Accelerator, batch_size: int, begin: Begin, steps: Steps, budget: Budget
) -> Section:
    """Let runs of train.py with other settings take turns, and compare their weights after the first steps.

    Args:
        args: the options of bench.py and, for the rest, of train.py.
        accelerator: of this process, which only starts others.
        batch_size: images of a step on each process.
        begin, steps: those of train.py.
        budget: what does not fit is left out: rounds but the first, and settings.
    """
    slots = find_slots(accelerator.device)
    processes = max(count for count in args.processes if count <= len(slots))
    images = processes * batch_size
    rows = {USUAL: Row(USUAL, images), NO_SYNC: Row(NO_SYNC, images)}
    chunks: dict[tuple, Chunk] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as groups:
        group = groups.enter_context(Group(slots[:processes], args, begin, steps))
        for name, settings in ({USUAL: {}} | SETTINGS).items():
            if name != USUAL and not budget.may_prepare():
                rows[name] = Row(name, images, reason=NO_TIME)
                continue
            group.ask("start", name, images, settings, f"{folder}/{name}")
            group.ask("steps", name, True, FIRST_STEPS)
            rows[name] = Row(name, images, difference=group.ask("difference", name, USUAL)[0])
        for name in (name for name in (USUAL, *SETTINGS) if rows[name].reason is None):
            once = max(each.seconds for each in group.ask("steps", name, True, 1))
            chunks[name,] = Chunk(group, "steps", (name, True), calls_for(once, CHUNK_SECONDS))
        chunks[NO_SYNC,] = chunks[USUAL,]._replace(arguments=(USUAL, False))
        for (name,), turns in take_turns(chunks, args.rounds, accelerator.device, budget).items():
            rows[name].timing = Timing([max(each.seconds for each in turn) for turn in turns], chunks[name,].count)
    rows[USUAL].difference = None
    side = args.image_size
    title = (
        f"ddp: train.py with {args.model} on {processes} processes, {batch_size} images of {args.channels}x{side}x"
        f"{side} a step on each, {args.optimizer}, mixed precision {accelerator.mixed_precision}"
    )
    notes = [f"difference: of the weights after {FIRST_STEPS} steps; 0.0e+00 is the same bits"]
    if processes == 2:
        notes.append("(sums of two are the same in any order; on more processes other buckets may round otherwise)")
    return Section("ddp", title, list(rows.values()), notes, {"batch_size": batch_size, "processes": processes})
