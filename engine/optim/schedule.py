"""The learning rate as a function of the step: there is no scheduler to save or to step."""

import math

import torch


def lr_at(step: int, total_steps: int, *, peak: float, schedule: str, warmup: float) -> float:
    """The learning rate of a step, a pure function.

    Args:
        step: 0 .. total_steps - 1.
        total_steps: optimizer steps of the whole run.
        peak: the highest learning rate.
        schedule: "cosine" and "linear" fall to 0; "onecycle" rises by a half cosine from peak / 25 and falls to
            peak / 250,000 (Smith & Topin 2017, arXiv:1708.07120, with PyTorch's OneCycleLR's values);
            "constant" stays.
        warmup: share of the run in which it rises, linearly but for onecycle.
    """
    warmup_steps = int(warmup * total_steps)
    if step < warmup_steps:
        progress = (step + 1) / (warmup_steps + 1)
        if schedule == "onecycle":
            return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * progress)) / 2
        return peak * progress
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    falling = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "onecycle": 4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
    }
    return peak * falling[schedule]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
