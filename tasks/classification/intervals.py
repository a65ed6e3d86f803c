"""How sure the figures of a test are: intervals by the bootstrap (Efron 1979)."""

import numpy as np
from scipy.sparse import csr_array

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap_intervals(confusion: np.ndarray) -> dict[str, list[float]]:
    """Percentile intervals of accuracy and macro F1, [low, high] each, of test sets drawn anew from this one.

    To draw N samples with replacement and count what they are and were taken for is to draw those counts from the
    multinomial distribution, so no sample is needed. Seeded: the same counts have the same intervals.

    Args:
        confusion: int (K, K), how many samples of each true class (row) were taken for each class (column).
    """
    rows, columns = np.nonzero(confusion)
    counts = confusion[rows, columns]
    total = counts.sum()
    drawn = np.random.default_rng(0).multinomial(total, counts / total, RESAMPLES)  # (R, cells)
    accuracy = drawn[:, rows == columns].sum(1) / total
    tail = 50 * (1 - LEVEL)
    figures = {"accuracy": accuracy, "macro_f1": _macro_f1(drawn, rows, columns, len(confusion))}
    return {name: np.percentile(values, [tail, 100 - tail]).tolist() for name, values in figures.items()}


def _macro_f1(drawn: np.ndarray, rows: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    """Of each resample (R,): the mean over the classes that it has samples of."""
    true, said, right = (
        drawn @ csr_array((weights, (np.arange(len(rows)), of)), shape=(len(rows), classes))
        for of, weights in ((rows, np.ones(len(rows))), (columns, np.ones(len(rows))), (rows, 1.0 * (rows == columns)))
    )
    with np.errstate(invalid="ignore"):
        f1 = 2 * right / (true + said)
    return np.nanmean(np.where(true > 0, f1, np.nan), axis=1)
