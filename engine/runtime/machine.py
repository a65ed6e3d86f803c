"""The machine: allocator, threads, processes, precision, random state, and the signals that end a run."""

import argparse
import ctypes
import functools
import os
import platform
import re
import sys
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
    get_int_from_env,
)
from torch import nn

from common.errors import UserError
from engine.runtime import launch_configuration, launcher, peers, sharding


def start(args: argparse.Namespace) -> Accelerator:
    """Set the process up for training or inference on what hardware there is.

    Args:
        args: `cpu`, `mixed_precision`; for training also `compile`, `accumulate` and `deterministic`. What the
            launcher asks for is filled in, and the precision, so that it is recorded with the run.

    Raises:
        UserError: fp16 on a CPU, more processes than GPUs, processes that would each train alone, FSDP version 1 or
            compiled, or a launcher that asks for what is not supported.
    """
    launcher.check_environment()
    launcher.take_options(args)
    keep_freed_memory()
    # The momentum of a unit that died fades through numbers below 1.2e-38, with which Intel's CPUs compute many times
    # slower: 14 such rows of 1,024 made Muon's step take six times as long. Threads inherit this, so it comes early.
    torch.set_flush_denormal(True)
    cpu = args.cpu or not torch.accelerator.is_available()
    if cpu and not args.cpu:
        launch_configuration.warn_without_accelerator()
    args.mixed_precision = choose_precision(args.mixed_precision, cpu)
    if not cpu:
        check_gpus()
    deterministic = getattr(args, "deterministic", False)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    forget_earlier_runs()
    frozen = getattr(args, "freeze", "none") != "none"
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if frozen else []
    with peers.saying_that_it_waits():
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=args.mixed_precision,
            dynamo_plugin=compilation(getattr(args, "compile", False)),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # which the loop does
            kwargs_handlers=handlers,
        )
    peers.watch(accelerator)
    # Whoever refuses below must not be gone before the others have found it: they would fail in other words.
    accelerator.wait_for_everyone()
    check_processes(accelerator.num_processes)
    if accelerator.distributed_type == DistributedType.FSDP:
        sharding.set_up(accelerator)
    if cpu:
        torch.set_num_threads(threads_per_process())
    return accelerator


def compilation(wanted: bool) -> TorchDynamoPlugin:
    """How Accelerate compiles, the same whatever started it: what is left out here it looks for in the environment."""
    backend = "inductor" if wanted else "no"
    plugin = TorchDynamoPlugin(backend, mode="default", fullgraph=False, dynamic=False, use_regional_compilation=False)
    plugin.dynamic = None  # as torch.compile has it where nobody chose; given as None it would be looked for, too
    return plugin


