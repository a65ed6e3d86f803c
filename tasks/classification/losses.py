"""Losses of classification for each sample, from logits and labels or soft targets, and weights of classes."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

PerSample = Callable[[Tensor, Tensor, float], Tensor]  # logits (B, K), targets (B, K), label smoothing -> (B,)


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """-log p of the target, in nats, float32 (B,); targets int64 (B,) or float (B, K)."""
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def binary_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The mean over classes of "is it this one?", as timm has it (Wightman et al. 2021, arXiv:2110.00476)."""
    losses = F.binary_cross_entropy_with_logits(logits, _soft(targets, logits, smoothing), reduction="none")
    return losses.mean(1)


def focal(gamma: float) -> PerSample:
    """Cross-entropy times (1 - p)^gamma: what is right already counts less (Lin et al. 2017, arXiv:1708.02002)."""

    def loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        log_p = F.log_softmax(logits, 1)
        return -(_soft(targets, logits, smoothing) * (1 - log_p.exp()) ** gamma * log_p).sum(1)

    return loss


# name -> gamma, which the focal loss alone takes -> the loss
BY_NAME: dict[str, Callable[[float], PerSample]] = {
    "ce": lambda _: cross_entropy,
    "bce": lambda _: binary_cross_entropy,
    "focal": focal,
}


def _soft(targets: Tensor, logits: Tensor, smoothing: float) -> Tensor:
    """Targets as smoothed shares of the classes, float32 (B, K)."""
    classes = logits.shape[1]
    shares = F.one_hot(targets, classes).to(logits) if targets.ndim == 1 else targets
    return shares * (1 - smoothing) + smoothing / classes


def weights_of_samples(weights: Tensor, targets: Tensor) -> Tensor:
    """Each sample's weight, (B,), from those of the classes, (K,): of a mixed target the mean of its classes'."""
    return weights[targets] if targets.ndim == 1 else targets @ weights


def weights_of_classes(spec: str | float | Mapping[str, float], counts: Sequence[int], names: Sequence[str]) -> Tensor:
    """The weight of each class in the loss, float32 (K,).

    Args:
        spec: from `options.values.parse_class_weights`. "auto": the inverse of a class's images. A number, beta: the
            inverse of their effective number, (1 - beta^n) / (1 - beta) (Cui et al. 2019, arXiv:1901.05555). Both are
            scaled to a mean of 1 over the training images. Weights by name: as they are, 1 where none is given.
        counts: training images of each class.
        names: of the classes.

    Raises:
        ValueError: a name is that of no class.
    """
    if isinstance(spec, Mapping):
        unknown = [name for name in spec if name not in names]
        if unknown:
            raise ValueError(f"--class-weights: there is no class {unknown[0]}; the classes are {', '.join(names)}")
        return torch.tensor([float(spec.get(name, 1.0)) for name in names])
    images = torch.tensor(counts, dtype=torch.float64)
    effective = images if spec == "auto" else (1 - float(spec) ** images) / (1 - float(spec))
    weights = torch.where(images > 0, 1 / effective, 0.0)
    return (weights * images.sum() / (weights * images).sum()).float()
