"""The ways to run a model: as it is, with PyTorch's own layers, compiled, CUDA graphs, exported, traced, scripted."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benches.budget import Budget
from engine.runtime import hardware
from models.layers.swap import give_back

EAGER = "eager"
NO_TIME = "no time was left for it; a larger --budget has some"
OWN_LAYERS = "eager, PyTorch's own layers"


class Refused(Exception):
    """A variant that is not worth its time; the message says why."""


def _own_layers(model: nn.Module, _inputs: Tensor) -> nn.Module:
    """The model without what `models/layers/` brings in training on CPUs."""
    if not give_back(model):
        raise Refused("the model has none but PyTorch's own")
    return model


def _compile(model: nn.Module, _inputs: Tensor) -> nn.Module:
    return torch.compile(model, dynamic=False)


def _export(model: nn.Module, inputs: Tensor) -> nn.Module:
    return torch.export.export(model, (inputs,)).module()


def _cuda_graphs(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The model's forward and backward pass as recorded CUDA graphs, which are launched as a whole."""
    if inputs.device.type != "cuda":
        raise Refused("CUDA graphs need a CUDA GPU")
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # casts that are kept from outside of a recording cannot be replayed
    try:
        return torch.cuda.make_graphed_callables(model, (inputs,))
    finally:
        torch.set_autocast_cache_enabled(cached)


def _trace(model: nn.Module, inputs: Tensor) -> nn.Module:
    with _without_deprecation():
        return torch.jit.trace(model, inputs, check_trace=False)


def _script(model: nn.Module, _inputs: Tensor) -> nn.Module:
    from torch.jit import _recursive

    with _without_deprecation():
        try:
            return torch.jit.script(model)
        except Exception:
            # The type left half defined would be the next failure's reason ("Can't redefine method"), not the model.
            _recursive.concrete_type_store = _recursive.ConcreteTypeStore()
            raise


# name -> (model, inputs) -> what is called in its place. torch.jit is deprecated since PyTorch 2.14.
MODES: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    EAGER: lambda model, _inputs: model,
    OWN_LAYERS: _own_layers,
    "torch.compile": _compile,
    "CUDA graphs": _cuda_graphs,
    "torch.export": _export,
    "jit.trace (deprecated)": _trace,
    "jit.script (deprecated)": _script,
}


def check_pays(precision: str, asked: str, device: torch.device) -> None:
    """Raise Refused for bf16 ("no", "bf16", "fp16") that nobody asked for and in which the hardware is slower."""
    if precision == "bf16" != asked and not hardware.bf16_pays(device.type):
        raise Refused("bf16 is slower than fp32 on this hardware; --mixed-precision bf16 measures it all the same")


def check_time(budget: Budget) -> None:
    """Raise Refused where the time for getting variants ready is over."""
    if not budget.may_prepare():
        raise Refused(NO_TIME)


def _without_deprecation() -> warnings.catch_warnings:
    """The table says in words that torch.jit is deprecated."""
    return warnings.catch_warnings(action="ignore")


def why_not(error: Exception) -> str:
    """In one line why a variant could not run; its makers put the reason into the first lines of long messages."""
    text = str(error)
    if isinstance(error, Refused):
        return text
    if "InvalidCxxCompiler" in text or "No working C++ compiler" in text:
        return "torch.compile needs a C++ compiler, such as g++, and there is none"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory: give smaller --batch-sizes"
    lines = [line.strip() for line in text.splitlines() if line.strip(" :^~")]
    reason = " ".join(lines[:2]) or "no reason given"
    return f"{type(error).__name__}: {reason if len(reason) <= 160 else reason[:159] + '…'}"
