"""The processes that load batches: how many there is room for, how they start, and what they obey."""

import math
import multiprocessing.process
import multiprocessing.queues
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from common.errors import UserError

if TYPE_CHECKING:
    from data.loader import Batch

SHARED_MEMORY = Path("/dev/shm")  # where workers put their batches; on systems without it there is no such limit
PREFETCHED = 2  # batches that a worker makes ahead
IN_USE = 2  # batches: one that is trained on, and the next, on its way to a GPU
MOST = 16  # workers where nobody asks for more


def count_workers(asked: int | None, *, live: bool, batch_bytes: int, processes_here: int) -> int:
    """How many processes load the batches of each training process.

    Args:
        asked: --workers; None: as many as this process has cores where images are decoded live, else none, as a batch
            of decoded ones is a single gather.
        live: whether they are decoded at every step.
        batch_bytes: of one micro-batch of one process, which goes through the machine's shared memory.
        processes_here: training processes on this machine, which all have such workers.

    Raises:
        UserError: there is no room for as many as were asked for; says for how many there is, and how to get more.
    """
    if asked is None and not live:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = max(1, min(cores // processes_here, MOST)) if asked is None else asked
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    total, _, free = shutil.disk_usage(SHARED_MEMORY)
    if not total:  # mounted without a limit
        return wanted
    batch = batch_bytes * processes_here
    needed = batch * (wanted * PREFETCHED + IN_USE)
    if needed <= free:
        return wanted
    fitting = max(0, int((free / batch - IN_USE) / PREFETCHED))
    if asked is None:
        return fitting
    raise UserError(
        f"--workers {asked} needs {needed / 1e6:,.0f} MB of shared memory and {SHARED_MEMORY} has "
        f"{free / 1e6:,.0f} MB free: give --workers {fitting}, or start the container with --shm-size "
        f"{math.ceil(2 * needed / 1e9)}g"
    )


def loader(dataset: Dataset, batches: object, workers: int, pin_memory: bool) -> DataLoader:
    """The batches of a data set, one for each item of `batches`, loaded by so many processes; 0: by this one."""
    return _Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=_shared,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        worker_init_fn=_prepare_worker,
        pin_memory=pin_memory,
    )


class _Loader(DataLoader):
    """Starts its workers with SIGTERM blocked in each of their threads, for `_obey_sigterm` to take it."""

    def __iter__(self) -> Iterator["Batch"]:
        if sys.platform != "linux":
            return _in_our_words(super().__iter__(), self.num_workers)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return _in_our_words(super().__iter__(), self.num_workers)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_our_words(batches: Iterator["Batch"], workers: int) -> Iterator["Batch"]:
    """A worker's UserError as it raised it, without the traceback that PyTorch makes part of the message.

    A worker that is killed while it hands over a batch breaks the connection off before the system counts it as
    ended, so that PyTorch lets the connection's error through: here it is the error of every other worker that ends.
    """
    try:
        yield from batches
    except Exception as error:
        if workers:
            # PyTorch's handler of SIGCHLD would raise the end of a worker once more, in the midst of what ends the run.
            batches._shutdown_workers()
        told = _told(error, workers)
        if told is None:
            raise
        raise told from error


def _told(error: Exception, workers: int) -> Exception | None:
    """The error that is to stand for this one; None for itself."""
    if isinstance(error, UserError):
        return UserError(str(error).rstrip().splitlines()[-1].partition("UserError: ")[2] or str(error))
    # Neither the data set's own, in this process, nor in a worker.
    if isinstance(error, ConnectionError | EOFError) and workers and not str(error).startswith("Caught "):
        return RuntimeError("DataLoader worker (pid unknown) ended while it handed over a batch")
    return None


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
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has SIGINT alone
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        main_process = multiprocessing.parent_process().pid
        threading.Thread(target=_obey_sigterm, args=(main_process,), daemon=True).start()


def _obey_sigterm(sender: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)  # any other code would be reported as a fault of the worker


def _shared(batch: "Batch") -> "Batch":
    """A worker moves it into shared memory here, where a lack of room is still an error of the batch.

    Raises:
        RuntimeError: the shared memory is full.
    """
    return batch if get_worker_info() is None else batch.each(Tensor.share_memory_)
