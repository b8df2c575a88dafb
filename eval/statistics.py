"""Intervals and tests for accuracies: pure functions on arrays, most from scipy and statsmodels.

Questions that repeat (a cluster) are not independent: a cluster is resampled, never a row.
scipy and statsmodels are imported where they are used: 0.7 s of every start, also of `--help`.
"""

from collections.abc import Sequence
from statistics import multimode
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
BATCH = 4_000_000  # numbers drawn at a time: 32 MB


class Interval(NamedTuple):
    """A two-sided interval. method: `wilson` or `cluster bootstrap`."""

    low: float
    high: float
    method: str


def wilson_interval(correct: float, n: float) -> Interval:
    """Compute Wilson's score interval of `correct` right answers out of `n` independent ones."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(correct, n, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(float(low), float(high), "wilson")


def sum_clusters(
    values: ArrayLike, clusters: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add up and count the values of each cluster, in the sorted order of the clusters' names."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(index, np.asarray(values, float)), np.bincount(index)
    return sums.astype(np.float64), sizes.astype(np.float64)


def bootstrap_clusters(
    values: ArrayLike, clusters: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Compute the BCa bootstrap interval of the mean of `values` [n], resampling clusters [n]."""
    from scipy.stats import bootstrap

    sums, sizes = sum_clusters(values, clusters)
    low = high = sums.sum() / sizes.sum()
    if np.ptp(sums / sizes) > 0:  # else nothing varies
        # clusters of one size need no sizes: the same interval in less than half the time
        data = (sums, sizes) if np.ptp(sizes) > 0 else (sums / sizes,)
        low, high = bootstrap(
            data,
            lambda s, *n, axis: s.sum(axis=axis) / n[0].sum(axis=axis) if n else s.mean(axis=axis),
            paired=len(data) > 1,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, BATCH // len(sums)),
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(float(low), float(high), "cluster bootstrap")


def accuracy_interval(scores: ArrayLike, clusters: ArrayLike, seed: int = 0) -> Interval:
    """Compute the interval of a mean of scores in [0, 1], one row for each sample.

    Wilson where every row is its own cluster, else the cluster bootstrap. Where all clusters agree,
    Wilson with the number of clusters: a bootstrap of equal values has no width.
    """
    sums, sizes = sum_clusters(scores, clusters)
    means = sums / sizes
    if np.ptp(means) == 0 or np.all((sizes == 1) & np.isin(sums, (0, 1))):
        return wilson_interval(means.sum(), len(means))
    return bootstrap_clusters(scores, clusters, seed=seed)


def bootstrap_deviation(correct: ArrayLike, resamples: int = 1000, seed: int = 0) -> float:
    """Compute the standard deviation of the mean of n answers (0 or 1) over resamples of rows.

    The paper's error bar. Right answers in a resample of n rows are binomial: none has to be drawn.
    """
    right = np.asarray(correct, float)
    draws = np.random.default_rng(seed).binomial(len(right), right.mean(), size=resamples)
    return float(np.std(draws / len(right), ddof=1))


class Difference(NamedTuple):
    """Model a against model b on the same questions.

    value, low, high: mean of a - b with its interval. only_a, only_b: questions that exactly one
    of them answers, null where answers are means over samples; mcnemar_p is of these. p: the one to
    use, by the test named.
    """

    value: float
    low: float
    high: float
    only_a: int | None
    only_b: int | None
    mcnemar_p: float | None
    p: float
    test: str


def compare_paired(a: ArrayLike, b: ArrayLike, clusters: ArrayLike, seed: int = 0) -> Difference:
    """Compare the scores [n] in [0, 1] of two models on the same n questions, in the same order."""
    left, right = np.asarray(a, float), np.asarray(b, float)
    difference = left - right
    low, high, _ = bootstrap_clusters(difference, clusters, seed=seed)
    only_a = only_b = mcnemar_p = None
    if np.all(np.isin((left, right), (0, 1))):
        only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
        mcnemar_p = mcnemar_exact(only_a, only_b)
    sums, sizes = sum_clusters(difference, clusters)
    if mcnemar_p is not None and np.all(sizes == 1):
        p, test = mcnemar_p, "exact McNemar"
    else:
        p, test = flip_signs(sums, seed), "sign flips of clusters"
    return Difference(float(difference.mean()), low, high, only_a, only_b, mcnemar_p, p, test)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Compute the two-sided exact p of `only_a` against `only_b` discordant pairs."""
    from statsmodels.stats.contingency_tables import mcnemar

    return min(1.0, float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))


def flip_signs(sums: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Compute the two-sided p that sums of differences of clusters [n] are symmetric about 0."""
    from scipy.stats import permutation_test

    values = np.asarray(sums, float)
    values = values[values != 0]
    if len(values) < 2:  # one cluster alone is as likely with either sign
        return 1.0
    result = permutation_test(
        (values,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples - 1,
        batch=max(1, BATCH // len(values)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def correct_holm(p_values: ArrayLike) -> list[float]:
    """Correct the p-values of one family by Holm's step-down method."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(np.asarray(p_values, float), method="holm")[1]]


def pass_at_k(correct: ArrayLike, n: ArrayLike, k: int) -> NDArray[np.float64]:
    """Compute for each question [q] the chance that one of k answers drawn from its n is right.

    1 - C(n - c, k) / C(n, k), c of n right (Chen et al. 2021, arXiv 2107.03374). Raises ValueError
    where k > n.
    """
    from scipy.special import comb

    total = np.asarray(n)
    if not 1 <= k <= total.min():
        raise ValueError(f"k={k} must be from 1 to the number of answers, {total.min()}")
    return np.asarray(1 - comb(total - np.asarray(correct), k) / comb(total, k))


def majority(choices: Sequence[str | None], answer: str) -> float:
    """Score the most frequent choice: of t tied choices the right one scores 1/t.

    An unread answer has no vote.
    """
    most = multimode(choice for choice in choices if choice is not None)
    return 1 / len(most) if answer in most else 0.0
