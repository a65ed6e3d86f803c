"""Folds: each sample in one, classes in proportion, equal images never apart."""

import numpy as np

from data.split import stratified_folds


def test_folds_are_stratified_disjoint_and_keep_equal_images_together() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 1000)
    hashes = (1000 * labels + generator.integers(0, 250, 1000)).astype(np.uint64)  # hundreds of copies
    folds = stratified_folds(labels, hashes, 7, seed=1)
    assert set(folds) == set(range(7))
    for image in np.unique(hashes):
        assert len(set(folds[hashes == image])) == 1
    counts = np.array([np.bincount(labels[folds == fold], minlength=3) for fold in range(7)])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    hashes[:9] = 7  # copies that do not agree on the label
    mixed = stratified_folds(labels, hashes, 7, seed=1)
    assert len(set(mixed[hashes == 7])) == 1
    plain = stratified_folds(labels, np.arange(1000, dtype=np.uint64), 7, seed=1)
    counts = np.array([np.bincount(labels[plain == fold], minlength=3) for fold in range(7)])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    assert np.ptp(counts.sum(1)) <= 1
    assert (stratified_folds(labels, hashes, 7, seed=1) == mixed).all()
    assert (stratified_folds(labels, hashes, 7, seed=2) != mixed).any()
