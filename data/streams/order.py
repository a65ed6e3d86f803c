"""In which order a process reads its part of a stream, and where in it a step begins, to go on from there.

A process reads some shards at a time, a chunk of each in turn: a block, of as many samples as are shuffled at once.
Which blocks there are is a function of (seed, rank, number of processes). So a step's place is the state of the readers
where its block begins, and how many samples of that had been used. No sample is lost or repeated on the way: a pass
over a process's part shows each of its samples once, and the next pass follows, wherever an epoch ends.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from data.augment.draws import Epoch
from data.loader import MicroBatches
from data.streams.source import Stream

if TYPE_CHECKING:
    import datasets
    import pyarrow

READERS = 10  # shards that a process reads at a time
KEPT = 1000  # steps whose place is remembered: more than workers are ahead


class Sample(NamedTuple):
    """One sample on its way: `id` is its place in what all processes read, `encoded` as `open_image` takes it."""

    id: int
    encoded: dict
    label: int


class StreamDraw(NamedTuple):
    """The samples of a micro-batch, encoded; `epoch` (from 0) is what augmentation is drawn for."""

    samples: list[Sample]
    epoch: int


@dataclass(frozen=True)
class Place:
    """Where in its part of a stream a process is.

    Attributes:
        number: of the pass.
        first: samples that blocks before this one had, in all passes.
        readers: the states of the readers where the block begins, as `datasets` has them; None: at their start.
        taken: samples of the block that were used.
    """

    number: int = 0
    first: int = 0
    readers: list[dict] | None = None
    taken: int = 0


@dataclass
class StreamSampler(MicroBatches):
    """Yields one micro-batch after another for one process, from `start_step` to the end of the run.

    Attributes:
        stream: what is read.
        seed: of the order.
        buffer: samples that are shuffled at once.
        start_step, total_steps, global_batch_size, accumulate, rank, num_processes: as `TrainSampler` has them.
        steps_per_epoch: after which augmentation is drawn anew.
        start: where `start_step` begins.
        partners: (ids, epoch) -> numbers; what each is mixed with is the sample of that number, modulo the length, of
            its block; None where nothing is mixed.
    """

    stream: Stream
    seed: int
    buffer: int
    start_step: int
    total_steps: int
    steps_per_epoch: int
    global_batch_size: int
    accumulate: int
    rank: int
    num_processes: int
    start: Place = field(default_factory=Place)
    partners: Callable[[Tensor, Epoch], Tensor] | None = None
    _steps: dict[int, tuple[Place, np.ndarray]] = field(init=False, repr=False)  # where each begins, and its ids

    def __post_init__(self) -> None:
        self._steps = {self.start_step: (self.start, np.empty(0, dtype=np.int64))}

    def place_of(self, step: int) -> dict:
        """Where `step` begins, the one that is trained on or the next, in plain values."""
        return asdict(self._steps[step][0])

    def ids_at(self, step: int) -> np.ndarray:
        """This process's samples of an optimizer step that was begun, int64, in order."""
        return self._steps[step][1]

    def __iter__(self) -> Iterator[StreamDraw]:
        place, samples = self.start, self.samples()
        for step in range(self.start_step, self.total_steps):
            begins, ids, epoch = place, [], step // self.steps_per_epoch
            for _ in range(self.accumulate):
                drawn = list(islice(samples, self.micro_batch_size))
                ids += [sample.id for sample, _, _ in drawn]
                place = replace(drawn[-1][1], taken=drawn[-1][1].taken + 1)
                self._steps[step] = begins, np.array(ids)
                self._steps[step + 1] = place, np.empty(0, dtype=np.int64)
                yield self._with_partners(drawn, epoch)
            self._steps.pop(step - KEPT, None)

    def _with_partners(self, drawn: list[tuple[Sample, Place, list[Sample]]], epoch: int) -> StreamDraw:
        samples = [sample for sample, _, _ in drawn]
        if self.partners is not None:
            numbers = self.partners(torch.tensor([sample.id for sample in samples]), epoch).tolist()
            samples += [block[number % len(block)] for number, (_, _, block) in zip(numbers, drawn, strict=True)]
        return StreamDraw(samples, epoch)

    def samples(self) -> Iterator[tuple[Sample, Place, list[Sample]]]:
        """Each sample from `start` on, its place, and the block that it is of."""
        used, blocks = self.start.taken, self._blocks()
        try:
            with ThreadPoolExecutor(1) as pool:  # it reads the next block while this one is used
                coming = pool.submit(next, blocks)
                while True:
                    place, block = coming.result()
                    coming = pool.submit(next, blocks)
                    for taken in range(used, len(block)):
                        yield block[taken], replace(place, taken=taken), block
                    used = 0
        finally:
            blocks.close()

    def _blocks(self) -> Iterator[tuple[Place, list[Sample]]]:
        """Each block, shuffled, and its place, from that of `start` on."""
        number, first, states = self.start.number, self.start.first, self.start.readers
        while True:
            empty = states is None
            for states_then, rows in self._pass(number, states):
                block = self._block(number, first, rows)
                empty = empty and not block
                yield Place(number, first, states_then), block
                first += len(rows)
            if empty:
                raise UserError(
                    f"train of {self.stream.where} has no image with a label for process {self.rank} of "
                    f"{self.num_processes}: start fewer processes"
                )
            number, states = number + 1, None

    def _block(self, number: int, first: int, rows: list[dict]) -> list[Sample]:
        samples = []
        for position, row in enumerate(rows):
            label = self.stream.number(row)
            if label >= 0:
                place = self.rank + self.num_processes * (first + position)
                samples.append(Sample(place, self.stream.encoded(row), label))
        random = np.random.default_rng([self.seed, self.rank, number, first])
        return [samples[position] for position in random.permutation(len(samples))]

    def _pass(self, number: int, states: list[dict] | None) -> Iterator[tuple[list[dict] | None, list[dict]]]:
        """The rows of each block of a pass, in order, and the states of the readers before it."""
        readers = self._readers(number)
        for reader, state in zip(readers, states or [], strict=states is not None):
            reader.load_state_dict(state)
        chunks = [reader.iter(-(-self.buffer // len(readers))) for reader in readers]
        try:
            while True:
                rows = [row for chunk in chunks for row in _rows(next(chunk, None))]
                if not rows:
                    return
                yield states, rows
                states = [copy.deepcopy(reader.state_dict()) for reader in readers]
        except OSError as error:
            raise UserError(
                f"train of {self.stream.where} can no longer be read: {error}; go on by --resume auto when it can"
            ) from error
        finally:
            for chunk in chunks:
                chunk.close()

    def _readers(self, number: int) -> list["datasets.IterableDataset"]:
        """This process's part in a pass: shards for each reader, in an order that is a function of (seed, pass)."""
        from datasets import concatenate_datasets
        from datasets.distributed import split_dataset_by_node

        table, processes = self.stream.table.with_format("arrow"), self.num_processes
        order = np.random.default_rng([self.seed, number]).permutation(table.num_shards).tolist()
        # With fewer shards than processes each process reads all of them, and `datasets` gives it one row of so many.
        by_rows = len(order) < processes
        mine = order if by_rows else order[self.rank :: processes]
        several = min(READERS, len(mine), self.buffer)
        readers = [
            concatenate_datasets([table.shard(len(order), shard) for shard in mine[part::several]])
            for part in range(several)
        ]
        return [split_dataset_by_node(reader, self.rank, processes) if by_rows else reader for reader in readers]


def _rows(table: "pyarrow.Table | None") -> list[dict]:
    return [] if table is None else table.to_pylist()


def place_for(places: list[dict], rank: int, num_processes: int) -> Place:
    """Where a process goes on that all were at `places`; of another number of processes at the start of the pass."""
    if len(places) == num_processes:
        return Place(**places[rank])
    return Place(min(place["number"] for place in places), max(place["first"] for place in places))
