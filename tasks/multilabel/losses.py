"""Losses of several labels an image, for each class of each, from logits and targets in 0..1."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

PerClass = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), targets (B, K) -> (B, K)

CLIPPED = 0.05  # probability from which an absent class costs anything, as the authors of the asymmetric loss have it


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of what is so, in nats."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def asymmetric(gamma: float) -> PerClass:
    """What is absent and known to be so counts less, by p^gamma; and nothing below CLIPPED.

    Ridnik et al. 2021, arXiv:2009.14119, with a focus of 1 on what is there, as they and timm have it.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        there = logits.sigmoid()
        absent = (1 - there + CLIPPED).clamp(max=1)
        losses = targets * there.clamp(min=1e-8).log() + (1 - targets) * absent.clamp(min=1e-8).log()
        sure = there * targets + absent * (1 - targets)
        return -losses * (1 - sure) ** (targets + gamma * (1 - targets))

    return loss


# name -> gamma, which the asymmetric loss alone takes -> the loss
BY_NAME: dict[str, Callable[[float], PerClass]] = {
    "ce": lambda _: binary_cross_entropy,
    "bce": lambda _: binary_cross_entropy,
    "asymmetric": asymmetric,
}
