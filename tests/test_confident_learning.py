"""Labels that are probably wrong are flagged as the paper's formulas say, and planted ones are found."""

import numpy as np
import pytest

from cleaning import confident_learning
from tests.fixtures.flipped_labels import flipped


def flagged_by_the_paper(p: np.ndarray, given: np.ndarray) -> set[int]:
    """Equations 1 to 3 and "C+NR" of arXiv:1911.00068, an image at a time."""
    n, classes = p.shape
    members = [[x for x in range(n) if given[x] == j] for j in range(classes)]
    t = [np.mean([p[x, j] for x in members[j]]) if members[j] else np.inf for j in range(classes)]
    counts = np.zeros((classes, classes))
    for x in range(n):
        reached = [j for j in range(classes) if p[x, j] >= t[j]]
        if reached:
            counts[given[x], max(reached, key=lambda j: p[x, j])] += 1
    by_class: set[int] = set()
    by_noise_rate: set[int] = set()
    for i in range(classes):
        wrong = [(j, counts[i, j] / counts[i].sum() * len(members[i])) for j in range(classes) if j != i and members[i]]
        number = round(sum(expected for _, expected in wrong))
        by_class.update(sorted(members[i], key=lambda x: p[x, i])[:number])
        for j, expected in wrong:
            by_noise_rate.update(sorted(members[i], key=lambda x: p[x, i] - p[x, j])[: round(expected)])
    return {x for x in by_class & by_noise_rate if p[x].max() > p[x, given[x]]}


@pytest.mark.parametrize("seed", range(5))
def test_confident_learning_is_what_the_papers_formulas_say(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.4] * 6, 300)
    labels = random.integers(0, 5, 300)  # of the last class there is none
    found = confident_learning.judge(probabilities, labels)
    expected = flagged_by_the_paper(probabilities, labels)
    assert set(np.flatnonzero(found.flagged)) == expected and len(expected) > 50
    for x, label in enumerate(labels):
        others = np.delete(np.arange(6), label)
        assert found.suggested[x] == others[probabilities[x, others].argmax()]
        assert found.self_confidence[x] == probabilities[x, label]
        assert found.margin[x] == pytest.approx(probabilities[x, label] - probabilities[x, others].max())


def test_the_estimated_joint_has_the_share_of_each_given_class() -> None:
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet([1] * 4, 200), random.integers(0, 4, 200)
    joint = confident_learning.estimated_joint(confident_learning.confident_joint(probabilities, labels), labels)
    np.testing.assert_allclose(joint.sum(1), np.bincount(labels) / 200)
    none = confident_learning.estimated_joint(np.zeros((4, 4), dtype=np.int64), labels)
    np.testing.assert_allclose(none, np.diag(np.bincount(labels) / 200))


def test_planted_wrong_labels_are_found() -> None:
    random = np.random.default_rng(1)
    true = random.integers(0, 10, 4000)
    logits = random.normal(size=(4000, 10)) + 6 * np.eye(10)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = flipped(true, 10)
    wrong = given != true
    assert wrong.sum() == 200
    flagged = confident_learning.judge(probabilities, given).flagged
    assert flagged[wrong].mean() > 0.8  # how many it flags is an estimate, rounded for each pair of classes
    assert wrong[flagged].mean() > 0.95
