"""Runs train.py in processes of their own, started fast, with faults: killed, signalled, fed NaN.

The processes are forked from a server that has imported torch once; otherwise they are what torchrun would start.
"""

import ctypes
import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

# Seconds after which a process is taken to hang: many times what it takes on a busy machine.
HANGS = int(os.environ.get("SAMELOOP_TEST_HANGS", "900"))

M_MMAP_THRESHOLD = -3  # glibc's
CLONE_NEWUTS = 0x04000000  # Linux's

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    "train engine.final_test engine.run engine.build engine.runtime.signals models.summary sklearn.datasets".split()
    + ["torch._dynamo"]  # which the first optimizer step imports, in seconds
    # Which the report at the end does.
    + [f"tasks.classification.{name}" for name in ("metrics", "report", "confusion", "plots", "reliability")]
    + ["tasks.curves", "pages.run_page"]
    # What test files import, and so whoever runs a function of theirs.
    + ["data.cache", "engine.checkpoints.store", "pytest"]
)


@dataclass
class Fault:
    """What happens to a run.

    Attributes:
        more_options: rank -> options that this process alone is started with.
        disks: a folder of working folders named by rank, each the disk of a machine; --output-dir is then "runs".
        hosts: rank -> the name of the machine that this process believes to be on; for root alone.
        kill_after: SIGKILL when this step is done (from 1) and what follows it (evaluation, saving) too.
        kill_ranks: which processes it hits.
        kill_in: of several runs the one, by its folder's name, that it hits; None for any.
        signal_after: (step, signal number), sent when that step is done but not yet counted.
        signal_ranks: which processes get it.
        signal_in_evaluation: (step, signal number), sent when the evaluation after that step is under way.
        nan_at: (step from 0, rank): that process's loss becomes NaN.
        overflow_at: step from 0 whose loss becomes so large that its gradient in half precision overflows.
        warn_after: (step, rank): that process warns, and a library of it logs a warning, when this step is done.
        drift_after: (step, rank): that process's weights move a little by themselves when this step is done.
        fail_in: ("step" | "evaluation" | "saving", step, rank): that process meets `failure` there, when so many steps
            are done; "start-up" is before the first of them.
        failure: the error: "memory" (a GPU has no more), or "bug".
        kill_worker_after: (step, rank): SIGKILL to the first of that process's --workers.
        fill_disk_after: a file "ballast" takes all room left in --output-dir when this step is done.
        ledger: a file for each rank, `<ledger>.<rank>`, gets a line "step id id ..." for each micro-batch.
        memory: rank -> bytes of address space that it may take beyond what it begins with; the system refuses more.
        memory_from: that holds only when so many steps are done; what is freed is given back.
        no_memory_for: the losses, counted from the first step on, for which there is none.
        weighed: a file for each rank, `<weighed>.<rank>`, gets the most bytes that the process ever took beyond that.
        report: whether to go on to the test report at the end.
        draw: whether pictures are drawn then; else they are one pixel each, in a third of the time.
        shard: FSDP2 as accelerate_configs/fsdp2.yaml asks for it, but on CPUs and with every layer a unit of its own.
        gloo: processes talk by gloo, which unlike NCCL lets several of them share a GPU.
    """

    more_options: dict[int, list[str]] = field(default_factory=dict)
    disks: Path | None = None
    hosts: dict[int, str] = field(default_factory=dict)
    kill_after: int | None = None
    kill_ranks: tuple[int, ...] = (0, 1, 2, 3)
    kill_in: str | None = None
    signal_after: tuple[int, int] | None = None
    signal_ranks: tuple[int, ...] = (0, 1, 2, 3)
    signal_in_evaluation: tuple[int, int] | None = None
    nan_at: tuple[int, int] | None = None
    overflow_at: int | None = None
    warn_after: tuple[int, int] | None = None
    drift_after: tuple[int, int] | None = None
    fail_in: tuple[str, int, int] | None = None
    failure: str = "bug"
    kill_worker_after: tuple[int, int] | None = None
    fill_disk_after: int | None = None
    ledger: Path | None = None
    memory: dict[int, int] = field(default_factory=dict)
    memory_from: int = 0
    no_memory_for: tuple[int, ...] = ()
    weighed: Path | None = None
    report: bool = False
    draw: bool = False
    shard: bool = False
    gloo: bool = False


