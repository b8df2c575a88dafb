"""Statistics against truth: intervals cover at their nominal rate, tests keep their level and find what they should.

The long simulations (2,000 draws each) are marked slow; their short forms run always.
"""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from dev.study_report import bootstrap_seeds
from eval.compare import judge
from eval.power import mcnemar_power
from eval.statistics import (
    accuracy_interval,
    bootstrap_clusters,
    compare_paired,
    correct_holm,
    flip_signs,
    majority,
    mcnemar_exact,
    pass_at_k,
    wilson_interval,
)


def draw_clusters(
    rng: np.random.Generator, questions: int, alike: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Right and wrong answers to questions that repeat 1 to 4 times; a share `alike` copies the first answer."""
    sizes = rng.choice([1, 2, 4], size=questions, p=[0.6, 0.25, 0.15])
    clusters = np.repeat(np.arange(questions), sizes)
    first = rng.random(questions) < 0.6
    own = rng.random(len(clusters)) < 0.6
    copied = rng.random(len(clusters)) < alike
    return np.where(copied, first[clusters], own).astype(float), clusters, 0.6


def test_wilson_is_the_published_formula() -> None:
    low, high, method = wilson_interval(346, 1273)
    p, n, z = 346 / 1273, 1273, 1.959963984540054
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (low, high) == pytest.approx(
        ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    )
    assert method == "wilson"
    assert wilson_interval(0, 40).low == 0 and wilson_interval(40, 40).high == pytest.approx(1)


def test_wilson_covers_at_its_nominal_rate() -> None:
    """Exactly, without simulation: the coverage at p is a sum over all possible counts."""
    n = 300
    counts = np.arange(n + 1)
    limits = [wilson_interval(count, n) for count in counts]
    low, high = np.array([i.low for i in limits]), np.array([i.high for i in limits])
    for p in (0.12, 0.25, 0.5, 0.8):
        coverage = binom.pmf(counts, n, p)[(low <= p) & (p <= high)].sum()
        assert 0.93 < coverage < 0.97, p


def measure_coverage(draws: int, alike: float, questions: int = 150, cluster: bool = True) -> float:
    rng = np.random.default_rng(7)
    covered = 0
    for draw in range(draws):
        values, clusters, truth = draw_clusters(rng, questions, alike)
        interval = bootstrap_clusters(
            values, clusters if cluster else np.arange(len(values)), resamples=999, seed=draw
        )
        covered += interval.low <= truth <= interval.high
    return covered / draws


@pytest.mark.parametrize("alike", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_cluster_bootstrap_covers(alike: float) -> None:
    assert 0.89 < measure_coverage(150, alike) <= 0.99


def test_bootstrap_of_rows_would_not_cover_repeated_questions() -> None:
    """The reason for clusters: the same simulation, resampling rows, fails."""
    assert measure_coverage(150, 0.9, cluster=False) < 0.89


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_cluster_bootstrap_covers_at_its_nominal_rate(alike: float) -> None:
    coverage = measure_coverage(2000, alike)
    assert coverage == pytest.approx(0.95, abs=0.0146)  # three standard errors of 2,000 draws


def draw_seeds(
    rng: np.random.Generator, spread: float, paired: bool, seeds: int = 5, questions: int = 200
) -> tuple[np.ndarray, float]:
    """Right and wrong answers [seeds, questions], or differences of two recipes, and the true mean.

    An answer is right where ability + seed + question + noise > 0: seeds of one recipe differ by `spread`.
    """
    easy = rng.normal(0, 1, questions)

    def answer(ability: float) -> tuple[np.ndarray, float]:
        by_seed = rng.normal(0, spread, (seeds, 1))
        right = ability + by_seed + easy + rng.normal(0, 1, (seeds, questions)) > 0
        return right.astype(float), float(norm.cdf(ability / np.sqrt(2 + spread**2)))

    table, truth = answer(0.4)
    if not paired:
        return table, truth
    other, less = answer(0.1)
    return table - other, truth - less


def measure_seeds(draws: int, spread: float, paired: bool, resample: bool = False) -> float:
    """Coverage of the two-level interval; resample: seeds resampled like questions instead."""
    rng = np.random.default_rng(13)
    covered = 0
    for draw in range(draws):
        table, truth = draw_seeds(rng, spread, paired)
        low, high = bootstrap_seeds(table, np.arange(table.shape[1]), 999, draw)
        if resample:
            means = table.mean(axis=1)
            low, high = np.quantile(
                means[rng.integers(5, size=(999, 5))].mean(axis=1), [0.025, 0.975]
            )
        covered += low <= truth <= high
    return covered / draws


@pytest.mark.parametrize("paired", [False, True])
def test_two_level_bootstrap_covers(paired: bool) -> None:
    assert 0.90 < measure_seeds(300, 0.1, paired) <= 0.99


def test_five_seeds_resampled_would_not_cover() -> None:
    """The reason for Student's t at the level of seeds, where it is seeds that vary."""
    assert measure_seeds(150, 0.5, True, resample=True) < 0.90 < measure_seeds(150, 0.5, True)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1, 0.5])
