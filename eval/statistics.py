"""Intervals and tests for accuracies, most of them from scipy and statsmodels. Pure functions on arrays.

Questions that repeat (a cluster) are not independent: whatever is resampled here is a cluster, never a row.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000


class Interval(NamedTuple):
    """A two-sided interval. method: `wilson` or `cluster bootstrap`."""

    low: float
    high: float
    method: str


def wilson_interval(correct: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of `correct` right answers out of `n` independent ones (n > 0)."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(correct, n, alpha=1 - confidence, method="wilson")
    return Interval(float(low), float(high), "wilson")


def sum_clusters(values: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each cluster, in the sorted order of the clusters' names."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(index, np.asarray(values, float)), np.bincount(index)
    return sums.astype(np.float64), sizes.astype(np.float64)


def bootstrap_clusters(
    values: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """BCa bootstrap interval of the mean of `values` [n], resampling whole clusters [n].

    For the difference of two models on the same questions pass the differences of their scores: pairs stay together.
    Where all clusters have the same mean there is nothing to resample, and the interval is [mean, mean].
    """
    from scipy.stats import bootstrap

    sums, sizes = sum_clusters(values, clusters)
    mean = sums.sum() / sizes.sum()
    if np.ptp(sums / sizes) == 0:
        return Interval(float(mean), float(mean), "cluster bootstrap")
    result = bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // len(sums)),
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(float(interval.low), float(interval.high), "cluster bootstrap")


def accuracy_interval(
    scores: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """The interval of a mean of scores in [0, 1], one row for each sample.

    Wilson where every row is a cluster of its own, else the cluster bootstrap. Where all clusters agree, Wilson with
    the number of clusters: a bootstrap of equal values has no width.
    """
    sums, sizes = sum_clusters(scores, clusters)
    if np.all(sizes == 1) and np.all((sums == 0) | (sums == 1)):
        return wilson_interval(sums.sum(), len(sums), confidence)
    means = sums / sizes
    if np.ptp(means) == 0:
        return wilson_interval(means[0] * len(means), len(means), confidence)
    return bootstrap_clusters(scores, clusters, confidence, seed=seed)
