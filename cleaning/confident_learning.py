"""Which labels are probably wrong, by confident learning.

C. Northcutt, L. Jiang, I. Chuang: Confident Learning: Estimating Uncertainty in Dataset Labels, Journal of Artificial
Intelligence Research 70 (2021), arXiv:1911.00068. Written from the paper: the authors' library, cleanlab, is under the
AGPL.

Everywhere `probabilities` are (N, K), each row by a model that was not trained on that image, and `labels` are the
given classes, int64 (N,).
"""

from typing import NamedTuple

import numpy as np


class Judgement(NamedTuple):
    """What confident learning says of each image.

    Attributes:
        self_confidence: (N,), the given class's probability: the lower, the more probably the label is wrong.
        suggested: int64 (N,), the most probable class other than the given one.
        margin: (N,) in -1..1, the given class's probability less the suggested one's (the paper's normalized margin).
        flagged: bool (N,), whether the label is estimated to be wrong.
    """

    self_confidence: np.ndarray
    suggested: np.ndarray
    margin: np.ndarray
    flagged: np.ndarray


def judge(probabilities: np.ndarray, labels: np.ndarray) -> Judgement:
    """Flag labels by the paper's "C+NR": what pruning by class and pruning by noise rate have in common.

    Of that no label is flagged which is the most probable class itself.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -np.inf
    suggested = others.argmax(1)
    margin = own - others[rows, suggested]
    joint = estimated_joint(confident_joint(probabilities, labels), labels)
    flagged = _least_confident(own, labels, joint) & _noisiest(probabilities, labels, joint) & (margin < 0)
    return Judgement(own, suggested, margin, flagged)


def thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each class the mean self-confidence, float64 (K,): its mean probability over the images that are given it.

    Infinite for a class that no image is given, so that none is counted for it (equation 2).
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, own.astype(np.float64), minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images are given class i and are confidently of class j, int64 (K, K).

    That is j's probability reaches its threshold; where several do, the most probable of them is meant, and where none
    does, the image is not counted (equation 1).
    """
    classes = probabilities.shape[1]
    confident = np.where(probabilities >= thresholds(probabilities, labels), probabilities, -np.inf)
    counted = confident.max(1) > -np.inf
    pairs = labels[counted] * classes + confident[counted].argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def estimated_joint(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The joint distribution of given and true classes, float64 (K, K), from a confident joint.

    Each row is brought to the share of images that are given its class (equation 3). A row without any count says
    nothing of errors: its class is taken to be right.
    """
    given = np.bincount(labels, minlength=len(counts))
    counts = counts + np.diag((counts.sum(1) == 0).astype(np.int64))
    return counts / counts.sum(1, keepdims=True) * (given / len(labels))[:, None]


def _least_confident(own: np.ndarray, labels: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Of each given class i as many images as are estimated to be of others, those least confident, bool (N,)."""
    chosen = np.zeros(len(labels), dtype=bool)
    wanted = np.rint((joint.sum(1) - np.diag(joint)) * len(labels)).astype(np.int64)
    for i in np.flatnonzero(wanted):
        members = np.flatnonzero(labels == i)
        chosen[members[np.argsort(own[members], kind="stable")[: wanted[i]]]] = True
    return chosen


def _noisiest(probabilities: np.ndarray, labels: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Of each given class i and other class j the N * joint[i, j] images where j exceeds i most, bool (N,)."""
    chosen = np.zeros(len(labels), dtype=bool)
    wanted = np.rint(joint * len(labels)).astype(np.int64)
    np.fill_diagonal(wanted, 0)
    for i in np.flatnonzero(wanted.sum(1)):
        members = np.flatnonzero(labels == i)
        for j in np.flatnonzero(wanted[i]):
            excess = probabilities[members, j] - probabilities[members, i]
            chosen[members[np.argsort(-excess, kind="stable")[: wanted[i, j]]]] = True
    return chosen