def test_two_level_bootstrap_covers_at_its_nominal_rate(spread: float, paired: bool) -> None:
    assert measure_seeds(2000, spread, paired) == pytest.approx(0.95, abs=0.02)


def test_two_level_bootstrap_of_one_seed_is_over_questions_alone() -> None:
    rng = np.random.default_rng(3)
    values, clusters, _ = draw_clusters(rng, 150, 0.5)
    one = bootstrap_seeds(values, clusters)
    assert one[:2] == pytest.approx(bootstrap_clusters(values, clusters)[:2], abs=0.01)
    # the same seed five times says no more about questions
    assert bootstrap_seeds([values] * 5, clusters)[:2] == pytest.approx(one[:2], abs=1e-9)


def measure_paired(
    draws: int, difference: float, n: int = 818, discordant: float = 0.3, every: int = 1
) -> tuple[float, float]:
    """Share of draws in which the paired test rejects at 5 %, and (of every so many) in which the interval covers."""
    rng = np.random.default_rng(11)
    rejected = covered = 0
    for draw in range(draws):
        kind = rng.choice(
            3,
            size=n,
            p=[(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant],
        )
        both = rng.random(n) < 0.6
        a, b = (
            np.where(kind == 0, 1, np.where(kind == 1, 0, both)),
            np.where(kind == 0, 0, np.where(kind == 1, 1, both)),
        )
        p = mcnemar_exact(int((a > b).sum()), int((a < b).sum()))
        rejected += p < 0.05
        if draw % every == 0:
            interval = bootstrap_clusters(
                a - b.astype(float), np.arange(n), resamples=499, seed=draw
            )
            covered += interval.low <= difference <= interval.high
    return rejected / draws, covered * every / draws


def test_paired_comparison_short() -> None:
    level, coverage = measure_paired(400, 0.0, every=20)
    assert level < 0.08 and coverage >= 0.85
    power, coverage = measure_paired(400, 0.08, every=20)
    assert power == pytest.approx(mcnemar_power(818, 0.08, 0.3), abs=0.05) and coverage >= 0.85


@pytest.mark.slow
def test_paired_test_keeps_its_level_and_has_its_power() -> None:
    level, coverage = measure_paired(2000, 0.0)
    assert 0.03 < level < 0.0646 and coverage == pytest.approx(0.95, abs=0.0146)
    power, coverage = measure_paired(2000, 0.08)
    assert power == pytest.approx(mcnemar_power(818, 0.08, 0.3), abs=0.012)
    assert coverage == pytest.approx(0.95, abs=0.0146)
    power, _ = measure_paired(2000, 0.03)
    assert power == pytest.approx(mcnemar_power(818, 0.03, 0.3), abs=0.033)


def test_mcnemar_power_keeps_the_level_of_an_exact_test() -> None:
    for n in (100, 818, 1273):
        assert 0.02 < mcnemar_power(n, 0.0, 0.3) <= 0.05


def test_exact_mcnemar_is_the_binomial_test() -> None:
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(3, 12) == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert mcnemar_exact(12, 3) == mcnemar_exact(3, 12)
    assert mcnemar_exact(7, 7) == 1


def test_sign_flips_agree_with_mcnemar_where_nothing_repeats() -> None:
    signs = np.repeat([1.0, -1.0, 0.0], [30, 14, 100])
    assert flip_signs(signs) == pytest.approx(mcnemar_exact(30, 14), abs=0.006)
    assert flip_signs(np.zeros(5)) == 1


def test_the_same_row_twice_changes_neither_interval_nor_test() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.random(200) < 0.65).astype(float), (rng.random(200) < 0.55).astype(float)
    ids = np.arange(200)
    once, twice = bootstrap_clusters(a, ids), bootstrap_clusters(np.tile(a, 2), np.tile(ids, 2))
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    assert (
        accuracy_interval(np.tile(a, 2), np.tile(ids, 2)).high
        >= accuracy_interval(np.tile(a, 2), np.arange(400)).high
    )
    one, two = (
        compare_paired(a, b, ids),
        compare_paired(np.tile(a, 2), np.tile(b, 2), np.tile(ids, 2)),
    )
    assert (
        two.p == pytest.approx(one.p, abs=0.01)
        and two.mcnemar_p is not None
        and two.mcnemar_p < one.p * 0.7
    )
    assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_interval_of_equal_answers_has_a_width() -> None:
    """Ten rows of five questions, all right: as sure as five questions make it, not certain."""
    assert accuracy_interval(np.ones(10), np.repeat(np.arange(5), 2)) == wilson_interval(5, 5)
    assert accuracy_interval([1, 0, 1], ["a", "b", "c"]).method == "wilson"
    assert accuracy_interval([1, 0, 1], ["a", "b", "b"]).method == "cluster bootstrap"


