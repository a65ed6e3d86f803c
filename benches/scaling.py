"""Bench `scaling`: the loop of train.py on one process and on several, and what is exchanged between them."""

import contextlib
import statistics
import tempfile
from typing import NamedTuple

from accelerate import Accelerator

from benches.budget import Budget
from benches.group import Chunk, Group, find_slots, take_turns
from benches.member import Begin, Steps
from benches.timing import MOST_CALLS, ROUND_SECONDS, WARM_UP_CALLS, Timing
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
        variants: those that were measured and those that there was no room for.
        available: cores (GPUs).
        steps: seconds of a step of the loop.
        silent: the same under DistributedDataParallel's no_sync.
        waited: seconds of a step that a process waited for its next batch, median over the rounds.
        all_reduce: seconds of an all-reduce of as many bytes as there are gradients, nothing else.
        hop: the same for four bytes.
        backward: seconds of a backward pass on one process.
        gradient_bytes, buffer_bytes: exchanged for a step of several processes.
    """

    variants: list[Variant]
    available: int
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
        budget: of the rounds begins what fits; processes are started, and warmed up, whatever is left of it.
    """
    slots = find_slots(accelerator.device)
    variants = _variants(args, batch_size)
    fitting = [variant for variant in variants if variant.processes <= len(slots)]
    chunks: dict[tuple, Chunk] = {}
    gradient_bytes = buffer_bytes = 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as groups:
        for processes in dict.fromkeys(variant.processes for variant in fitting):
            group = groups.enter_context(Group(slots[:processes], args, begin, steps))
            for name, images in ((each.name, each.images) for each in fitting if each.processes == processes):
                gradient_bytes, buffer_bytes = group.ask("start", name, images, {}, f"{folder}/{name}")[0]
                loop = _warm(group, "steps", (name, True), CHUNK_SECONDS, MOST_CALLS)
                chunks["steps", name] = loop
                if processes > 1:
                    chunks["silent", name] = loop._replace(arguments=(name, False))
            if processes == 1:
                chunks["backward", 1] = _warm(group, "backward", (ALONE,), ROUND_SECONDS, MOST_CALLS)
            else:
                for what, size in (("all_reduce", gradient_bytes), ("hop", 4)):
                    chunks[what, processes] = _warm(group, "all_reduce", (size,), ROUND_SECONDS, MOST_EXCHANGES)
        spent = take_turns(chunks, args.rounds, accelerator.device, budget)

    def timed(what: str) -> dict:
        found = {key: chunk.count for key, chunk in chunks.items() if key[0] == what}
        return {
            key[1]: Timing([max(each.seconds for each in turn) for turn in spent[key]], count)
            for key, count in found.items()
        }

    waited = {
        key[1]: statistics.median(statistics.mean(each.waited for each in turn) for turn in turns)
        for key, turns in spent.items()
        if key[0] == "steps"
    }
    return Outcome(
        variants,
        len(slots),
        timed("steps"),
        timed("silent"),
        waited,
        timed("all_reduce"),
        timed("hop"),
        timed("backward")[1],
        gradient_bytes,
        buffer_bytes,
    )


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
    return Chunk(group, method, arguments, max(1, min(most, round(seconds / once))))