def train(
    argv: list[str], processes: int = 1, fault: Fault | None = None, timeout: float = HANGS
) -> tuple[list[int], str]:
    """Run train.py; returns the exit codes of its processes and all that they printed.

    Those still alive `timeout` seconds after the start are killed: one deadline for all, as a hang is seldom of one.
    """
    port = free_port()
    log = Path(argv[argv.index("--output-dir") + 1]) / f"log-{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    workers = []
    for rank in range(processes):
        env = {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            env |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {name: str(value) for name, value in env.items()}
        workers.append(server.Process(target=_work, args=(argv, env, rank, fault or Fault(), f"{log}.{rank}")))
        workers[-1].start()
    deadline = time.monotonic() + timeout
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
    printed = "".join(Path(f"{log}.{rank}").read_text() for rank in range(processes))
    return [worker.exitcode for worker in workers], printed


def free_port() -> int:
    """One at which processes may meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def one_thread() -> None:
    """Compute with one thread, whatever is asked for: with small images others only cost time.

    On a machine that is busy elsewhere, threads that wait for one another make minutes of a second.
    """
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: None


def address_space(which: str) -> int:
    """Bytes of it that this process has ("VmSize"), or has had at most ("VmPeak"); Linux only."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{which}:"))
    return 1024 * int(line.split()[1])


def allow_memory(address_space: int) -> None:
    """Have the system refuse this process more bytes than that."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))


def fill_disk(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def leave_pictures_blank(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Have what matplotlib is to write be a single pixel; `replace` is called with an owner, a name and a value."""
    from matplotlib.figure import Figure
    from PIL import Image

    from common import plot_style

    replace(plot_style, "_drawn", lambda *_: None)
    replace(Figure, "savefig", lambda figure, path, **_: Image.new("RGB", (1, 1)).save(path, "png"))