def forget_earlier_runs() -> None:
    """Let a run have a precision, device and compilation of its own, whatever ran in this process before it.

    Accelerate keeps the first run's for all. The group of processes stays as it is.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # it compiles a function for a few models only, and then no more


def end() -> None:
    """Part from the other processes, after the last run: what NCCL holds must be given back before the process ends."""
    peers.part()
    PartialState().destroy_process_group()


def check_gpus() -> None:
    """Refuse to start more processes on this machine than it has GPUs, which NCCL would do in its own words.

    Raises:
        UserError: processes would share a GPU.
    """
    processes, gpus = local_processes(), torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(
            f"{processes} processes cannot share {gpus} GPU{'s' if gpus > 1 else ''}: start {gpus}, or give --cpu"
        )


def local_processes() -> int:
    """How many processes the launcher says that it started on this machine."""
    names = ["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"]
    return get_int_from_env(names, 1)


def check_processes(found: int) -> None:
    """Refuse to start where the launcher was asked for more processes than train together.

    Raises:
        UserError: WORLD_SIZE is not `found`, or `accelerate launch` was asked for several CPU processes and, for
            want of MPI, started one.
    """
    if found == 1 and launcher.starts_one_of_several():
        raise UserError(
            "accelerate launch was asked for several processes but starts one: several on one CPU are started by "
            "'torchrun --nproc-per-node 2 train.py --cpu'"
        )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if expected != found:
        raise UserError(
            f"the launcher started {expected} processes but {found} train together: each would train alone. Start "
            "with 'accelerate launch --config_file accelerate_configs/...' or torchrun"
        )


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of giving them back to the kernel, which costs page faults every step.

    Linux with glibc only; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_max = -1, -4  # from glibc's malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, -1)  # never


def threads_per_process() -> int:
    """Compute threads for this process: its share of the physical cores that it may run on.

    `accelerate launch` and torchrun set OMP_NUM_THREADS=1, which leaves most of a CPU idle; any other value in the
    environment is the user's own wish and is kept.
    """
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if wish.isdigit() and int(wish) > 1:
        return int(wish)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(psutil.cpu_count(logical=False) or allowed, allowed)
    return max(1, cores // local_processes())


def choose_precision(wish: str, cpu: bool) -> str:
    """The precision to train in: the option's, else the launcher's, else what pays on this hardware.

    `accelerate launch` says "no" also when nobody chose, so its "no" counts as no choice.

    Raises:
        UserError: fp16 on a CPU, which PyTorch would silently run in fp32, or a launcher that asks for fp8.
    """
    precision = wish if wish != "auto" or launcher.wanted_precision() == "no" else launcher.wanted_precision()
    if precision == "fp16" and cpu:
        raise UserError("fp16 does nothing on a CPU: give --mixed-precision bf16, no or auto")
    if precision != "auto":
        return precision
    device = "cpu" if cpu else torch.accelerator.current_accelerator().type
    if bf16_pays(device):
        return "bf16"
    return "fp16" if device == "cuda" else "no"


def bf16_pays(device: str) -> bool:
    """Whether a device of this type ("cpu", "cuda", "xpu", ...) computes faster in bf16 than in fp32.

    Intel's AVX512-BF16 without AMX, as in a virtual machine that hides AMX, multiplies no more numbers an instruction
    than fp32 does and needs more of them: half as fast (77 for 147 GFLOP/s a core, Emerald Rapids, torch 2.15). AMD's
    is twice as fast.
    """
    if device == "cpu":
        amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        return amx or (avx512 and "Intel" not in cpu_name())
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "xpu"


@functools.cache
def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def usable_precision(trained_in: str, cpu: bool) -> str:
    """The precision that weights were trained in, or "auto" where this hardware cannot compute in it."""
    cpu = cpu or not torch.accelerator.is_available()
    return "auto" if trained_in == "fp16" and cpu else trained_in


def describe(accelerator: Accelerator) -> str:
    """One line for the screen: device, processes, threads, precision."""
    device = accelerator.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    processes = accelerator.num_processes
    return (
        f"{device}, {processes} process{'es' if processes > 1 else ''}, {torch.get_num_threads()} CPU threads each, "
        f"mixed precision {accelerator.mixed_precision}"
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed what is left of randomness (dropout, stochastic depth) as a function of (seed, step, rank)."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the first one's buffers (batch-norm statistics), which are the ones that get saved."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def check_equal_weights(model: nn.Module, accelerator: Accelerator) -> None:
    """Find out whether the processes have drifted apart.

    Raises:
        RuntimeError: their parameters are not equal bit for bit.
    """
    if accelerator.num_processes == 1 or accelerator.is_fsdp2:  # of sharded weights there is but one copy
        return
    # Sums of the bits as whole numbers, weighted by place: exact on every device, and unequal for swapped values.
    sums = []
    for parameter in model.parameters():
        bits = parameter.detach().float().contiguous().view(torch.int32).flatten().long()
        sums.append((bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum())
    hashes = accelerator.gather(torch.stack(sums)[None])
    if not (hashes == hashes[0]).all():
        raise RuntimeError("the processes' weights differ: they no longer train one model")
