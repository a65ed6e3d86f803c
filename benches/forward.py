"""Benches `forward` and `train`: a model eager, compiled, exported, traced, scripted; precisions; memory formats."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benches.budget import Budget
from benches.images import make_images
from benches.report import Row, Section
from benches.step import autocast, training_step
from benches.timing import calls_for, interleave, warm_up
from benches.variants import EAGER, MODES, OWN_LAYERS, check_pays, check_time, why_not
from data.loader import ImageDataset
from engine.build import build_model, build_task
from options.bench import BenchOptions
from tasks.base import Task

WORDS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


class Variant(NamedTuple):
    """One way to compute: a key of MODES, the precision ("no", "bf16", "fp16") and the memory format."""

    mode: str
    precision: str
    channels_last: bool

    def in_words(self) -> str:
        return f"{self.mode}, {WORDS[self.precision]}, {'channels_last' if self.channels_last else 'contiguous'}"


def measure(
    what: str, args: BenchOptions, device: torch.device, precision: str, batch_size: int, budget: Budget
) -> Section:
    """Time one batch size: every mode in the options' precision and format, and eager in the others.

    Args:
        what: "forward" (in evaluation mode, without gradients) or "train" (a whole step of the bare model).
        args: the options of bench.py.
        device: where.
        precision: that of the options, "auto" resolved.
        batch_size: images of a call.
        budget: the first variant is measured even where it is spent.
    """
    torch._dynamo.reset()  # what was compiled for another batch size would count towards the limit of recompilations
    rows: dict[str, Row] = {}
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    reference = None
    for variant in _variants(what, args, precision):
        name = variant.in_words()
        try:
            check_pays(variant.precision, precision, device)
            if calls:
                check_time(budget)
            call, outputs = prepare(what, variant, args, device, batch_size)
            calls[name] = call, calls_for(warm_up(call, device, budget))
        except Exception as error:  # a compiler, a model or a device may refuse in any way: its line says why
            rows[name] = Row(name, batch_size, reason=why_not(error))
            continue
        reference = outputs if reference is None and variant.mode == EAGER else reference
        rows[name] = Row(name, batch_size, difference=difference(outputs, reference))
    for name, timing in interleave(calls, args.rounds, device, budget).items():
        rows[name].timing = timing
    shape = f"{args.channels}x{args.image_size}x{args.image_size}"
    title = f"{what}: {args.model}, {batch_size} images of {shape} a call"
    facts = {"batch_size": batch_size, "compared": {"forward": "logits", "train": "gradients"}[what]}
    return Section(what, title, list(rows.values()), facts=facts)


def _variants(what: str, args: BenchOptions, precision: str) -> list[Variant]:
    """Eager as the options have it comes first: the others are compared with it."""
    # Ours differ from PyTorch's own in training alone.
    modes = [Variant(mode, precision, args.channels_last) for mode in MODES if what == "train" or mode != OWN_LAYERS]
    eager = [
        Variant(EAGER, other, channels_last)
        for other in dict.fromkeys((precision, "no", "bf16"))
        for channels_last in (args.channels_last, not args.channels_last)
    ]
    return list(dict.fromkeys(modes + eager))


def prepare(
    what: str, variant: Variant, args: BenchOptions, device: torch.device, batch_size: int
) -> tuple[Callable[[], object], Tensor]:
    """(what is to be timed, the logits or gradients that it gives), on a model of its own with the same weights."""
    options = replace(args, channels_last=variant.channels_last)
    data = make_images(args.image_size, args.channels, batch_size)
    task = build_task(options, data, device)
    batch = ImageDataset(data.train.arrays).batch(data.train.ids).to(device)
    inputs, targets = task.inputs(batch.images), task.targets(batch)
    model = build_model(options, task, data, sharded=False).to(device)
    if what == "forward":
        model.eval()
    with autocast(device, variant.precision), torch.set_grad_enabled(what == "train"):
        # Tracing writes down the casts of autocast; the others meet them when they run.
        module = MODES[variant.mode](model, inputs)
    if what == "train":
        gradients = _gradients(module, task, inputs, targets, variant.precision)
        step = training_step(module, model, options, variant.precision, (inputs, targets), task.loss)
        return step, gradients

    def forward() -> Tensor:
        with torch.no_grad(), autocast(device, variant.precision):
            return module(inputs)

    return forward, forward().float()


def _gradients(module: nn.Module, task: Task, inputs: Tensor, targets: Tensor, precision: str) -> Tensor:
    """All gradients of one batch's loss in the order of the parameters' names, flat; the module's own are dropped."""
    torch.manual_seed(0)  # for dropout
    with autocast(inputs.device, precision):
        outputs = module(inputs)
    task.loss(outputs, targets).backward()
    named = {name.removeprefix("_orig_mod."): parameter for name, parameter in module.named_parameters()}
    flat = torch.cat([named[name].grad.flatten() for name in sorted(named) if named[name].grad is not None])
    module.zero_grad()
    return flat


def difference(outputs: Tensor, reference: Tensor | None) -> float | None:
    """The largest difference as a share of the reference's largest value; None where they cannot be compared."""
    if reference is None or outputs is reference or outputs.shape != reference.shape:
        return None
    return ((outputs - reference).abs().max() / reference.abs().max()).item()
