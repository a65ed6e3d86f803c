"""The start of a process: launcher, threads, precision, compilation, until Accelerate has joined it to the others."""

import functools
import os
import sys
import warnings
from dataclasses import replace

import accelerate.optimizer
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
)

from common.errors import UserError
from engine.runtime import hardware, launch_configuration, launcher, network, peers, sharding
from options.groups import TrainOptions


def start_accelerator(args: launcher.AnyOptions) -> tuple[Accelerator, launcher.AnyOptions]:
    """Set the process up for training or inference on what hardware there is.

    Args:
        args: of train.py or bench.py, or of infer.py, which has `cpu` and `mixed_precision` alone.

    Returns:
        What joins the processes, and the options with what the launcher asks for and the precision chosen, as they
        are to be recorded with the run.

    Raises:
        UserError: fp16 on a CPU, more processes than GPUs, processes that would each train alone, FSDP version 1 or
            compiled, or a launcher that asks for what is not supported.
    """
    launcher.check_environment()
    args = launcher.with_options(args)
    # Asked at every step, each time it looks on the disk for a package that we never use.
    accelerate.optimizer.is_lomo_available = functools.cache(accelerate.optimizer.is_lomo_available)
    hardware.keep_freed_memory()
    # The momentum of a unit that died fades through numbers below 1.2e-38, with which Intel's CPUs compute many times
    # slower: 14 such rows of 1,024 made Muon's step take six times as long. Threads inherit this, so it comes early.
    torch.set_flush_denormal(True)
    cpu = args.cpu or not torch.accelerator.is_available()
    if cpu and not args.cpu:
        launch_configuration.warn_without_accelerator()
    args = replace(args, mixed_precision=hardware.choose_precision(args.mixed_precision, cpu))
    if not cpu:
        hardware.check_gpus()
    training = args if isinstance(args, TrainOptions) else TrainOptions()
    deterministic = training.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():  # to say so imports the compiler: seconds
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    forget_earlier_runs()
    frozen = training.freeze != "none"
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if frozen else []
    network.choose_interface()
    with peers.meeting(), warnings.catch_warnings():
        # Accelerate warns that it chooses a number of threads; it is chosen below.
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
        accelerator = Accelerator(
            cpu=cpu,
            device_placement=False,  # models are put there before; to look at them again it imports DTensor: a second
            mixed_precision=args.mixed_precision,
            dynamo_plugin=compilation(bool(training.compile)),
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
        torch.set_num_threads(hardware.threads_per_process())
    return accelerator, args


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


def end_processes() -> None:
    """Part from the other processes, after the last run: what NCCL holds must be given back before the process ends."""
    peers.part()
    PartialState().destroy_process_group()


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


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed what is left of randomness (dropout, stochastic depth) as a function of (seed, step, rank).

    On the CPU and on `device` alone: torch.manual_seed takes most of a millisecond to reach for devices that are not
    there, and this is done at every step.
    """
    number = (seed * 1_000_003 + step) * 4099 + rank
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)
