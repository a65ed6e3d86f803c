"""Optimizers by name, and which parameters learn how fast."""

import torch
from torch import nn

from common.errors import UserError
from common.no_compiler import plain
from engine.optim.muon import Muon
from models import param_groups
from options.groups import TrainOptions


def optimizer_for(args: TrainOptions, model: nn.Module, sharded: bool = False) -> torch.optim.Optimizer:
    """The optimizer that a run's options ask for; see `build_optimizer`."""
    return build_optimizer(
        model,
        args.optimizer,
        lr=args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        head_lr=args.head_lr,
        bias_lr=args.bias_lr,
        layer_decay=args.layer_decay,
        sharded=sharded,
        frozen=args.freeze != "none",
    )


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    head_lr: float = 1.0,
    bias_lr: float = 1.0,
    layer_decay: float = 1.0,
    sharded: bool = False,
    frozen: bool = False,
) -> torch.optim.Optimizer:
    """Make an optimizer; weight decay goes to matrices and kernels only, not to biases and norms (1-d parameters).

    Args:
        head_lr, bias_lr: what `lr` is multiplied by for the last layer's weight, and for biases and norms.
        layer_decay: what it is multiplied by, once more, for each group of layers further from the head.
        sharded: whether the parameters will be DTensors, which know no fused SGD.
        frozen: whether some learn only later, whose momentum fused SGD would miss (torch 2.15).

    Raises:
        UserError: Muon for sharded parameters.
    """
    layer_types = (nn.Linear, nn.Conv1d, nn.Conv2d) if name == "muon" else ()
    inner = {module.weight for module in model.modules() if isinstance(module, layer_types)}
    groups = _groups(model, inner, weight_decay, head_lr, bias_lr, layer_decay)
    if name == "muon" and sharded:
        raise UserError("--optimizer muon needs whole weights: give another one, or train without FSDP")
    kinds = {
        "sgd": (torch.optim.SGD, {"momentum": momentum, "nesterov": momentum > 0, "fused": not (sharded or frozen)}),
        "adam": (torch.optim.Adam, {"fused": True}),
        "adamw": (torch.optim.AdamW, {"fused": True}),
        "muon": (Muon, {"momentum": momentum}),
        "nadam": (torch.optim.NAdam, {"decoupled_weight_decay": True}),
        "radam": (torch.optim.RAdam, {"decoupled_weight_decay": True}),
        "rmsprop": (torch.optim.RMSprop, {"momentum": momentum}),
    }
    optimizer, settings = kinds[name]
    return plain(optimizer)(groups, lr=lr, **settings)


def _groups(
    model: nn.Module, inner: set[nn.Parameter], weight_decay: float, head_lr: float, bias_lr: float, layer_decay: float
) -> list[dict]:
    """Parameters with one learning rate and decay together; those of `inner`, which Muon orthogonalises, apart."""
    kinds = {"inner": (weight_decay, 1.0), "other": (weight_decay, 1.0), "head": (weight_decay, head_lr)}
    kinds["bias"] = (0.0, bias_lr)
    scales = param_groups.lr_scales(model, layer_decay)
    of_heads = param_groups.head_names(model)
    sorted_in: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "inner" if parameter in inner else "other"
        kind = "bias" if parameter.ndim <= 1 else "head" if name in of_heads else kind
        sorted_in.setdefault((kind, scales[name]), []).append(parameter)
    return [
        {
            "params": sorted_in[kind, scale],
            "lr_scale": factor * scale,
            "weight_decay": decay,
            "orthogonal": kind == "inner",
        }
        for kind, (decay, factor) in kinds.items()
        for of_kind, scale in sorted(sorted_in)
        if of_kind == kind
    ]
