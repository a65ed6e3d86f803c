"""From options and data to the parts of a run: task, model, sampler. What a user can get wrong is found out here."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator, PartialState
from torch import nn

import tasks
from common import console, failures
from common.errors import ImpossibleOptions
from data.dataset import DataSplits
from data.loader import TrainSampler
from data.streams.order import Place, StreamSampler, place_for
from engine.checkpoints import pretrained
from models import grad_checkpointing, param_groups
from models.factory import argument_names, create_model
from models.layers.sync_batch_norm import synchronize_batch_norm
from options.groups import TrainOptions
from options.training import BALANCE, SYNC_BN_BELOW, OptimOptions
from options.values import by_epoch, parse_freeze
from tasks.base import Task


@dataclass(frozen=True)
class Plan:
    """How many optimizer steps there are, and what they train.

    Attributes:
        steps_per_epoch, total_steps: optimizer steps.
        frozen: what --freeze leaves out of training, by epoch.
    """

    steps_per_epoch: int
    total_steps: int
    frozen: tuple[str, ...]


def resolve(args: TrainOptions, data: DataSplits, num_processes: int) -> TrainOptions:
    """The options with what follows from images, pretrained weights and processes where nothing was given.

    Raises:
        ImpossibleOptions: --pretrained names no weights, or weights that cannot be had.
    """
    args = pretrained.completed(args)
    return replace(
        args,
        image_size=args.image_size or data.image_size,
        fit=data.geometry.fit,
        crop_pct=data.geometry.crop_pct,
        decode="live" if data.live else "cache",
        batch_size=args.batch_size or default_batch_size(len(data.train), _parts(args, num_processes)),
    )


def default_batch_size(num_samples: int, parts: int) -> int:
    """The global batch size where none is given, divisible by `parts`: processes times micro-batches, and repeats.

    A power of two that leaves at least 20 steps an epoch, so that small data sets are not done in a few steps; but from
    8 on, as batch norm needs several images, and up to 128. Of 3, 5, ... processes each gets as many.
    """
    power = 2 ** int(math.log2(max(1, num_samples / 20)))
    wish = min(max(power, 8), 128)
    return max(min(max(wish // parts * parts, parts), num_samples // parts * parts), parts)


def plan_steps(args: TrainOptions, num_samples: int, num_processes: int) -> Plan:
    """Derive the steps from the global batch size, and what is frozen in which epoch.

    Raises:
        ImpossibleOptions: the batch is larger than the data, or does not divide among processes, micro-batches and
            repeats.
    """
    parts = _parts(args, num_processes)
    repeats = f" and --repeats {args.repeats}" if args.repeats > 1 else ""
    largest = num_samples // parts * parts
    if not largest:
        raise ImpossibleOptions(
            f"{num_samples} training images are too few for {num_processes} processes times --accumulate "
            f"{args.accumulate}{repeats}: start fewer processes{', or repeat less often' if repeats else ''}"
        )
    if args.batch_size > num_samples:
        raise ImpossibleOptions(
            f"--batch-size {args.batch_size} is more than the {num_samples} training images: give {largest} or less"
        )
    if args.batch_size % parts:
        raise ImpossibleOptions(
            f"--batch-size {args.batch_size} is that of all processes together and does not divide by {num_processes} "
            f"processes times --accumulate {args.accumulate}{repeats}: give a multiple of {parts}"
        )
    steps_per_epoch = num_samples // args.batch_size
    frozen = tuple(by_epoch(parse_freeze(args.freeze), args.epochs))
    return Plan(steps_per_epoch, steps_per_epoch * args.epochs, frozen)


def _parts(args: TrainOptions, num_processes: int) -> int:
    """What the global batch size has to divide by; repeats need not stay on one process."""
    return math.lcm(num_processes * (args.accumulate or 1), args.repeats)


def build_task(args: TrainOptions, data: DataSplits, device: torch.device) -> Task:
    """The task of a run.

    Raises:
        ImpossibleOptions: an augmentation or a transform does not fit the images.
    """
    channels = data.shape[2]
    try:
        return tasks.build_task(
            vars(args),
            shape=data.shape,
            class_names=data.class_names,
            mean=_per_channel(args.mean, channels, "--mean") or data.mean,
            std=_per_channel(args.std, channels, "--std") or data.std,
            device=device,
            ranges=data.ranges,
            geometry=data.geometry,
            augment=args.augment,
            num_samples=len(data.train),
            numbered=None if data.targets is None else torch.from_numpy(data.targets),
            class_counts=None if data.of_pairs or args.stream else data.class_counts(),
        )
    except (ValueError, RuntimeError) as error:
        asked = f"--augment {args.augment}" if args.transform is None else f"--transform {args.transform}"
        named = str(error).startswith("--")
        raise ImpossibleOptions(str(error) if named else f"{asked}: {error}") from error


def _per_channel(values: list[float] | None, channels: int, option: str) -> list[float] | None:
    """`values` for as many channels: one stands for all, and three become their mean for grey images."""
    if values is None or len(values) == channels:
        return values
    if len(values) not in (1, 3) or channels not in (1, 3):
        raise ImpossibleOptions(
            f"{option}: {len(values)} values for images of {channels} channels: give {channels}, or one"
        )
    return [sum(values) / len(values)] * channels


def synchronizes_batch_norm(args: OptimOptions, num_processes: int, sharded: bool) -> bool:
    """Whether batch norm's statistics are to be those of all processes' images; see --sync-bn.

    Raises:
        ImpossibleOptions: it was asked for with a sharded model.
    """
    if sharded and args.sync_bn:
        raise ImpossibleOptions("--sync-bn does not go with sharding (FSDP): leave one of them out")
    if num_processes == 1 or sharded:
        return False
    if args.sync_bn is None:
        return args.batch_size // (num_processes * args.accumulate) < SYNC_BN_BELOW
    return args.sync_bn


def build_model(args: TrainOptions, task: Task, data: DataSplits, sharded: bool) -> nn.Module:
    """The model of a run, from the same first weights for the same seed on any number of processes.

    Weights that are to be sharded stay contiguous, as FSDP2 demands; the images may still be channels_last.

    Raises:
        ImpossibleOptions: the constructor refuses --model-arg or the images' size, --pretrained is of another model, or
            --grad-checkpointing cannot be done.
    """
    console.status(f"building {args.model}")
    num_processes = PartialState().num_processes
    synchronized = synchronizes_batch_norm(args, num_processes, sharded)
    torch.manual_seed(args.seed)
    try:
        model = create_model(
            args.model, input_shape=task.input_shape, **task.model_kwargs, conv=args.conv, **args.model_arg
        )
        one_at_a_time = args.batch_size == args.accumulate * num_processes and not synchronized
        _try_out(model, args.model, task, one_at_a_time)
        if args.grad_checkpointing:
            grad_checkpointing.check(model, torch.zeros(2, *task.input_shape))
        if hasattr(model, "init_from") and args.pretrained is None:
            model.init_from(_some_inputs(task, data))
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError, LookupError) as error:
        if failures.is_out_of_memory(error):
            raise
        raise _refusal(args.model, task, error) from error
    if args.pretrained is not None:
        pretrained.load(model, args, data.class_names)
    if args.freeze != "none":
        if sharded:
            raise ImpossibleOptions("--freeze needs whole weights: leave it out, or train without FSDP")
        param_groups.check_frozen(model, [part for part, _ in parse_freeze(args.freeze)])
    if synchronized:
        model = synchronize_batch_norm(model, task.device)
    if args.grad_checkpointing:
        if args.compile:
            raise ImpossibleOptions("--grad-checkpointing does not go with --compile: leave one of them out")
        grad_checkpointing.checkpoint_activations(model)
    model.train()
    return model.to(memory_format=torch.channels_last) if args.channels_last and not sharded else model


@torch.no_grad()
def _try_out(model: nn.Module, name: str, task: Task, one_at_a_time: bool) -> None:
    """Run two images of every size through the model, which may refuse them in any way; no random state is used up.

    Where it is to be trained on `one_at_a_time`, it is tried on one too, which batch norm may refuse.
    """
    channels, *size = task.input_shape
    for height, width in {tuple(size), *((side, side) for side in task.train_sizes or [])}:
        _check_output(name, model.eval()(torch.zeros(2, channels, height, width)), task)
    with torch.random.fork_rng([]):
        _check_output(name, copy.deepcopy(model).train()(torch.zeros(2, *task.input_shape)), task)
        if one_at_a_time:
            copy.deepcopy(model).train()(torch.zeros(1, *task.input_shape))


def _refusal(name: str, task: Task, error: Exception) -> ImpossibleOptions:
    """In one line why a model could not be made, or not run."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown:
        known = ", ".join(argument_names(name))
        hint = f"; it takes {known}" if known else ""
        return ImpossibleOptions(f"--model-arg {unknown[1]}: {name} has no such argument{hint}")
    _, height, width = task.input_shape
    reason = str(error).split("\n")[0] or type(error).__name__
    return ImpossibleOptions(f"--model {name} does not work on {height}x{width} images: {reason}")