def shard_on_cpus() -> None:
    """Make Accelerate take its FSDP2 path on CPUs as well: it offers it on CUDA and XPU only, PyTorch on all."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from torch.distributed.tensor import DTensor

    from engine import start
    from engine.runtime import accelerator as runtime

    def sharding_accelerator(**options: object) -> Accelerator:
        accelerator = Accelerator(**options)
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=200
        )
        if accelerator.mixed_precision != "no":
            accelerator.state.fsdp_plugin.set_mixed_precision(accelerator.mixed_precision)
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        return accelerator

    begin = start.start_run

    def sure_start(*args: object) -> object:
        started = begin(*args)
        assert started.accelerator.is_fsdp2
        for model in filter(None, (started.model, started.ema_model)):
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        return started

    runtime.Accelerator, start.start_run = sharding_accelerator, sure_start


def talk_by_gloo() -> None:
    """Have Accelerate use gloo on GPUs too, and let processes share one."""
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from engine.runtime import accelerator as runtime

    def accelerator_by_gloo(kwargs_handlers: list, **options: object) -> Accelerator:
        return Accelerator(kwargs_handlers=[*kwargs_handlers, InitProcessGroupKwargs(backend="gloo")], **options)

    runtime.Accelerator, runtime.hardware.check_gpus = accelerator_by_gloo, lambda: None
    os.environ["LOCAL_RANK"] = "0"  # the GPU that Accelerate takes


def _work(argv: list[str], env: dict[str, str], rank: int, fault: Fault, log: str) -> None:
    os.environ.update(env)
    argv = [*argv, *fault.more_options.get(rank, [])]
    if fault.disks is not None:
        argv += ["--output-dir", "runs"]
        os.chdir(fault.disks / str(rank))
    if rank in fault.hosts:
        assert ctypes.CDLL(None).unshare(CLONE_NEWUTS) == 0
        socket.sethostname(fault.hosts[rank])
    multiprocessing.set_start_method("fork", force=True)  # for --workers, as it is outside of this server
    import torch

    import train
    from engine import final_test, run, start
    from engine.finite_guard import FiniteGuard
    from engine.runtime import hardware
    from tasks.classification.task import Classification

    one_thread()
    began_with = address_space("VmSize") if fault.memory or fault.weighed else 0
    if rank in fault.memory and not fault.memory_from:
        allow_memory(began_with + fault.memory[rank])
    if fault.memory_from:
        hardware.keep_freed_memory = lambda: ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)

    if fault.shard:
        shard_on_cpus()
    if fault.gloo:
        talk_by_gloo()
    check, stop_requested = FiniteGuard.check, run.Run.stop_requested
    training_batch, loss = Classification.training_batch, Classification.loss
    step = losses = 0

    def spied_check(self: FiniteGuard, step: int) -> None:
        check(self, step)
        if fault.signal_after and step + 1 == fault.signal_after[0] and rank in fault.signal_ranks:
            os.kill(os.getpid(), fault.signal_after[1])
        if fault.warn_after == (step + 1, rank):
            warnings.warn("something is odd", stacklevel=1)
            logging.getLogger("a.library").warning("odd in %d places", 3)
        if fault.drift_after == (step + 1, rank):
            with torch.no_grad():
                self.parameters[0].mul_(1.001)
        if fault.ledger is not None:
            with Path(f"{fault.ledger}.lr.{rank}").open("a") as rates:
                rates.write(f"{step} {self.optimizer.param_groups[0]['lr']!r}\n")

    def spied_stop_requested(self: run.Run) -> int | None:
        nonlocal step
        step = self.state.step
        if (step, rank) == fault.kill_worker_after:
            os.kill(min(worker.pid for worker in multiprocessing.active_children()), signal.SIGKILL)
        if rank in fault.memory and step == fault.memory_from:
            allow_memory(began_with + fault.memory[rank])
        if step == fault.fill_disk_after:
            fill_disk(self.folder.parent / "ballast")
        if step == fault.kill_after and rank in fault.kill_ranks and fault.kill_in in (None, self.folder.name):
            os.kill(os.getpid(), signal.SIGKILL)
        return stop_requested(self)

    def spied_training_batch(self: Classification, batch: object, epoch: int) -> tuple:
        if fault.ledger is not None:
            with Path(f"{fault.ledger}.{rank}").open("a") as ledger:
                ledger.write(f"{' '.join(map(str, [step, *batch.ids.tolist()]))}\n")
        return training_batch(self, batch, epoch)

    failures = {"memory": torch.OutOfMemoryError("CUDA out of memory"), "bug": ZeroDivisionError("a bug")}

    def fail_if_due(where: str, step: int) -> None:
        if fault.fail_in == (where, step, rank):
            raise failures[fault.failure]

    def spied_save(self: run.Run) -> None:
        fail_if_due("saving", self.state.step)
        save(self)

    def spied_loss(self: Classification, *args: object) -> object:
        nonlocal losses
        losses += 1
        if losses in fault.no_memory_for:
            raise failures["memory"]
        fail_if_due("step", step)
        factor = float("nan") if (step, rank) == fault.nan_at else 1e30 if step == fault.overflow_at else 1
        return loss(self, *args) * factor

    begin, evaluate, score = start.start_run, run.Run._evaluate, Classification.eval_metrics
    save = run.Run.save
    evaluated_step = 0

    def spied_evaluate(self: run.Run, epoch: int) -> dict:
        nonlocal evaluated_step
        evaluated_step = self.state.step
        return evaluate(self, epoch)

    def spied_score(self: Classification, *args: object) -> object:
        fail_if_due("evaluation", evaluated_step)
        if fault.signal_in_evaluation and evaluated_step == fault.signal_in_evaluation[0]:
            os.kill(os.getpid(), fault.signal_in_evaluation[1])
        return score(self, *args)

    def spied_start(*args: object) -> run.Run:
        nonlocal step, losses
        fail_if_due("start-up", 0)
        started = begin(*args)
        step, losses = started.state.step, 0
        return started

    FiniteGuard.check, run.Run.stop_requested, run.Run.save = spied_check, spied_stop_requested, spied_save
    run.Run._evaluate, Classification.eval_metrics = spied_evaluate, spied_score
    start.start_run = spied_start
    Classification.training_batch, Classification.loss = spied_training_batch, spied_loss
    if not fault.draw:
        leave_pictures_blank()
    if not fault.report:
        final_test.report_run = lambda run: None
    with Path(log).open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        faulthandler.enable(file)  # a crash says where
        sys.argv = ["train.py", *argv]
        try:
            train.main(argv)
            assert not torch.distributed.is_initialized()
            if fault.weighed is not None:
                Path(f"{fault.weighed}.{rank}").write_text(str(address_space("VmPeak") - began_with))
        except Exception:
            traceback.print_exc()  # into the log, as Python itself would do it too late
            sys.exit(1)
