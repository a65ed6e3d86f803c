"""How many micro-batches a step is cut into so that each fits into memory (--accumulate auto), and what else saves it.

Found out before the first step, on a model and an optimizer of their own that are thrown away, by each process alone:
nothing is sent, so that a process for which there is no room leaves no other one waiting. Where a step fails for want
of memory all the same, a single process takes it back and does it again in smaller parts.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from common import console, failures
from common.errors import ImpossibleOptions
from data.dataset import DataSplits
from data.loader import Batch
from engine import build
from engine.optim.ema import EMA
from engine.optim.factory import optimizer_for
from engine.output import run_dir
from engine.runtime import hardware
from models import param_groups
from options.groups import TrainOptions
from options.values import by_epoch, parse_freeze
from tasks.base import Task

if TYPE_CHECKING:
    from engine.run import Run


def settle(args: TrainOptions, task: Task, data: DataSplits, accelerator: Accelerator) -> TrainOptions:
    """The options with the number of micro-batches that --accumulate auto comes to; to be called by all processes.

    The smallest power of two that divides a process's share of the batch and whose micro-batches fit on every process.

    Raises:
        ImpossibleOptions: there is none, or the model is sharded.
    """
    # At a resume it is known on the machine that has the run's folder.
    known = max(gather_object([args.accumulate or 0]))
    failures.set_memory_remedy(remedy(args, accelerator, None if args.resume is None else known))
    if known:
        return replace(args, accumulate=known)
    if accelerator.is_fsdp2:
        raise ImpossibleOptions("--accumulate auto does not go with sharding (FSDP): give a number")
    build.plan_steps(replace(args, accumulate=1), len(data.train), accelerator.num_processes)  # the batch divides
    share = args.batch_size // accelerator.num_processes
    console.status("looking how many images fit into memory")
    accumulate = 1
    while not all(gather_object([_fits(replace(args, accumulate=accumulate), task, data, accelerator)])):
        if share % (2 * accumulate):
            raise ImpossibleOptions(
                f"out of memory with {_images(share // accumulate)} at a time (--accumulate {accumulate}): try "
                f"{remedy(args, accelerator)}"
            )
        accumulate *= 2
    if accelerator.is_main_process:
        more = f": {_images(2 * share // accumulate)} at a time do not fit" if accumulate > 1 else ""
        console.say(f"--accumulate auto is {accumulate}, {_images(share // accumulate)} at a time{more}")
    failures.set_memory_remedy(remedy(args, accelerator, accumulate))
    return replace(args, accumulate=accumulate)


def remedy(args: TrainOptions, accelerator: Accelerator, found: int | None = None) -> str:
    """What to try where memory does not suffice, in order, without what is on already.

    Args:
        found: the number of micro-batches, where `auto` or a run that is resumed has told it; a resume may have more.
    """
    on_gpu, new = accelerator.device.type != "cpu", args.resume is None
    several = accelerator.num_processes > 1 and not accelerator.is_fsdp2
    settings = {
        "--accumulate auto": new and not found and args.accumulate is not None and not accelerator.is_fsdp2,
        f"--accumulate {2 * (found or 1)}": found and args.batch_size % (2 * found * accelerator.num_processes) == 0,
        "--grad-checkpointing": not args.grad_checkpointing and not args.compile,
        "--mixed-precision bf16": new and on_gpu and args.mixed_precision == "no",
        "a smaller --image-size": new,
        "accelerate_configs/fsdp2.yaml": on_gpu and several,
    }
    return ", then ".join(name for name, helps in settings.items() if helps) or "a new run with a smaller --image-size"


class StepTakenBack(Exception):
    """Memory did not suffice for a step; all is as it was before it."""


@contextlib.contextmanager
def taken_back_without_memory(run: "Run") -> Iterator[None]:
    """Around what leads to a step's gradients: where memory does not suffice for it, as if it had not begun.

    Only for a run whose `cuts_smaller` says so, and where its micro-batches can be halved.

    Raises:
        StepTakenBack: that has happened.
    """
    if not run.cuts_smaller or run.args.batch_size % (2 * run.args.accumulate):
        yield
        return
    metrics, buffers = run.state.metrics, list(run.unwrapped_model.buffers())
    before = [buffer.clone() for buffer in buffers]  # statistics of batch norm, which each forward pass changes
    try:
        yield
    except Exception as error:
        if not failures.is_out_of_memory(error):
            raise
        run.state.metrics = metrics
        run.optimizer.zero_grad()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        raise StepTakenBack from error


def all_steps(run: "Run", steps: Callable[["Run"], Iterator[int]]) -> Iterator[int]:
    """What `steps` yields from here to the end of the run; a step that was taken back is done in smaller parts."""
    while True:
        try:
            yield from steps(run)
            return
        except StepTakenBack:
            pass
        # Out of the handler, as the error holds on to what the step had in memory.
        _cut_smaller(run)


def _cut_smaller(run: "Run") -> None:
    """Have the run go on from the step reached with twice as many micro-batches, and keep their number."""
    hardware.give_back_freed_memory(run.accelerator.device)
    step, parts = run.state.step, 2 * run.args.accumulate
    size = run.args.batch_size // parts
    run.progress.say(
        f"out of memory with {_images(2 * size)} at a time: step {step} again, and on with --accumulate {parts}, "
        f"{_images(size)} at a time"
    )
    places = [run.sampler.place_of(step)] if run.args.stream else None
    run.args = replace(run.args, accumulate=parts)
    run.sampler = build.build_sampler(run.args, run.data, run.task, run.plan, run.accelerator, step, places)
    run.finite_guard.ids_at = run.sampler.ids_at
    run_dir.write_options(run.folder, run.args)
    failures.set_memory_remedy(remedy(run.args, run.accelerator, parts))


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _fits(args: TrainOptions, task: Task, data: DataSplits, accelerator: Accelerator) -> bool:
    """Whether this process has room for training and evaluation with that many micro-batches."""
    with hardware.giving_back_freed_memory(accelerator.device):
        try:
            _try_out(args, task, data, accelerator)
            return True
        except Exception as error:
            if not failures.is_out_of_memory(error):
                raise
    return False


def _try_out(args: TrainOptions, task: Task, data: DataSplits, accelerator: Accelerator) -> None:
    """Train on as many black images as a micro-batch has, at every size and with every part that is ever trained."""
    processes = accelerator.num_processes
    rows = args.batch_size // (processes * args.accumulate)
    if build.synchronizes_batch_norm(args, processes, sharded=False):
        rows = max(rows, 2)  # batch norm by itself, as here, may want two
    # The batch size tells `build_model` how many images a process has at a time.
    alone = replace(args, sync_bn=False, pretrained=None, batch_size=rows * processes * args.accumulate)
    model = build.build_model(alone, task, data, sharded=False).to(accelerator.device)
    optimizer = optimizer_for(args, model)
    # What else a run keeps; the buckets are those by which processes exchange gradients.
    average = EMA(model, args.ema) if args.ema else None
    buckets = [torch.empty_like(parameter) for parameter in model.parameters()] if processes > 1 else []
    frozen = by_epoch(parse_freeze(args.freeze), args.epochs)
    sizes = task.train_sizes or [None] * args.epochs
    epochs = list({(part, size): epoch for epoch, (part, size) in enumerate(zip(frozen, sizes, strict=True))}.values())
    # The first once more, beside gradients and the optimizer's state.
    for epoch in [*epochs, epochs[0]]:
        param_groups.freeze(model, frozen[epoch])
        batch = _black_images(rows * (2 if task.augment.mixes else 1), data).to(accelerator.device)
        inputs, targets = task.training_batch(batch, epoch)
        with accelerator.autocast():
            outputs = model(inputs)
        task.loss(outputs, targets).backward()
        optimizer.step()
    batch = _black_images(args.batch_size // args.accumulate, data).to(accelerator.device)
    with torch.no_grad(), accelerator.autocast():
        model.eval()(task.inputs(batch.images))
    del average, buckets  # kept until here


def _black_images(count: int, data: DataSplits) -> Batch:
    labels = np.resize(data.train.arrays.labels[data.train.ids], count)
    images = torch.zeros(count, *data.shape, dtype=torch.uint8)
    return Batch(images, torch.from_numpy(labels), torch.arange(count))
