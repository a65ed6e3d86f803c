"""Bench `scaling`: the loop of train.py on one process and on several, and what is exchanged between them."""

import contextlib
import statistics
import tempfile
from typing import NamedTuple

from accelerate import Accelerator

from benches.budget import Budget
from benches.group import Chunk, Group, find_slots, take_turns
from benches.member import Begin, Spent, Steps
from benches.timing import MOST_CALLS, ROUND_SECONDS, WARM_UP_CALLS, Timing, calls_for
from options.bench import BenchOptions

CHUNK_SECONDS = 1.0
MOST_EXCHANGES = 10_000  # of a turn
ALONE = "1 process"


class Variant(NamedTuple):
    """A line: processes, images of a step over all of them, and whether that is as many on each as one alone has."""

    processes: int
    images: int
    weak: bool

    @property
    def name(self) -> str:
        return f"{self.processes} processes, {'weak' if self.weak else 'strong'}" if self.processes > 1 else ALONE


class Outcome(NamedTuple):
    """What was measured; the keys are variants' names, or numbers of processes.

    Attributes:
        variants: those that were measured, and those that there was no room or no time for.
        slots: the cores (GPUs) that there are, as `find_slots` tells them.
        steps: seconds of a step of the loop.
        silent: the same under DistributedDataParallel's no_sync.
        waited: seconds of a step that a process waited for its next batch, median over the rounds.
        all_reduce: seconds of an all-reduce of as many bytes as there are gradients, nothing else.
        hop: the same for four bytes.
        backward: seconds of a backward pass on one process.
        gradient_bytes, buffer_bytes: exchanged for a step of several processes.
    """

    variants: list[Variant]
    slots: list[int | None]
    steps: dict[str, Timing]
    silent: dict[str, Timing]
    waited: dict[str, float]
    all_reduce: dict[int, Timing]
    hop: dict[int, Timing]
    backward: Timing
    gradient_bytes: int
    buffer_bytes: int


def measure(
    args: BenchOptions, accelerator: Accelerator, batch_size: int, begin: Begin, steps: Steps, budget: Budget
) -> Outcome:
    """Let runs of train.py take turns on one process and on several, with the exchange of gradients and without.

    Args:
        args: the options of bench.py and, for the rest, of train.py.
        accelerator: of this process, which only starts others.
        batch_size: images of a step on each process (weak scaling), and over all processes (strong).
        begin, steps: those of train.py.
        budget: what does not fit is left out: rounds but the first, and groups of processes but the first two.
    """
    slots = find_slots(accelerator.device)
    variants = _variants(args, batch_size)
    chunks: dict[tuple, Chunk] = {}
    sizes = 0, 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as groups:
        for number, processes in enumerate(dict.fromkeys(variant.processes for variant in variants)):
            if processes > len(slots) or (number > 1 and not budget.may_prepare()):
                break
            group = groups.enter_context(Group(slots[:processes], args, begin, steps))
            of_group = [variant for variant in variants if variant.processes == processes]
            prepared, sizes = _prepare(group, of_group, folder)
            chunks |= prepared
        spent = take_turns(chunks, args.rounds, accelerator.device, budget)
    return _outcome(variants, slots, chunks, spent, sizes)


def _prepare(group: Group, variants: list[Variant], folder: str) -> tuple[dict[tuple, Chunk], tuple[int, int]]:
    """What a group does in its turns, warmed up, by (what, variant's name or processes); `exchanged` of its models."""
    chunks: dict[tuple, Chunk] = {}
    sizes = 0, 0
    for name, images in ((variant.name, variant.images) for variant in variants):
        sizes = group.ask("start", name, images, {}, f"{folder}/{name}")[0]
        chunks["steps", name] = _warm(group, "steps", (name, True), CHUNK_SECONDS, MOST_CALLS)
        if group.size > 1:
            chunks["silent", name] = chunks["steps", name]._replace(arguments=(name, False))
    if group.size == 1:
        chunks["backward", 1] = _warm(group, "backward", (ALONE,), ROUND_SECONDS, MOST_CALLS)
    else:
        for what, size in (("all_reduce", sizes[0]), ("hop", 4)):
            chunks[what, group.size] = _warm(group, "all_reduce", (size,), ROUND_SECONDS, MOST_EXCHANGES)
    return chunks, sizes


def _outcome(
    variants: list[Variant],
    slots: list[int | None],
    chunks: dict[tuple, Chunk],
    spent: dict[tuple, list[list[Spent]]],
    sizes: tuple[int, int],
) -> Outcome:
    """Of each round the slowest process, as the others wait for it; of the waiting for data the mean over them."""
    timings: dict[str, dict] = {}
    for (what, of), turns in spent.items():
        seconds = [max(each.seconds for each in turn) for turn in turns]
        timings.setdefault(what, {})[of] = Timing(seconds, chunks[what, of].count)
    waited = {
        name: statistics.median(statistics.mean(each.waited for each in turn) for turn in turns)
        for (what, name), turns in spent.items()
        if what == "steps"
    }
    steps, silent, backward = timings["steps"], timings["silent"], timings["backward"][1]
    return Outcome(variants, slots, steps, silent, waited, timings["all_reduce"], timings["hop"], backward, *sizes)


def _variants(args: BenchOptions, batch_size: int) -> list[Variant]:
    found = [Variant(1, batch_size, weak=True)]
    for processes in (count for count in args.processes if count > 1):
        found.append(Variant(processes, processes * batch_size, weak=True))
        found.append(Variant(processes, batch_size, weak=False))
    return found


def _warm(group: Group, method: str, arguments: tuple, seconds: float, most: int) -> Chunk:
    """A turn of so many seconds, warmed up."""
    group.ask(method, *arguments, WARM_UP_CALLS)
    once = max(each.seconds for each in group.ask(method, *arguments, 1))
    return Chunk(group, method, arguments, calls_for(once, seconds, most))
