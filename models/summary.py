"""What a model is made of: layers, output shapes, parameters, multiply-accumulates."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common import no_compiler


def summarize(model: nn.Module, input_shape: tuple[int, int, int]) -> dict:
    """Count a model's parameters and the multiply-accumulates (MACs) of one image's forward pass.

    Args:
        model: untouched; a copy of it is run once. To compute is quick, unlike to run it on the meta device, for which
            PyTorch imports its compiler: 3 s.
        input_shape: (channels, height, width).

    Returns:
        {"parameters": int, "macs": int, "layers": [{"name", "type", "output", "parameters"}, ...]}, one layer for
        each module without children that ran, in the order of running.
    """
    # Without requires_grad_(False) PyTorch's counter fails on parameters that are handed to modules (timm's cait).
    ghost = copy.deepcopy(model).eval().requires_grad_(False)
    layers: list[dict] = []

    def note(name: str, module: nn.Module, output: object) -> None:
        shape = list(output.shape[1:]) if isinstance(output, torch.Tensor) else []
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        layers.append({"name": name, "type": type(module).__name__, "output": shape, "parameters": parameters})

    for name, module in ghost.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        no_compiler.spare(type(counter.mode))
        ghost(torch.zeros(1, *input_shape, device=next(ghost.parameters()).device))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "layers": layers,
    }


def as_text(summary: dict, model_name: str, verbose: bool, most: int = 40) -> str:
    """The summary as a line of totals, below a table of at most `most` layers where it is to be `verbose`."""
    rows = [
        f"  {layer['name']:<28.28} {layer['type']:<20.20} {'x'.join(map(str, layer['output'])):<14}"
        f" {layer['parameters']:>12,}"
        for layer in summary["layers"]
    ]
    if len(rows) > most:
        rows = [*rows[: most - 3], f"  ... {len(rows) - most + 1} more layers ...", *rows[-2:]]
    total = f"{model_name}: {summary['parameters']:,} parameters, {summary['macs'] / 1e6:,.1f} M MACs an image"
    return "\n".join([*rows, total] if verbose else [total])
