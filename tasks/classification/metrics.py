"""The metrics of the test report, by scikit-learn.

It takes seconds to import: import this module where its metrics are needed, not before.
"""

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from tasks.classification.intervals import bootstrap_intervals


def _label_figures(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict:
    """Accuracy, precision, recall, F1 and the confusion matrix of predicted labels."""
    with_samples = np.unique(labels)  # nothing can be said of the others, which would pull averages down

    def scores(average: str | None) -> tuple:
        return precision_recall_fscore_support(
            labels, predictions, labels=with_samples, average=average, zero_division=0
        )

    macro, weighted = scores("macro"), scores("weighted")
    *of_each, support = scores(None)
    names = ("precision", "recall", "f1")
    correct = int((predictions == labels).sum())
    return {
        "correct": correct,
        "accuracy": correct / len(labels),
        "averages": {name: {"macro": float(macro[i]), "weighted": float(weighted[i])} for i, name in enumerate(names)},
        "per_class": {
            name: _placed(column, with_samples, num_classes, None) for name, column in zip(names, of_each, strict=True)
        },
        "support": _placed(support, with_samples, num_classes, 0),
        "confusion_matrix": confusion_matrix(labels, predictions, labels=np.arange(num_classes)).tolist(),
    }


def _placed(values: np.ndarray, classes: np.ndarray, num_classes: int, missing: float | None) -> list:
    """A value for each of 0..num_classes-1: those of `classes` in their places, `missing` in the others."""
    known = dict(zip(classes.tolist(), values.tolist(), strict=True))
    return [known.get(label, missing) for label in range(num_classes)]


def _probability_figures(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Top-5 accuracy, cross-entropy and one-vs-rest AUC of predicted probabilities."""
    num_classes = probabilities.shape[1]
    if not np.isfinite(probabilities).all():  # a diverged run still gets the rest of its report
        return {"top5_accuracy": None, "loss": None, "auc": None, "per_class_auc": [None] * num_classes}
    aucs = [_auc(labels == k, probabilities[:, k]) for k in range(num_classes)]
    defined = [auc for auc in aucs if auc is not None]
    # Two classes have one ROC curve; rounding is all that could tell the second class's from the first's.
    auc = aucs[1] if num_classes == 2 else float(np.mean(defined)) if defined else None
    chosen = probabilities[np.arange(len(labels)), labels].clip(min=np.finfo(np.float32).tiny)
    return {
        "top5_accuracy": _top5_accuracy(labels, probabilities) if num_classes > 5 else None,
        "loss": float(-np.log(chosen, dtype=np.float64).mean()),
        "auc": auc,
        "per_class_auc": aucs,
    }


def _auc(is_class: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve of one class against the rest; None if every sample is on one side."""
    return None if is_class.all() or not is_class.any() else float(roc_auc_score(is_class, scores))


def _top5_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    # Stable, so that ties go to the lower class as in argmax, and top-5 is never below top-1.
    top5 = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return float((top5 == labels[:, None]).any(axis=1).mean())


def _check(labels: np.ndarray, probabilities: np.ndarray, num_classes: int) -> None:
    if len(labels) == 0:
        raise ValueError("no samples: metrics need at least one")
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(
            f"probabilities have shape {probabilities.shape}, but {len(labels)} labels and {num_classes}"
            f" class names need shape {(len(labels), num_classes)}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but classes from 0 to {num_classes - 1}")


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray, class_names: list[str]) -> dict:
    """All metrics of a classifier on one set of samples, ready for strict JSON: undefined metrics are None.

    Args:
        labels: (N,) int64, the true classes, each in 0..K-1; N is at least 1.
        probabilities: (N, K) float32, each row a distribution; the predicted class is its (first) largest.
        class_names: the K names, all different.

    Returns:
        `accuracy`, `balanced_accuracy` (the mean recall), `top5_accuracy` (None for K <= 5): fractions 0..1;
        `loss`: mean cross-entropy in nats, the
        probabilities clipped from below at the smallest normal float32; `auc`: area under the ROC curve, for
        K = 2 of class 1, else the mean over the one-vs-rest curves of the classes that have samples;
        `precision`, `recall`, `f1`: {"macro", "weighted"}, over the classes that have samples, 0 where one is never
        predicted; `per_class`: {name: {"precision", "recall", "f1", "auc", "support"}}, None but for the support where
        a class has no sample; `classes_without_samples`: their names; `confusion_matrix`: K lists of K counts, rows
        true, columns predicted; `intervals`: {"accuracy", "macro_f1"}, the [low, high] that hold 95 % of resampled test
        sets; `samples`, `correct`: counts. Where a probability is not finite,
        the metrics that need it (`top5_accuracy`, `loss`, every `auc`) are None.

    Raises:
        ValueError: the shapes do not agree, there is no sample, or a label is not one of the K classes.
    """
    _check(labels, probabilities, len(class_names))
    by_label = _label_figures(labels, probabilities.argmax(axis=1), len(class_names))
    by_probability = _probability_figures(labels, probabilities)
    columns = {
        **by_label["per_class"],
        "auc": by_probability["per_class_auc"],
        "support": by_label["support"],
    }
    return {
        "accuracy": by_label["accuracy"],
        "balanced_accuracy": by_label["averages"]["recall"]["macro"],
        "top5_accuracy": by_probability["top5_accuracy"],
        "loss": by_probability["loss"],
        "auc": by_probability["auc"],
        **by_label["averages"],
        "per_class": {
            name: {figure: column[k] for figure, column in columns.items()} for k, name in enumerate(class_names)
        },
        "classes_without_samples": [
            name for name, support in zip(class_names, by_label["support"], strict=True) if support == 0
        ],
        "confusion_matrix": by_label["confusion_matrix"],
        "intervals": bootstrap_intervals(np.array(by_label["confusion_matrix"])),
        "samples": len(labels),
        "correct": by_label["correct"],
    }
