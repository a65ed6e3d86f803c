"""One of the processes that train together for a bench: it does what it is told through a pipe, as all of them do."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from time import perf_counter as clock
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benches.loop import begin_run
from benches.timing import synchronize
from common.errors import exit_on_user_error
from engine.output import trackers
from engine.run import Run
from engine.runtime.accelerator import end_processes, start_accelerator
from engine.runtime.agreement import running_statistics
from engine.runtime.peers import failing_together
from options.bench import BenchOptions

Begin, Steps = Callable[..., Run], Callable[[Run], Iterator[int]]


class Spent(NamedTuple):
    """Seconds of one call, and those of them in which the process waited for its next batch."""

    seconds: float
    waited: float = 0.0


class Member:
    """What a process can be told: the public methods. Each is called by all processes of the group at once.

    Args:
        accelerator: of this process.
        args: the options of bench.py and, for the rest, of train.py.
        begin, steps: those of train.py.
    """

    def __init__(self, accelerator: Accelerator, args: BenchOptions, begin: Begin, steps: Steps) -> None:
        self.accelerator, self.args = accelerator, args
        self._begin, self._steps = begin, steps
        self._usual = accelerator.ddp_handler
        self._runs: dict[str, tuple[Run, Iterator[int]]] = {}
        self._waited = 0.0

    def start(self, name: str, batch_size: int, settings: dict, folder: str) -> tuple[int, int]:
        """Begin a run of train.py on made-up images, of so many images a step over all processes.

        Args:
            name: by which the other methods find it.
            settings: of DistributedDataParallel, as Accelerate's DistributedDataParallelKwargs names them, where they
                are to be others than those of train.py.
            folder: what the run writes into.

        Returns:
            `exchanged` of its model.
        """
        if settings:
            handler = self._usual or DistributedDataParallelKwargs()
            self.accelerator.ddp_handler = replace(handler, **settings)
        try:
            run = begin_run(self.args, self.accelerator, batch_size, self._begin, folder)
        finally:
            self.accelerator.ddp_handler = self._usual
        run.progress.close()
        run.progress.show = False  # bench.py speaks
        run.batches = lambda batches=run.batches: self._timed(batches())
        self._runs[name] = run, self._steps(run)
        return exchanged(run.model)

    def steps(self, name: str, exchange: bool, count: int) -> Spent:
        """Take so many steps of the run's loop; without `exchange`, as under DistributedDataParallel's no_sync."""
        run, loop = self._runs[name]
        for module in run.model.modules():
            if isinstance(module, DistributedDataParallel):
                module.require_backward_grad_sync = exchange
        self._waited = 0.0
        seconds = self._together(lambda: next(loop), count)
        return Spent(seconds, self._waited / count)

    def all_reduce(self, size: int, count: int) -> Spent:
        """Add up `size` bytes of float32 over the processes, nothing else, so many times."""
        numbers = torch.zeros(size // 4, device=self.accelerator.device)
        return Spent(self._together(lambda: torch.distributed.all_reduce(numbers), count))

    def backward(self, name: str, count: int) -> Spent:
        """Backward passes alone, on one batch of the run's; of its process alone."""
        run, _ = self._runs[name]
        device = self.accelerator.device
        inputs, targets = run.task.training_batch(next(iter(run.batches())).to(device), 0)
        seconds = 0.0
        for _ in range(count):
            with self.accelerator.autocast():
                outputs = run.model(inputs)
            loss = run.task.loss(outputs, targets)
            synchronize(device)
            start = clock()
            self.accelerator.backward(loss)
            synchronize(device)
            seconds += clock() - start
            run.optimizer.zero_grad()
        return Spent(seconds / count)

    def difference(self, name: str, reference: str) -> float:
        """Largest difference of the weights of two runs, as a share of the largest weight; 0 for the same bits."""
        ours, theirs = (_weights(self._runs[run][0]) for run in (name, reference))
        return ((ours - theirs).abs().max() / theirs.abs().max()).item()

    def end(self) -> None:
        """Give back what the runs hold."""
        for run, _ in self._runs.values():
            trackers.finish(run.trackers)
        self._runs.clear()
        self.accelerator.free_memory()

    def _together(self, call: Callable[[], object], count: int) -> float:
        """Seconds of one of so many calls, which begin when all processes are ready."""
        device = self.accelerator.device
        self.accelerator.wait_for_everyone()
        synchronize(device)
        start = clock()
        for _ in range(count):
            call()
        synchronize(device)
        return (clock() - start) / count

    def _timed(self, batches: torch.utils.data.DataLoader) -> Iterator:
        source = iter(batches)
        while True:
            start = clock()
            batch = next(source)  # without end: the run is longer than all that is timed
            self._waited += clock() - start
            yield batch


def exchanged(model: nn.Module) -> tuple[int, int]:
    """Bytes that are all-reduced for a step: (gradients; batch norm's running statistics, in float64).

    Computed: the sizes of the parameters that are trained and of the statistics.
    """
    gradients = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return gradients, sum(8 * buffer.numel() for buffer in running_statistics(model))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _weights(run: Run) -> Tensor:
    return torch.cat([parameter.detach().flatten().double() for parameter in run.unwrapped_model.parameters()])


def serve(
    core: int | None, environment: dict[str, str], args: BenchOptions, begin: Begin, steps: Steps, pipe: Connection
) -> None:
    """Join the other processes and do what `pipe` tells, (name of a method, its arguments ...), until it tells None.

    Args:
        core: the CPU to stay on; None for any.
        environment: what a launcher would set.
        args, begin, steps: as `Member` takes them.
        pipe: answers go back through it, first "ready".
    """
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches bench.py too, which ends its processes
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    os.environ.update(environment)
    with exit_on_user_error():
        with failing_together():
            accelerator, args = start_accelerator(args)
            member = Member(accelerator, args, begin, steps)
            pipe.send("ready")
            while (told := pipe.recv()) is not None:
                name, *arguments = told
                pipe.send(getattr(member, name)(*arguments))
            member.end()
        end_processes()


def _end_with(bench: multiprocessing.process.BaseProcess) -> None:
    """End at once when bench.py has ended, however it did: an exchange with processes that are gone may last."""
    bench.join()
    os._exit(1)
