"""The metrics of a test of several labels an image, by scikit-learn, which takes seconds to import."""

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support


def multilabel_metrics(
    truth: np.ndarray, probabilities: np.ndarray, class_names: list[str], thresholds: list[float]
) -> dict:
    """All metrics of one set of images, ready for strict JSON: undefined ones are None.

    Args:
        truth: 0 or 1, (N, K); N is at least 1.
        probabilities: float32 (N, K).
        class_names: the K names, all different.
        thresholds: (K,), from which a class is said to be there.

    Returns:
        `accuracy`: the share of all answers, one a class, that are right; `exact_match`: of images whose answers all
        are; `loss`: mean binary cross-entropy in nats; `map`: mean average precision; `precision`, `recall`, `f1`:
        {"macro", "micro"}; all means over classes are over those that some image has. `per_class`: {name:
        {"average_precision", "precision", "recall", "f1", "threshold", "support"}}; `classes_without_samples`;
        `samples`. Where a probability is not finite, `loss`, `map` and each `average_precision` are None.
    """
    said = probabilities >= np.asarray(thresholds, dtype=np.float32)
    some = truth.any(0)
    known = bool(np.isfinite(probabilities).all())
    precisions = [
        float(average_precision_score(truth[:, k], probabilities[:, k])) if known and some[k] else None
        for k in range(len(class_names))
    ]
    defined = [value for value in precisions if value is not None]
    *of_each, support = precision_recall_fscore_support(truth, said, average=None, zero_division=0)
    macro = [float(values[some].mean()) if some.any() else 0.0 for values in of_each]
    micro = precision_recall_fscore_support(truth[:, some], said[:, some], average="micro", zero_division=0)[:3]
    names = ("precision", "recall", "f1")
    return {
        "accuracy": float((said == truth).mean()),
        "exact_match": float((said == truth).all(1).mean()),
        "loss": _loss(truth, probabilities) if known else None,
        "map": float(np.mean(defined)) if defined else None,
        **{name: {"macro": macro[i], "micro": float(micro[i])} for i, name in enumerate(names)},
        "per_class": {
            name: {
                "average_precision": precisions[k],
                **{figure: float(of_each[i][k]) if some[k] else None for i, figure in enumerate(names)},
                "threshold": thresholds[k],
                "support": int(support[k]),
            }
            for k, name in enumerate(class_names)
        },
        "classes_without_samples": [name for name, there in zip(class_names, some, strict=True) if not there],
        "samples": len(truth),
    }


def _loss(truth: np.ndarray, probabilities: np.ndarray) -> float:
    right = np.where(truth > 0, probabilities, 1 - probabilities).clip(min=np.finfo(np.float32).tiny)
    return float(-np.log(right, dtype=np.float64).mean())
