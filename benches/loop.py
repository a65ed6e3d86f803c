"""Bench `loop`: what train.py's own loop costs over the bare model, and where the rest goes."""

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from benches.budget import Budget
from benches.images import ROWS, make_images
from benches.report import Row, Section, in_words, round_ratios, spread
from benches.step import training_step
from benches.timing import MOST_CALLS, Timing, calls_for, interleave, warm_up, warmed_up
from common.console import percent
from engine.build import build_model
from engine.optim.schedule import set_lr
from engine.output import trackers
from engine.run import Run
from engine.runtime.accelerator import seed_step
from engine.runtime.signals import StopRequest
from options.bench import BenchOptions
from tasks.metric_sums import add

CHUNK_SECONDS = 1.0
BARE, LOOP = "bare model's training step", "loop of train.py"


def measure(
    args: BenchOptions,
    accelerator: Accelerator,
    batch_size: int,
    begin: Callable[..., Run],
    steps: Callable[[Run], Iterator[int]],
    budget: Budget,
) -> Section:
    """Let a run of train.py and the bare model take turns of some steps each, in one process.

    The run is on made-up images and long enough that no epoch ends: evaluation and checkpoints are not the loop.
    It writes into a folder that is removed.

    Args:
        args: the options of bench.py and, for the rest, of train.py.
        accelerator: of this process, which is the only one.
        batch_size: images of a step.
        begin, steps: those of train.py.
        budget: two thirds are for the loop and the bare model, one for the parts.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = begin_run(args, accelerator, batch_size, begin, folder)
        loop = steps(run)
        batch = run.task.training_batch(next(iter(run.batches())).to(accelerator.device), 0)
        bare_model = build_model(run.args, run.task, run.data, sharded=False).to(accelerator.device)
        called = torch.compile(bare_model) if args.compile else bare_model
        bare = training_step(called, bare_model, run.args, accelerator.mixed_precision, batch, run.task.loss)
        shares = budget.divide([2, 1])
        whole = take_turns(run, {BARE: bare, LOOP: lambda: next(loop)}, next(shares))
        parts = _time_parts(run, bare_model, batch, next(shares))
        end_run(run)
    return _section(args, run, whole, parts)


def begin_run(
    args: BenchOptions, accelerator: Accelerator, batch_size: int, begin: Callable[..., Run], folder: str
) -> Run:
    """A run of train.py on made-up images, long enough that no epoch ends; it writes into `folder`.

    Args:
        args: the options of bench.py and, for the rest, of train.py.
        accelerator: of this process.
        batch_size: images of a step, over all processes.
        begin: that of train.py.
    """
    most_steps = 3 * MOST_CALLS * (args.rounds + 1)  # more than all that is timed here
    data = make_images(args.image_size, args.channels, max(ROWS, batch_size * most_steps))
    options = replace(args, batch_size=batch_size, output_dir=folder, epochs=1)
    with contextlib.redirect_stdout(io.StringIO()):  # a run introduces itself; the table says what was measured
        return begin(options, accelerator, data, StopRequest())


def end_run(run: Run) -> None:
    """Close what `begin_run` has opened."""
    run.progress.close()
    trackers.finish(run.trackers)
    run.accelerator.free_memory()


def take_turns(run: Run, variants: dict[str, Callable[[], object]], budget: Budget) -> dict[str, Timing]:
    """Time what is in turn the loop of `run` and something else, in chunks of equally many steps.

    The loop logs at the last one of a chunk.
    """
    device = run.accelerator.device
    calls = calls_for(max(warm_up(call, device, budget) for call in variants.values()), CHUNK_SECONDS)
    run.log_every = min(run.log_every, calls)
    return interleave({name: (call, calls) for name, call in variants.items()}, run.args.rounds, device, budget)


def _time_parts(run: Run, model: torch.nn.Module, batch: tuple[Tensor, Tensor], budget: Budget) -> dict[str, Timing]:
    """Time what the loop does beside the model, each part alone, once a step."""
    device, task = run.accelerator.device, run.task
    batches = iter(run.batches())
    raw = next(batches).to(device)
    inputs, targets = batch
    outputs = model(inputs)
    loss = task.loss(outputs, targets)
    loss.backward()  # the finite check reads gradients

    def observe_and_check() -> None:
        run.finite_guard.observe(loss)
        add(run.state.metrics, task.batch_metrics(loss, outputs, targets))
        run.finite_guard.check(run.state.step)

    def set_lr_and_seed() -> None:
        set_lr(run.optimizer, run.lr_at(run.state.step))
        seed_step(run.args.seed, run.state.step, 0, device)

    def once_in_a_while() -> None:
        run.state.step += 1
        run.progress.step(run.state.step, run.state.mean_metrics)
        if run.state.step % run.log_every == 0:
            run.log_train_metrics()
        run.stop_requested()

    parts = {
        "data: gather, copy to the device": lambda: next(batches).to(device),
        "data: augment, normalise": lambda: task.training_batch(raw, 0),
        "of which normalise": lambda: task.inputs(raw.images),
        "metrics and finite check": observe_and_check,
        "progress, log, stop": once_in_a_while,
        "learning rate and seed": set_lr_and_seed,
    }
    timed = warmed_up(parts, device, budget)
    # The run's log falls on every so many steps; fewer calls than that would miss it.
    timed["progress, log, stop"] = once_in_a_while, run.log_every
    return interleave(timed, run.args.rounds, device, budget)


def _section(args: BenchOptions, run: Run, whole: dict[str, Timing], parts: dict[str, Timing]) -> Section:
    batch_size = run.args.batch_size
    ratios = round_ratios(whole[BARE], whole[LOOP])
    milliseconds = {name: 1000 * timing.median for name, timing in (whole | parts).items()}
    known = sum(milliseconds[name] for name in parts if name != "of which normalise")
    over = [a - b for a, b in zip(whole[LOOP].seconds, whole[BARE].seconds, strict=True)]
    milliseconds["the rest: Accelerate, and what parts cost one another"] = 1000 * statistics.median(over) - known
    width = max(map(len, milliseconds))
    notes = ["", in_words(ratios), ""]
    notes += [f"{'milliseconds of a step':<{width}}  {'':>10}  of the loop's"]
    notes += [
        f"{name:<{width}}  {value:>10.3f}  {percent(value / milliseconds[LOOP]):>8}"
        for name, value in milliseconds.items()
    ]
    title = (
        f"loop: train.py with {args.model}, {batch_size} images of {args.channels}x{args.image_size}x{args.image_size} "
        f"a step, {args.optimizer}, --augment {args.augment}, {run.accelerator.mixed_precision} precision"
    )
    facts = {
        "batch_size": batch_size,
        "ratio": spread(ratios),
        "milliseconds_of_a_step": milliseconds,
    }
    rows = [Row(name, batch_size, timing) for name, timing in whole.items()]
    return Section("loop", title, rows, notes, facts)
