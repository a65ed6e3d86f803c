"""Which samples a process sees at which step, and their way from the uint8 arrays into batches.

The order of samples is a permutation of (seed, epoch); a global batch is a slice of it, and each process takes its
own part of every global batch. So the samples of a step depend neither on the number of processes nor on where a
run was resumed.
"""

import math
import multiprocessing.process
import multiprocessing.queues
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from common.errors import UserError
from data.cache import Arrays
from data.dataset import Subset

SHARED_MEMORY = Path("/dev/shm")  # where workers put their batches; on systems without it there is no such limit
PREFETCHED = 2  # batches that a worker makes ahead


@dataclass
class Batch:
    """Samples on their way to the model.

    Attributes:
        images: uint8 (B, H, W, C).
        labels: int64 (B,).
        ids: int64 (B,), the samples' rows in their split. In a training batch that mixes images, the second half
            of each of the three holds the partners of the first.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; from pinned memory the copy does not wait."""
        moved = [tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels, self.ids)]
        return Batch(*moved)

    def pin_memory(self) -> "Batch":
        """Called by DataLoader before a batch goes to a GPU."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.ids.pin_memory())


class ArrayDataset(Dataset):
    """Rows of decoded arrays; a whole batch is one gather."""

    def __init__(self, arrays: Arrays) -> None:
        self.images = torch.from_numpy(arrays.images)
        self.labels = torch.from_numpy(arrays.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, ids: np.ndarray) -> Batch:
        rows = torch.from_numpy(np.ascontiguousarray(ids))
        return Batch(self.images[rows], self.labels[rows], rows)


def epoch_order(ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch (from 0) sees `ids`: a permutation that is a function of (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(ids)


def balanced_order(ids: np.ndarray, labels: np.ndarray, power: float, seed: int, epoch: int) -> np.ndarray:
    """As many samples in an order that is a function of (seed, epoch), rare classes more often.

    A class's share is proportional to the number of its images to a power: 1 as they are, 0 all the same. Each of its
    images is drawn as often as any other of it, or once more.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    classes, counts = np.unique(labels, return_counts=True)
    exact = len(ids) * counts**power / (counts**power).sum()
    wanted = np.floor(exact).astype(int)
    wanted[np.argsort(wanted - exact, kind="stable")[: len(ids) - wanted.sum()]] += 1  # the largest remainders
    drawn = []
    for label, count in zip(classes, wanted, strict=True):
        own = ids[labels == label]
        rounds = [random.permutation(own) for _ in range(-(-count // len(own)))]
        drawn += [*rounds[:-1], rounds[-1][: count - len(own) * (len(rounds) - 1)]] if rounds else []
    return random.permutation(np.concatenate(drawn))


@dataclass
class TrainSampler:
    """Yields the ids of one micro-batch after another for one process, from `start_step` to the end of the run.

    Attributes:
        ids: int64 (N,), the training samples.
        seed: of the order.
        start_step, total_steps: optimizer steps; an epoch has N // global_batch_size of them (the rest of a
            permutation, fewer samples than a batch, is left out of that epoch).
        global_batch_size: samples of a step over all processes and micro-batches.
        accumulate: micro-batches of a step.
        rank, num_processes: this process among all.
        partners: (ids, epoch) -> positions in `ids` of the images to mix with, or None.
        labels: int64 (N,) of the samples, for `balance`: the power of a class's images that its share goes by.
    """

    ids: np.ndarray
    seed: int
    start_step: int
    total_steps: int
    global_batch_size: int
    accumulate: int
    rank: int
    num_processes: int
    partners: Callable[[Tensor, int], Tensor] | None = None
    labels: np.ndarray | None = None
    balance: float = 1.0
    _order: tuple[int, np.ndarray] = field(default=(-1, np.empty(0)), repr=False)  # of the epoch last asked for

    def __len__(self) -> int:
        return (self.total_steps - self.start_step) * self.accumulate

    def __iter__(self) -> Iterator[np.ndarray]:
        for step in range(self.start_step, self.total_steps):
            epoch = step // self.steps_per_epoch
            for micro_batch in np.split(self.ids_at(step), self.accumulate):
                yield self._with_partners(micro_batch, epoch)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.ids) // self.global_batch_size

    def ids_at(self, step: int) -> np.ndarray:
        """This process's samples of an optimizer step, int64, in order."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        share = self.global_batch_size // self.num_processes
        start = step_of_epoch * self.global_batch_size + self.rank * share
        if epoch != self._order[0]:
            self._order = (epoch, self._order_of(epoch))
        return self._order[1][start : start + share]

    def _order_of(self, epoch: int) -> np.ndarray:
        if self.balance == 1 or self.labels is None:
            return epoch_order(self.ids, self.seed, epoch)
        return balanced_order(self.ids, self.labels, self.balance, self.seed, epoch)

    def _with_partners(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        if self.partners is None:
            return ids
        positions = self.partners(torch.from_numpy(ids), epoch).numpy()
        return np.concatenate([ids, self.ids[positions]])


def train_loader(part: Subset, sampler: TrainSampler, workers: int, pin_memory: bool) -> DataLoader:
    """One loader for the whole rest of a run, so that workers and prefetching go on across epochs."""
    return _loader(part, sampler, workers, pin_memory)


def eval_loader(part: Subset, batch_size: int, rank: int, num_processes: int, pin_memory: bool) -> DataLoader:
    """This process's share of a part, in order; every process gets equally many batches.

    Shares are filled up by repeating the last sample. Repeats are at the end of the last processes' shares:
    the first `len(part)` rows of all shares, one after another, are the part itself.
    """
    rows, _ = eval_rows(len(part), rank, num_processes)
    ids = part.ids[rows]
    return _loader(part, [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)], 0, pin_memory)


def eval_rows(length: int, rank: int, num_processes: int) -> tuple[np.ndarray, int]:
    """Which rows of a part of `length` a process evaluates, and how many of them, the first, are no repeats."""
    share = -(-length // num_processes)
    rows = np.arange(rank * share, (rank + 1) * share)
    return np.minimum(rows, length - 1), min(max(length - rank * share, 0), share)


def _loader(part: Subset, batches: object, workers: int, pin_memory: bool) -> DataLoader:
    return _Loader(
        ArrayDataset(part.arrays),
        batch_sampler=batches,
        collate_fn=_shared,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        worker_init_fn=_prepare_worker,
        pin_memory=pin_memory,
    )


class _Loader(DataLoader):
    """Starts its workers with SIGTERM blocked in each of their threads, for `_obey_sigterm` to take it."""

    def __iter__(self) -> Iterator[Batch]:
        if sys.platform != "linux":
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_shared_memory(part: Subset, sampler: TrainSampler, workers: int, processes_here: int) -> None:
    """Find out before a run starts whether its workers' batches have room in this machine's shared memory.

    Args:
        part, sampler, workers: as given to `train_loader`.
        processes_here: of the run on this machine, which all have such workers.

    Raises:
        UserError: they have not; says how many workers there is room for, and how to get more.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    total, _, free = shutil.disk_usage(SHARED_MEMORY)
    if not total:  # mounted without a limit
        return
    images = sampler.global_batch_size // (sampler.num_processes * sampler.accumulate)
    images *= 1 if sampler.partners is None else 2
    batch = images * (math.prod(part.arrays.images.shape[1:]) + 16) * processes_here
    in_use = 2  # one that is trained on, and the next, on its way to a GPU
    needed = batch * (workers * PREFETCHED + in_use)
    if needed > free:
        fitting = max(0, int((free / batch - in_use) / PREFETCHED))
        raise UserError(
            f"--workers {workers} needs {needed / 1e6:,.0f} MB of shared memory and {SHARED_MEMORY} has "
            f"{free / 1e6:,.0f} MB free: give --workers {fitting}, or start the container with --shm-size "
            f"{math.ceil(2 * needed / 1e9)}g"
        )


def _prepare_worker(_number: int) -> None:
    # A batch that cannot be sent, as when there are too many open files, would be waited for for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _end_at_once
    _leave_signals_to_the_main_process()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_at_once(_error: Exception, _batch: object) -> None:
    traceback.print_exc()
    os._exit(1)


def _end_with(main_process: multiprocessing.process.BaseProcess) -> None:
    main_process.join()
    os._exit(0)


def _leave_signals_to_the_main_process() -> None:
    """Ctrl-C, SIGTERM of a cluster and a closed terminal reach all processes; the main one still wants batches then.

    SIGTERM from the main process itself is how PyTorch and Python end the workers of a run that has failed: that one
    they obey, else the main process would wait for them for ever. Who sent it is told on Linux; elsewhere it is left to
    PyTorch, which obeys everyone.
    """
    signal.set_wakeup_fd(-1)  # inherited: the main process would take this process's signals for its own
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        main_process = multiprocessing.parent_process().pid
        threading.Thread(target=_obey_sigterm, args=(main_process,), daemon=True).start()


def _obey_sigterm(sender: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)  # any other code would be reported as a fault of the worker


def _shared(batch: Batch) -> Batch:
    """A worker moves it into shared memory here, where a lack of room is still an error of the batch.

    Raises:
        RuntimeError: the shared memory is full.
    """
    if get_worker_info() is not None:
        for tensor in (batch.images, batch.labels, batch.ids):
            tensor.share_memory_()
    return batch
