"""What started this process, and what it asks for: accelerate launch, torchrun, MPI, or nobody.

Launchers speak through the environment, which may also be left over from others. What they ask for beside processes
becomes an option of the run, recorded as one, or is refused: nothing that changes a run acts unrecorded.
"""

import ctypes
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil

from common import console
from common.errors import UserError, is_first_of_machine
from options.clean import CleanOptions
from options.groups import TrainOptions
from options.infer import InferOptions

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
WHOLE_NUMBERS = (
    *RANKS,
    *("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    *("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
    *("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
    *("MASTER_PORT", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
)
FLAGS = ("ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY")
TRUE, FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")  # as Accelerate reads them
AnyOptions = TypeVar("AnyOptions", bound=TrainOptions | InferOptions | CleanOptions)
UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
PRECISIONS = ("no", "fp16", "bf16")
LAST_SECONDS = 5  # that a launcher has to end by itself when its processes have ended
# What `accelerate launch` sets for each process, whatever it was asked for, and nobody sets by hand.
MARKS = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_MODE", "ACCELERATE_DYNAMO_USE_FULLGRAPH")


def check_environment() -> None:
    """Refuse what cannot be followed, before Accelerate reads it; variables that are set but empty are removed.

    Raises:
        UserError: a variable is no number or no flag, LOCAL_RANK or the like stands alone, srun has
            started several processes that do not know of one another, a device is named, or what is asked for is
            unsupported.
    """
    for name in (*WHOLE_NUMBERS, *FLAGS):
        value = os.environ.get(name, "").strip()
        if not value:
            os.environ.pop(name, None)
        elif name in FLAGS and value.lower() not in (*TRUE, *FALSE):
            raise UserError(f"{name}={value} in the environment is neither true nor false: unset it")
        elif name not in FLAGS and not value.removeprefix("-").isdigit():
            raise UserError(f"{name}={value} in the environment is no whole number: unset it, or start with torchrun")
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if not os.environ.get(name)]
    of_one_process = {"LOCAL_RANK": "-1", "WORLD_SIZE": "1", "RANK": "0"}
    left_over = [name for name, value in of_one_process.items() if os.environ.get(name, value) != value]
    if left_over and missing and not _any_set(RANKS[1:]):
        raise UserError(
            f"{left_over[0]} is in the environment but not {' and '.join(missing)}, so no launcher has set it for this "
            f"process: unset {left_over[0]}, or start with torchrun or accelerate launch"
        )
    device = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if device:
        raise UserError(
            f"ACCELERATE_TORCH_DEVICE={device} in the environment would choose a device that no option of the run "
            "tells of: unset it, and give --cpu, or choose a GPU by CUDA_VISIBLE_DEVICES"
        )
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")  # of srun alone: in the job's own shell it is not set
    if tasks != "1" and not _any_set(RANKS):
        raise UserError(
            f"srun has started {tasks} processes that would each train alone: have it start one torchrun on each node, "
            "as slurm/train_multi_node.sbatch does; if each is to be a run of its own, unset SLURM_STEP_NUM_TASKS"
        )
    for name, what in UNSUPPORTED.items():
        if os.environ.get(name, "").lower() == "true":
            raise UserError(
                f"the launcher asks for {what}, which is not supported: leave it out, or shard the model with "
                "--config_file accelerate_configs/fsdp2.yaml"
            )


def with_options(args: AnyOptions) -> AnyOptions:
    """The options with what the launcher asks for: `cpu`, and for training `compile`; what is typed wins.

    Raises:
        UserError: a kind of compilation that --compile is not, or another accumulation than --accumulate.
    """
    cpu = args.cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    accumulate = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    if accumulate and isinstance(args, TrainOptions) and int(accumulate) != args.accumulate:
        raise UserError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {accumulate} and --accumulate is {args.accumulate or 'auto'}: "
            f"give --accumulate {accumulate}, which cuts --batch-size into as many parts, or unset the variable"
        )
    if not isinstance(args, TrainOptions):
        return replace(args, cpu=cpu)
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "").lower() or "no"
    if args.compile is None and backend not in ("no", "inductor"):
        raise UserError(f"the launcher asks for dynamo_backend {backend}: leave it out, or give --compile (inductor)")
    compiled = backend == "inductor" if args.compile is None else args.compile
    if compiled:
        _check_dynamo()
    return replace(args, cpu=cpu, compile=compiled)


