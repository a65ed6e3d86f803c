"""Every figure of the test report is scikit-learn's, JSON can hold it, and nothing asks the network."""

import json
import socket

import numpy as np
import pytest
from sklearn import metrics as sk

from tasks.classification.metrics import classification_metrics


def make_case(num_classes: int, samples: int, absent: int | None = None, seed: int = 0):
    """Labels and probabilities that lean to the truth, so that no figure is trivially 0 or 1."""
    rng = np.random.default_rng(seed)
    present = [k for k in range(num_classes) if k != absent]
    labels = rng.choice(present, samples).astype(np.int64)
    logits = rng.normal(size=(samples, num_classes))
    logits[np.arange(samples), labels] += 1
    exponentials = np.exp(logits)
    probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return labels, probabilities, [f"class {k}" for k in range(num_classes)]


CASES = {
    "binary": make_case(2, 200),
    "five classes": make_case(5, 200),
    "a class without samples": make_case(7, 300, absent=3),
    "100 classes": make_case(100, 2000),
}


@pytest.fixture(params=CASES)
def case(request):
    labels, probabilities, names = CASES[request.param]
    return labels, probabilities, names, classification_metrics(labels, probabilities, names)


def test_accuracies_and_counts(case):
    labels, probabilities, names, result = case
    predictions = probabilities.argmax(axis=1)
    assert result["samples"] == len(labels)
    assert result["correct"] == (predictions == labels).sum()
    assert result["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    if len(names) <= 5:
        assert result["top5_accuracy"] is None
    else:
        expected = sk.top_k_accuracy_score(labels, probabilities, k=5, labels=range(len(names)))
        assert result["top5_accuracy"] == pytest.approx(expected)


def test_loss_is_the_cross_entropy(case):
    labels, probabilities, _, result = case
    by_hand = -np.mean([np.log(float(row[label])) for row, label in zip(probabilities, labels, strict=True)])
    assert result["loss"] == pytest.approx(by_hand, rel=1e-6)


def test_precision_recall_f1(case):
    labels, probabilities, names, result = case
    predictions = probabilities.argmax(axis=1)
    scorers = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    present = np.unique(labels)
    for figure, scorer in scorers.items():
        for average in ("macro", "weighted"):
            expected = scorer(labels, predictions, labels=present, average=average, zero_division=0)
            assert result[figure][average] == pytest.approx(expected)
        expected = scorer(labels, predictions, labels=present, average=None, zero_division=0)
        assert [result["per_class"][names[k]][figure] for k in present] == pytest.approx(expected.tolist())


def test_auc(case):
    labels, probabilities, names, result = case
    per_class = [
        sk.roc_auc_score(labels == k, probabilities[:, k]) if (labels == k).any() else None for k in range(len(names))
    ]
    if len(names) == 2:
        expected = sk.roc_auc_score(labels, probabilities[:, 1])
    elif None in per_class:
        expected = np.mean([auc for auc in per_class if auc is not None])
    else:
        rows = probabilities.astype(np.float64)
        rows /= rows.sum(axis=1, keepdims=True)  # scikit-learn wants rows that sum to 1 more exactly than float32
        expected = sk.roc_auc_score(labels, rows, multi_class="ovr", average="macro")
    assert result["auc"] == pytest.approx(expected, abs=1e-6)
    for name, auc in zip(names, per_class, strict=True):
        assert result["per_class"][name]["auc"] == (None if auc is None else pytest.approx(auc))


def test_confusion_and_support(case):
    labels, probabilities, names, result = case
    expected = sk.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(names)))
    assert result["confusion_matrix"] == expected.tolist()
    supports = [result["per_class"][name]["support"] for name in names]
    assert supports == np.bincount(labels, minlength=len(names)).tolist()


def test_strict_json_holds_the_result(case):
    result = case[-1]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_class_without_samples_has_no_figures_and_is_named():
    labels, probabilities, names = CASES["a class without samples"]
    result = classification_metrics(labels, probabilities, names)
    nothing = {"precision": None, "recall": None, "f1": None, "auc": None, "support": 0}
    assert result["per_class"]["class 3"] == nothing
    assert result["classes_without_samples"] == ["class 3"]


def test_a_perfect_model_is_perfect_whichever_classes_have_samples():
    labels = np.repeat([0, 2, 5], 4)
    result = classification_metrics(labels, np.eye(8, dtype=np.float32)[labels], list("abcdefgh"))
    assert result["classes_without_samples"] == ["b", "d", "e", "g", "h"]
    assert [result[name] for name in ("precision", "recall", "f1")] == [{"macro": 1.0, "weighted": 1.0}] * 3
    assert result["accuracy"] == result["auc"] == 1


def test_what_is_said_to_be_of_an_absent_class_is_a_mistake():
    probabilities = np.eye(3, dtype=np.float32)[[0, 0, 2, 1]]  # of the third class there is no sample
    result = classification_metrics(np.array([0, 0, 1, 1]), probabilities, list("abc"))
    assert result["recall"]["macro"] == 0.75 and result["f1"]["macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["per_class"]["c"]["precision"] is None


def test_one_class_only_has_no_auc():
    _, probabilities, names = CASES["binary"]
    result = classification_metrics(np.zeros(len(probabilities), dtype=np.int64), probabilities, names)
    assert result["auc"] is None
    assert json.dumps(result, allow_nan=False)


def test_ties_never_put_top5_below_top1():
    result = classification_metrics(
        np.zeros(3, dtype=np.int64), np.full((3, 10), 0.1, dtype=np.float32), list("abcdefghij")
    )
    assert result["accuracy"] == result["top5_accuracy"] == 1.0


def test_a_certain_mistake_has_a_finite_loss():
    certain = np.array([[1, 0], [1, 0]], dtype=np.float32)
    result = classification_metrics(np.array([0, 1]), certain, ["a", "b"])
    assert result["loss"] == pytest.approx(-np.log(float(np.finfo(np.float32).tiny)) / 2)


def test_diverged_probabilities_leave_none_not_nan():
    labels, probabilities, names = CASES["100 classes"]
    broken = probabilities.copy()
    broken[7, 3] = np.nan
    result = classification_metrics(labels, broken, names)
    assert result["loss"] is result["auc"] is result["top5_accuracy"] is None
    assert json.dumps(result, allow_nan=False)


def test_needs_no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert classification_metrics(*CASES["five classes"])["samples"] == 200


@pytest.mark.parametrize(
    ("labels", "shape", "words"),
    [
        ([], (0, 3), "no samples"),
        ([0, 1], (2, 4), "shape"),
        ([0, 3], (2, 3), "labels run"),
        ([-1, 0], (2, 3), "labels run"),
    ],
)
def test_wrong_input_is_refused_in_words(labels, shape, words):
    with pytest.raises(ValueError, match=words):
        classification_metrics(np.array(labels, dtype=np.int64), np.ones(shape, dtype=np.float32), ["a", "b", "c"])
