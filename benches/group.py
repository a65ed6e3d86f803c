"""Processes that train together for a bench, each on a core or a GPU of its own, and told what to do in turn."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from benches.budget import Budget
from benches.member import Begin, Spent, Steps, serve
from benches.timing import interleave
from common import console
from common.errors import RunFailed, UserError
from options.bench import BenchOptions

PATIENCE = 10.0  # seconds in which processes that have failed, or have been told to end, do so by themselves
start_method = multiprocessing.get_context("spawn")  # a GPU's library does not survive a fork


class Group:
    """So many processes, with what a launcher would have told them; none is left when its `with` statement is.

    Args:
        slots: for each process the core that it is pinned to; None for any (on GPUs, which its rank chooses).
        args, begin, steps: as `benches.member.Member` takes them.

    Raises:
        RunFailed: a process has ended; it has said why.
    """

    def __init__(self, slots: list[int | None], args: BenchOptions, begin: Begin, steps: Steps) -> None:
        self.size = len(slots)
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []
        self._slots, self._told = slots, (args, begin, steps)

    def __enter__(self) -> "Group":
        console.status(f"starting {self.size} process{'es' * (self.size > 1)}")
        port = _free_port()
        try:
            for rank, core in enumerate(self._slots):
                ours, theirs = start_method.Pipe()
                arguments = (core, _environment(rank, self.size, port), *self._told, theirs)
                process = start_method.Process(target=serve, args=arguments)
                process.start()
                theirs.close()  # so that the end of the process is the end of what it sends
                self.processes.append(process)
                self.pipes.append(ours)
            self._answers()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type | None, _error: object, _traceback: object) -> None:
        if kind is None:
            for pipe in self.pipes:
                with suppress(OSError):
                    pipe.send(None)
            self._join()
        self._kill()

    def ask(self, method: str, *arguments: object) -> list:
        """What a method of `Member` returns, on each process."""
        try:
            for pipe in self.pipes:
                pipe.send((method, *arguments))
        except OSError as error:  # which has ended since it was last asked
            raise self._failure() from error
        return self._answers()

    def _answers(self) -> list:
        answers = {}
        while len(answers) < self.size:
            for pipe in wait([pipe for pipe in self.pipes if pipe not in answers]):
                try:
                    answers[pipe] = pipe.recv()
                except (EOFError, OSError) as error:
                    raise self._failure() from error
        return [answers[pipe] for pipe in self.pipes]

    def _failure(self) -> RunFailed:
        self._join()  # the others say what they know of it
        codes = [process.exitcode for process in self.processes if process.exitcode]
        code = min(codes, default=1)  # that of the one that was killed, of which the others fail
        if code == UserError.exit_code:  # said by the process itself
            return RunFailed("", code, prints=False)
        if code < 0:
            how = f"was killed ({signal.Signals(-code).name}): see whether there is memory for all of them"
        else:
            how = f"ended with code {code}, and has said why"
        return RunFailed(f"one of {self.size} processes {how}")

    def _join(self) -> None:
        for process in self.processes:
            process.join(PATIENCE)

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


class Chunk(NamedTuple):
    """What a group does in one turn: a method of `Member`, its arguments, and how often it does so."""

    group: Group
    method: str
    arguments: tuple
    count: int

    def __call__(self) -> list[Spent]:
        return self.group.ask(self.method, *self.arguments, self.count)


def take_turns(
    chunks: dict[tuple, Chunk], rounds: int, device: torch.device, budget: Budget
) -> dict[tuple, list[list[Spent]]]:
    """What each chunk gave, for each round, on each process; the groups that are not in turn wait."""
    spent: dict[tuple, list[list[Spent]]] = {key: [] for key in chunks}

    def turn(key: tuple) -> Callable[[], None]:
        return lambda: spent[key].append(chunks[key]())

    interleave({" ".join(map(str, key)): (turn(key), 1) for key in chunks}, rounds, device, budget)
    return spent


def find_slots(device: torch.device) -> list[int | None]:
    """For each process that has a core (else a GPU) to itself: the CPU to pin it to, on GPUs None."""
    return cores() if device.type == "cpu" else [None] * torch.accelerator.device_count()


def cores() -> list[int | None]:
    """The first CPU of each physical core that this process may run on; None where a system pins no process."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * (psutil.cpu_count(logical=False) or 1)
    found: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.setdefault(siblings.read_text(encoding="utf-8") if siblings.exists() else str(cpu), cpu)
    return list(found.values())


def check(args: BenchOptions, device: torch.device) -> None:
    """Refuse what no group of several processes can be made for.

    Raises:
        UserError: there are no two cores (GPUs), or a batch does not divide among the processes.
    """
    kind = "core" if device.type == "cpu" else "GPU"
    available = len(find_slots(device))
    if not torch.distributed.is_available():
        raise UserError("scaling and ddp need torch.distributed, which this PyTorch was built without")
    if available < 2:
        raise UserError(f"scaling and ddp compare processes on a {kind} each, and there is {available}: leave them out")
    fitting = [count for count in args.processes if 1 < count <= available]
    if not fitting:
        asked = " ".join(map(str, args.processes))
        raise UserError(f"--processes {asked}: give at least 2 and at most the {available} {kind}s there are")
    for count, size in ((count, size) for count in fitting for size in args.batch_sizes):
        if size % count:
            raise UserError(
                f"--batch-sizes {size}: does not divide among {count} processes; give a multiple, or other --processes"
            )


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would set; nothing for a process alone."""
    environment = {"OMP_NUM_THREADS": "1"}
    if size > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return environment


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
