"""The layer whose feature maps are explained: the last that still knows where in the image things are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.suggest import did_you_mean, near


@dataclass(frozen=True)
class Layer:
    """A layer and how its output is seen as maps, float (B, C, h, w); `size` is their (h, w) for one input."""

    name: str
    module: nn.Module
    to_maps: Callable[[Tensor], Tensor]
    size: tuple[int, int]

    def in_words(self) -> str:
        """For titles: that a map has few cells explains why the heat is smeared."""
        return f"maps of {self.size[0]}x{self.size[1]} from layer {self.name}"


@dataclass(frozen=True)
class _Call:
    """A module's output (B, ...) in a probe; the gradient of the largest logit is in `output.grad`."""

    name: str
    module: nn.Module
    output: Tensor


def find_layer(model: nn.Module, inputs: Tensor, wanted: str | None) -> Layer:
    """The layer called `wanted`, or where that is None the one that suits the model's family.

    Of a convolutional net that is the last map as large as the last convolution's, before pooling; of a transformer
    the last norm whose tokens, the class token apart, still reach the class (as Gildenblat's grad-cam advises).

    Args:
        model: a classifier in evaluation mode.
        inputs: float (1, C, H, W), one image as the model takes it.

    Raises:
        UserError: there is no such layer, or its output is no map of the image, or no layer of the model gives one.
    """
    calls = _probe(model, inputs)
    if wanted is None:
        found = _default(model, calls)
        if found is None:
            raise UserError(
                "--explain: no layer of this model keeps the places of the image, which the CAM methods need: "
                "give integrated-gradients or occlusion"
            )
        return _layer(model, found)
    known = dict(model.named_modules())
    if wanted not in known:
        default = _default(model, calls)
        hint = did_you_mean(near(wanted, known) or ([default.name] if default else []), after=" ")
        raise UserError(f"--explain-layer {wanted}: the model has no layer of this name; {hint}see the modules' names")
    call = next((call for call in calls if call.name == wanted), None)
    if call is None or as_maps(model, call.module, call.output) is None:
        shape = "nothing that is a tensor" if call is None else f"an output of shape {tuple(call.output.shape)}"
        raise UserError(f"--explain-layer {wanted}: gives {shape}, no map of the image: give an earlier layer")
    return _layer(model, call)


def _layer(model: nn.Module, call: _Call) -> Layer:
    size = tuple(as_maps(model, call.module, call.output).shape[2:])
    return Layer(call.name, call.module, partial(as_maps, model, call.module), size)


def as_maps(model: nn.Module, module: nn.Module, output: Tensor) -> Tensor | None:
    """A module's output (B, ...) as (B, C, h, w) of more than one place, or None where it is no such thing.

    Knows maps with the channels first, those with the channels last of timm's Swin and its like, and tokens, which
    follow the class token and registers (`num_prefix_tokens`).
    """
    if output.ndim == 4:
        channels_first = getattr(model, "output_fmt", "NCHW") != "NHWC" or isinstance(module, nn.Conv2d)
        maps = output if channels_first else output.permute(0, 3, 1, 2)
    elif output.ndim == 3:
        tokens = output[:, getattr(model, "num_prefix_tokens", 0) :]
        grid = _grid(model, tokens.shape[1])
        if grid is None:
            return None
        maps = tokens.transpose(1, 2).unflatten(2, grid)
    else:
        return None
    return maps if maps.shape[2] * maps.shape[3] > 1 else None


def _grid(model: nn.Module, tokens: int) -> tuple[int, int] | None:
    """(rows, columns) of so many tokens: the patches' where they fit, else those of a square."""
    for embedding in (getattr(model, "patch_embed", None), getattr(model, "stem", None)):
        grid = getattr(embedding, "grid_size", None)
        if grid is not None and math.prod(grid) == tokens:
            return tuple(grid)
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None


def _probe(model: nn.Module, inputs: Tensor) -> list[_Call]:
    """Run the model forward and backward once; the calls of its modules, in the order in which they ended."""
    calls: list[_Call] = []

    def record(name: str, module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or len(output) != len(inputs):
            return None
        if output.requires_grad:
            output.retain_grad()
        calls.append(_Call(name, module, output))
        return output.clone()  # the next module may write into it

    hooks = [module.register_forward_hook(partial(record, name)) for name, module in model.named_modules()]
    try:
        with torch.enable_grad():
            model(inputs).amax(1).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    model.zero_grad()
    return calls


def _default(model: nn.Module, calls: list[_Call]) -> _Call | None:
    with_weights = [i for i, call in enumerate(calls) if any(True for _ in call.module.parameters(recurse=False))]
    before_the_head = calls[: with_weights[-1]] if with_weights else []
    maps = [(call, as_maps(model, call.module, call.output)) for call in before_the_head]
    maps = [(call, map_) for call, map_ in maps if map_ is not None]
    if not maps:
        return None
    last, _ = maps[-1]
    if last.output.ndim == 3 or as_maps(model, last.module, last.output) is not last.output:
        norms = [call for call, _ in maps if isinstance(call.module, nn.LayerNorm) and _reaches_the_class(model, call)]
        return norms[-1] if norms else last
    convolutions = [map_ for call, map_ in maps if isinstance(call.module, nn.Conv2d)]
    if not convolutions:
        return None
    return [call for call, map_ in maps if map_.shape[2:] == convolutions[-1].shape[2:]][-1]


def _reaches_the_class(model: nn.Module, call: _Call) -> bool:
    """Whether the tokens that are places of the image have a gradient: after the last attention they may have none."""
    return call.output.grad is not None and bool(as_maps(model, call.module, call.output.grad).any())
