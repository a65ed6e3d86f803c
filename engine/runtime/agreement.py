"""What must be the same on all processes: code, options, images, weights. All of them refuse it where it is not."""

import hashlib
import platform
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from common.devices import widest_float
from common.errors import UserError
from data.dataset import DataSplits
from engine.runtime import hardware, versions
from models.layers.sync_batch_norm import SyncBatchNorm
from options.groups import OPTIONS, TrainOptions


def check_options(args: TrainOptions) -> None:
    """To be called by all processes.

    What a run fills in is compared where all have it: at a resume the machine that has the run's folder knows it from
    the start, the others when they have looked at data and weights.

    Raises:
        UserError: their options differ, on every process; names the first few.
    """
    values = {name: getattr(args, name) for name, found in OPTIONS.items() if not found.per_machine}
    known = {name: value for name, value in values.items() if value is not None or not OPTIONS[name].filled_in}
    options = {OPTIONS[name].flag: str(value) for name, value in known.items()}
    pretrained = Path(args.pretrained or "hub")
    if pretrained.is_file():
        with pretrained.open("rb") as file:
            options["--pretrained"] = f"a file of SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    differing = _differing(options)
    if differing:
        raise UserError(f"the processes were started with other options: {differing}; give all of them the same")


def check_code(accelerator: Accelerator) -> None:
    """To be called by all processes; those of one machine have the same.

    Raises:
        UserError: the machines' code, Python or packages differ, on every process.
    """
    if accelerator.num_processes == hardware.local_processes():
        return
    differing = _differing({"Python": platform.python_version(), **versions.packages(), **versions.code()}, "missing")
    if differing:
        raise UserError(f"the machines have other code or packages: {differing}; copy the code from one to all of them")


def check_data(data: DataSplits) -> None:
    """To be called by all processes.

    Raises:
        UserError: their images, labels or classes differ, on every process.
    """
    parts = {"train": data.train, "validation": data.val, "test": data.test}
    hashes = data.fingerprints()
    found = {f"the {name} part": f"{len(part):,} images ({hashes[name][:8]})" for name, part in parts.items()}
    differing = _differing({**found, "the list of classes": ", ".join(data.class_names)})
    if differing:
        raise UserError(f"the processes have other images: {differing}; give all of them the same --dataset")


def _differing(mine: dict[str, str], absent: str | None = None) -> str:
    """What is not the same on all processes, in words: what the first has, and the first process that differs.

    What only some of them have is `absent` on the others; where that is None, it is not compared.
    """
    every = gather_object([mine])
    words = []
    for name in dict.fromkeys(name for found in every for name in found):
        if absent is None and not all(name in found for found in every):
            continue
        first, *others = (found.get(name, absent) for found in every)
        rank = next((rank for rank, other in enumerate(others, 1) if other != first), None)
        if rank is not None:
            words.append(f"{name} is {first} on process 0 and {others[rank - 1]} on process {rank}")
    return ", ".join(words[:3])


def send_no_buffers(model: nn.Module) -> None:
    """Have a prepared model not take the first process's buffers before each step: see `average_statistics`.

    Set here and not through Accelerate, as PyTorch 2.15 warns of the argument that Accelerate knows.
    """
    wrapped = getattr(model, "_orig_mod", model)  # by torch.compile
    if isinstance(wrapped, nn.parallel.DistributedDataParallel):
        wrapped.broadcast_buffers = False


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Those buffers that each process would have its own of: batch norm's running mean and variance.

    Those of synchronized batch norm are equal already.
    """
    return [
        buffer
        for module in model.modules()
        if not isinstance(module, SyncBatchNorm | nn.SyncBatchNorm)
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]


def average_statistics(statistics: list[Tensor], num_processes: int) -> None:
    """Give every process the mean of all processes' running statistics, in place.

    To be called by all processes after a step, so that what is evaluated, averaged (--ema) and saved is of all images
    and a function of (options, step).
    """
    if num_processes == 1 or not statistics:
        return
    # In float64 the mean of equal float32 numbers is that number: what no step changes, as frozen statistics, stays.
    wide = widest_float(statistics[0].device)
    flat = torch.cat([buffer.flatten().to(wide) for buffer in statistics])
    torch.distributed.all_reduce(flat)
    means = flat.div_(num_processes).split([buffer.numel() for buffer in statistics])
    torch._foreach_copy_(statistics, [mean.view(own.shape) for mean, own in zip(means, statistics, strict=True)])


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
