"""How far a classifier's confidence can be trusted: temperature, calibration error, answers that are withheld."""

import math

import numpy as np
from torch import Tensor
from torch.nn import functional as F

BINS = 15
TEMPERATURES = (0.05, 20.0)  # between which one is looked for
UNKNOWN = "unknown"


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits are to be divided by for the least cross-entropy (Guo et al. 2017, arXiv:1706.04599).

    Args:
        logits: float (N, K), of images that were not trained on; `labels`: int64 (N,).
    """
    from scipy.optimize import minimize_scalar  # half a second that only --calibrate needs

    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    found = minimize_scalar(loss, bounds=tuple(map(math.log, TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """How often answers of about one confidence are right, and the expected calibration error.

    The error is the mean over images of the gap between confidence and accuracy in the image's bin (Naeini et al.
    2015), as torchmetrics' `multiclass_calibration_error` with norm l1; that takes many seconds to import.

    Args:
        probabilities: float32 (N, K); `labels`: int64 (N,).

    Returns:
        {"error": 0..1, "bins": [{"from", "to", "images", "confidence", "accuracy"}, ...]}, without empty bins.
    """
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    bins = [
        {
            "from": float(edges[number]),
            "to": float(edges[number + 1]),
            "images": int((of == number).sum()),
            "confidence": float(confidence[of == number].mean()),
            "accuracy": float(right[of == number].mean()),
        }
        for number in np.unique(of).tolist()
    ]
    gaps = [each["images"] * abs(each["confidence"] - each["accuracy"]) for each in bins]
    return {"error": sum(gaps) / len(labels), "bins": bins}


def withheld(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict:
    """What answers below a threshold of confidence cost, and bring.

    Returns:
        {"threshold", "coverage": the share of images that get an answer, "accuracy": of those answers, None if none}.
    """
    answered = probabilities.max(1) >= threshold
    right = probabilities.argmax(1) == labels
    accuracy = float(right[answered].mean()) if answered.any() else None
    return {"threshold": threshold, "coverage": float(answered.mean()), "accuracy": accuracy}
