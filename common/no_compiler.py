"""Spares a run that compiles nothing the import of PyTorch's compiler (torch._dynamo), 3 s of its start.

PyTorch 2.15 imports it when an optimizer takes its first step, and when a function that it keeps out of compiled code
is first called: only for the case that the call is within compiled code, which no step of train.py is.
"""

import inspect
from typing import Any, TypeVar

import torch

Optimizer = TypeVar("Optimizer", bound=type[torch.optim.Optimizer])


def spare(*owners: Any) -> None:
    """Have the functions of classes or modules that are kept out of compiled code called as they are.

    Where PyTorch has chosen otherwise already, or another version does it in another way, nothing is changed.
    """
    for owner in owners:
        for member in vars(owner).values():
            function = getattr(member, "__wrapped__", None)
            if function is not None and not hasattr(function, "__dynamo_disable"):
                function.__dynamo_disable = function


def plain(optimizer: Optimizer) -> Optimizer:
    """The same optimizer, whose step no compiled code looks into; it is not for `differentiable=True`."""
    spare(torch.optim.Optimizer)
    return type(optimizer.__name__, (optimizer,), {"step": torch.no_grad()(inspect.unwrap(optimizer.step))})
