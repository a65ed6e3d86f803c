"""Bench `layers`: a training step with the layers of `models/layers/` and with PyTorch's own in their place."""

from dataclasses import replace

import torch

from benches.budget import Budget
from benches.forward import WORDS, Variant, difference, prepare
from benches.report import Row, Section, in_words, round_ratios, spread
from benches.timing import calls_for, interleave, warm_up
from benches.variants import EAGER, OWN_LAYERS
from common.errors import UserError
from models.factory import create_model
from models.layers.swap import give_back
from options.bench import BenchOptions, timm_model

USUAL = "timm/resnet18"


def refuse_early(args: BenchOptions, device: torch.device) -> None:
    """Raise UserError where none of our layers would be timed."""
    if device.type != "cpu":
        raise UserError("--what layers: our layers are for training on CPUs: add --cpu, or leave layers out")
    name, shape = timm_model(args, USUAL), (args.channels, args.image_size, args.image_size)
    if not give_back(create_model(name, input_shape=shape, num_classes=10)):
        raise UserError(f"--what layers: {name} has none but PyTorch's own layers: leave --model out")


def measure(args: BenchOptions, device: torch.device, precision: str, batch_size: int, budget: Budget) -> Section:
    """Time a step of the bare model both ways; the model is timm's that --model names, or ResNet-18 where none is.

    Args:
        args: the options of bench.py.
        device: a CPU.
        precision: that of the options, "auto" resolved.
        batch_size: images of a step.
        budget: for warming up and all rounds.
    """
    options = replace(args, model=timm_model(args, USUAL))
    calls, gradients = {}, {}
    for mode in (OWN_LAYERS, EAGER):
        variant = Variant(mode, precision, args.channels_last)
        call, gradients[mode] = prepare("train", variant, options, device, batch_size)
        calls[mode] = call, calls_for(warm_up(call, device, budget))
    timings = interleave(calls, args.rounds, device, budget)
    differ = difference(gradients[EAGER], gradients[OWN_LAYERS])
    rows = [Row(OWN_LAYERS, batch_size, timings[OWN_LAYERS]), Row(EAGER, batch_size, timings[EAGER], differ)]
    ratios = round_ratios(timings[OWN_LAYERS], timings[EAGER])
    shape = f"{args.channels}x{args.image_size}x{args.image_size}"
    title = f"layers: a step of {options.model}, {batch_size} images of {shape}, {WORDS[precision]}"
    facts = {"batch_size": batch_size, "compared": "gradients", "ratio": spread(ratios)}
    return Section("layers", title, rows, ["", in_words(ratios)], facts)