def _check_output(model_name: str, output: object, task: Task) -> None:
    """Raise ImpossibleOptions unless the output for 2 images is what the task learns from: (2, *task.output_shape)."""
    if isinstance(output, torch.Tensor) and output.shape == (2, *task.output_shape):
        return
    given = f"shape {tuple(output.shape[1:])}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    raise ImpossibleOptions(
        f"--model {model_name} makes {given} of an image, where shape {task.output_shape} is learnt from: give another "
        "model, or leave out the --model-arg that changes what it makes"
    )


def _some_inputs(task: Task, data: DataSplits, count: int = 5000) -> torch.Tensor:
    """Normalised training images from all over the training part, float32 (N <= count, C, H, W), on the CPU."""
    ids = data.train.ids[:: max(1, len(data.train.ids) // count)][:count]
    images = torch.from_numpy(data.train.arrays.images[ids])
    return task.inputs(images.to(task.device)).cpu()


def build_sampler(
    args: TrainOptions,
    data: DataSplits,
    task: Task,
    plan: Plan,
    accelerator: Accelerator,
    step: int,
    places: Sequence[dict] | None = None,
) -> TrainSampler | StreamSampler:
    """Which samples this process sees from optimizer step `step` to the end of the run.

    `places` in the stream are where the run's processes were at that step; None: at its start, or without one.
    """
    of_both = {
        "seed": args.seed,
        "start_step": step,
        "total_steps": plan.total_steps,
        "global_batch_size": args.batch_size,
        "accumulate": args.accumulate,
        "rank": accelerator.process_index,
        "num_processes": accelerator.num_processes,
        "partners": task.augment.partners if task.augment.mixes else None,
    }
    if args.stream:
        return StreamSampler(
            stream=data.train.stream,
            buffer=args.shuffle_buffer,
            steps_per_epoch=plan.steps_per_epoch,
            start=place_for(places, accelerator.process_index, accelerator.num_processes) if places else Place(),
            **of_both,
        )
    return TrainSampler(
        ids=data.train.ids,
        labels=data.train.arrays.labels[data.train.ids],
        balance=BALANCE[args.balance],
        repeats=args.repeats,
        **of_both,
    )
