"""What this machine is and what it computes fastest in: memory, threads, processes, precision."""

import ctypes
import functools
import gc
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from accelerate.utils import get_int_from_env

from common.errors import UserError
from engine.runtime import launcher

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of giving them back to the kernel, which costs page faults every step.

    Linux with glibc only; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never


@contextmanager
def giving_back_freed_memory(device: torch.device) -> Iterator[None]:
    """Give back to the device, or to the kernel, what is allocated and freed within: nothing of it stays in use."""
    own_blocks = device.type == "cpu" and platform.libc_ver()[0] == "glibc"
    if own_blocks:
        ctypes.CDLL(None).mallopt(_M_MMAP_MAX, 2**16)  # large ones, each by itself
    try:
        yield
    finally:
        give_back_freed_memory(device)
        if own_blocks:
            keep_freed_memory()


def give_back_freed_memory(device: torch.device) -> None:
    """Give back what no one holds any more; on a CPU it stays this process's own, to be used again."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def threads_per_process() -> int:
    """Compute threads for this process: its share of the physical cores that it may run on.

    `accelerate launch` and torchrun set OMP_NUM_THREADS=1, which leaves most of a CPU idle; any other value in the
    environment is the user's own wish and is kept, up to the cores that there are: `accelerate launch` counts those
    of the machine, of which a container or a batch system may allow few.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if wish.isdigit() and int(wish) > 1:
        return min(int(wish), allowed)
    cores = min(psutil.cpu_count(logical=False) or allowed, allowed)
    return max(1, cores // local_processes())


def local_processes() -> int:
    """How many processes the launcher says that it started on this machine."""
    names = ["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"]
    return get_int_from_env(names, 1)


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