def _check_dynamo() -> None:
    """Raise UserError where the launcher asks for other ways to compile than the usual one."""
    mode = os.environ.get("ACCELERATE_DYNAMO_MODE", "").lower()
    if mode not in ("", "none", "default"):
        raise UserError(f"the launcher asks for dynamo_mode {mode}: --compile has the default alone, so leave it out")
    for name in ("dynamo_use_fullgraph", "dynamo_use_dynamic", "dynamo_use_regional_compilation"):
        if os.environ.get(f"ACCELERATE_{name.upper()}", "").lower() in TRUE:
            raise UserError(f"the launcher asks for {name}, which --compile does not know: leave it out")


def wanted_precision() -> str:
    """The precision that the launcher asks for; "no" also where nobody chose, as `accelerate launch` says it then.

    Raises:
        UserError: it is none that a run can have, such as fp8.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or "no"
    if precision not in PRECISIONS:
        raise UserError(
            f"the launcher asks for mixed precision {precision}, which is not supported: give --mixed-precision "
            f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
        )
    return precision


def starts_one_of_several() -> bool:
    """Whether `accelerate launch` was asked for several CPU processes and, for want of MPI, started this one alone.

    It then sets an address to meet at, but gives no process a rank. An address that it was given itself, as job
    scripts for Slurm export it, says nothing.
    """
    if not _all_set(MARKS) or _any_set(RANKS):
        return False
    try:
        launcher = next(filter(_is_accelerate, psutil.Process().parents()), None)
        before = launcher.environ() if launcher else os.environ
    except psutil.Error:
        return False
    return any(os.environ.get(name) != before.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))


def follow() -> None:
    """Ask Linux for a SIGTERM when `accelerate launch` dies, as it hands on no signal to the one process it starts.

    Where it died before this could be asked, nobody wants the run any more: the process ends, with nothing written.
    Whatever else is the parent may end, or the thread of it that started this process, which is what Linux watches.
    """
    if platform.system() != "Linux" or not _all_set(MARKS) or _any_set(RANKS):
        return
    parent = os.getppid()
    try:
        launched = _is_accelerate(psutil.Process(parent))
    except psutil.Error:
        launched = False
    if launched:
        pr_set_pdeathsig = 1  # from linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))
    if os.getppid() != parent or (not launched and _is_orphan(parent)):
        console.note("error: the accelerate launch that started this process has ended: stopping")
        sys.exit(128 + signal.SIGTERM)


def end_hanging_launcher() -> None:
    """End torchrun some seconds from now, if it is still there, as the machine that it met the others at is lost.

    It asks that machine now and then whether more machines want to join, and PyTorch 2.15 waits for the answer without
    a limit (TCPStore::compareSet), also when torchrun is told to end.
    """
    if os.name == "posix" and os.environ.get("TORCHELASTIC_RUN_ID") and is_first_of_machine():
        subprocess.Popen(
            ["sh", "-c", f"sleep {LAST_SECONDS}; kill -KILL {os.getppid()}"],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _is_accelerate(process: psutil.Process) -> bool:
    """Whether it is `accelerate launch`, accelerate-launch or python -m accelerate.commands.launch."""
    words = process.cmdline()
    return any(
        Path(word).stem in ("accelerate", "accelerate-launch") or "accelerate.commands." in word for word in words
    )


def _is_orphan(parent: int) -> bool:
    """Whether Linux has given this process to another parent, of another session, than it was started by.

    What leads a session, as services, kernels of notebooks and whatever is started in a new session do, was started
    so by its parent; `accelerate launch` starts none.
    """
    return os.getsid(0) not in (os.getpid(), os.getsid(parent))


def _any_set(names: Iterable[str]) -> bool:
    return any(os.environ.get(name) for name in names)


def _all_set(names: Iterable[str]) -> bool:
    return all(os.environ.get(name) for name in names)