def test_comparison_counts_and_chooses_its_test() -> None:
    result = compare_paired([1, 1, 0, 0, 1], [1, 0, 0, 1, 0], ["a", "b", "c", "d", "e"])
    assert (result.value, result.only_a, result.only_b, result.test) == (
        pytest.approx(0.2),
        2,
        1,
        "exact McNemar",
    )
    sampled = compare_paired([1, 0.5, 0], [0.25, 0.5, 0], ["a", "b", "c"])
    assert (sampled.only_a, sampled.mcnemar_p, sampled.test) == (
        None,
        None,
        "sign flips of clusters",
    )


def test_holm() -> None:
    assert correct_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_non_inferiority() -> None:
    assert judge("level", -0.02, 0.03, 1.0, 0.03)[0] == "shown"
    assert judge("level", -0.04, 0.01, 1.0, 0.03)[0] == "open"
    assert judge("level", -0.09, -0.04, 1.0, 0.03)[0] == "refuted"
    with pytest.raises(ValueError, match="margin"):
        judge("level", -0.1, 0.1, 1.0, 0)


@pytest.mark.slow
def test_non_inferiority_errs_at_most_as_often_as_it_says() -> None:
    """With a true difference of exactly minus the margin, `shown` must come in about 2.5 % of draws."""
    rng = np.random.default_rng(5)
    n, margin, shown = 600, 0.05, 0
    for draw in range(150):
        kind = rng.choice([1.0, -1.0, 0.0], size=n, p=[0.1, 0.15, 0.75])
        interval = bootstrap_clusters(kind, np.arange(n), resamples=499, seed=draw)
        shown += judge("level", interval.low, interval.high, 1.0, margin)[0] == "shown"
    assert shown / 150 < 0.07


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_average_over_all_subsets(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    brute = np.mean([any(subset) for subset in combinations(right, k)])
    assert pass_at_k([sum(right)], len(right), k)[0] == pytest.approx(brute)


def test_pass_at_more_than_were_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="k=5"):
        pass_at_k([2], 4, 5)


def test_majority_never_guesses() -> None:
    assert majority(["A", "B", "A"], "A") == 1
    assert majority(["A", "B", "B"], "A") == 0
    assert majority(["A", "B"], "A") == 0.5
    assert majority([None, None, "A"], "A") == 1, "an unread answer has no vote"
    assert majority([None, None], "A") == 0
