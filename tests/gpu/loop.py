"""The loop of train.py beside the bare model, how often a step waits for the GPU, and how busy it keeps it."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import train
from benches import loop
from benches.budget import UNLIMITED
from benches.images import make_images
from benches.timing import synchronize
from engine.output import trackers
from engine.run import Run
from engine.runtime.accelerator import start_accelerator
from engine.runtime.signals import StopRequest
from options.bench import parse_bench
from tests.gpu.options import Options

JOBS = (
    "--recipe cifar10_94",
    "--model cnn --batch-sizes 512",
    "--model timm/resnet50 --image-size 224 --batch-sizes 128 --augment flip",
)
TINY = ("--model cnn --model-arg width=2 --image-size 8 --batch-sizes 2 --augment flip --cpu --mixed-precision no",)
WARM_UP, STEPS = 12, 9  # so that the profiled steps are 13 to 21 and, with a look at step 20, one of them looks
STEP = "one step of train.py"
# What the host waits in, as the profiler names it; of a CPU, what would make it wait for a GPU.
WAITS = {
    "cuda": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "cpu": ("aten::_local_scalar_dense",),
}


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """The ratio, then the profile, of each job."""
    for number, job in enumerate(TINY if options.dry_run else JOBS):
        args = parse_bench(["--what", "loop", "--rounds", "2" if options.dry_run else "3", *job.split()])
        accelerator, args = start_accelerator(args)
        batch_size = args.batch_sizes[0]
        section = loop.measure(args, accelerator, batch_size, train.begin, train.steps, UNLIMITED)
        record({"job": job, "ratio": section.facts["ratio"], "ms_of_a_step": section.facts["milliseconds_of_a_step"]})
        folder = str(Path(options.scratch) / f"profiled-{number}")
        args = replace(args, batch_size=batch_size, epochs=1, output_dir=folder)
        data = make_images(args.image_size, args.channels, batch_size * 100)
        with contextlib.redirect_stdout(io.StringIO()):
            run = train.begin(args, accelerator, data, StopRequest(None))
        record({"job": job, **profiled(run)})
        run.progress.close()
        trackers.finish(run.trackers)
        accelerator.free_memory()


def profiled(run: Run) -> dict:
    """Waits of each of some steps, and the share of their time in which the GPU computed."""
    device, steps = run.accelerator.device, train.steps(run)
    for _ in range(WARM_UP):
        next(steps)
    synchronize(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            with record_function(STEP):
                next(steps)
        synchronize(device)
    events = profiler.events()
    # What record_function marks, steps and the optimizer's among them, shows on the device's time line too.
    host = torch.autograd.DeviceType.CPU
    ranges = [e.time_range for e in events if e.name == STEP and e.device_type == host]
    waits = [e.time_range.start for e in events if e.name in WAITS.get(device.type, WAITS["cpu"])]
    kernels = [e.time_range for e in events if e.device_type != host and not e.is_user_annotation]
    return {
        "profiled_steps": STEPS,
        "looks_every": run.finite_guard.look_every,
        "waits_of_each_step": [sum(r.start <= wait <= r.end for wait in waits) for r in ranges],
        "gpu_busy_share": busy_share([(k.start, k.end) for k in kernels], min(r.start for r in ranges)),
    }


def busy_share(kernels: list[tuple[float, float]], start: float) -> float | None:
    """The share of the time from `start` to the last kernel's end in which some kernel ran; None without a GPU."""
    if not kernels:
        return None
    busy, reached = 0.0, start
    for begin, end in sorted(kernels):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return busy / (reached - start)
