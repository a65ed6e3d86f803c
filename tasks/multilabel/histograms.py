"""What a validation keeps of all logits: how many fall into each of some intervals, a sum over batches and processes.

Average precision and the best threshold follow from it, as near as an interval is wide; the test report's is exact.
"""

import numpy as np
import torch
from torch import Tensor

BINS, WIDEST = 2048, 12.0  # intervals of logits in -WIDEST..WIDEST, 0.012 each; what lies outside is in the last


def count(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """How many logits (B, K) of each class fall into each interval, (K * BINS,): of "there", and of "absent"."""
    classes = logits.shape[1]
    bins = ((logits.float() / WIDEST + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    bins += torch.arange(classes, device=logits.device) * BINS
    there = targets > 0.5
    return {
        name: torch.bincount(bins[chosen], minlength=classes * BINS)
        for name, chosen in (("there", there), ("absent", ~there))
    }


def average_precisions(there: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Of each class, from its counts (K, BINS); 0 where none is there. As scikit-learn's: no interpolation."""
    right, said = _said(there, absent)
    gained = np.diff(right, axis=1, prepend=0) / np.maximum(there.sum(1, keepdims=True), 1)
    return (gained * right / np.maximum(said, 1)).sum(1)


def best_thresholds(there: np.ndarray, absent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability from which each class is best said to be there, (K,), and its F1; of equal ones that next to 0.5.

    0.5 for a class that is never there.
    """
    right, said = _said(there, absent)
    f1 = 2 * right / np.maximum(said + there.sum(1, keepdims=True), 1)
    edges = WIDEST * (2 * np.arange(BINS) / BINS - 1)[::-1]  # the lower end of each interval, from the highest on
    near = np.where(np.isclose(f1, f1.max(1, keepdims=True)), -np.abs(edges), -np.inf).argmax(1)
    thresholds = 1 / (1 + np.exp(-edges[near]))
    return np.where(there.any(1), thresholds, 0.5), f1.max(1)


def _said(there: np.ndarray, absent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many are right, and how many there are, of those in an interval or a higher one; from the highest on."""
    right = there[:, ::-1].cumsum(1)
    return right, right + absent[:, ::-1].cumsum(1)
