"""Any two systems (`model.mode`) on the same questions, and the verdict on the paper's two claims."""

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np

from data_prep.errors import UserError
from eval.statistics import compare_paired, correct_holm, judge_non_inferiority
from eval.summary import Samples, rounded
from eval.tables import format_p, points

Systems = dict[str, dict[str, Samples]]
"""benchmark -> system -> samples"""


def compare_systems(
    systems: Systems, pairs: list[list[str]] | None, seed: int
) -> list[dict[str, Any]]:
    """Compares each pair of systems on each benchmark where both are; p_holm corrects a pair's p over benchmarks.

    pairs: [[a, b]] of system names; null: every two. Raises UserError for a system that was not evaluated.
    """
    known = {name for by_system in systems.values() for name in by_system}
    wanted = pairs if pairs is not None else [list(pair) for pair in combinations(sorted(known), 2)]
    if unknown := sorted({name for pair in wanted for name in pair} - known):
        raise UserError(
            f"compare: {', '.join(unknown)} not evaluated here: there are {', '.join(sorted(known))}"
        )
    comparisons = []
    for a, b in wanted:
        found = [
            compare_two(benchmark, a, by_system[a], b, by_system[b], seed)
            for benchmark, by_system in systems.items()
            if a in by_system and b in by_system
        ]
        for comparison, p in zip(
            found, correct_holm([c["p"] for c in found]) if found else [], strict=True
        ):
            comparisons.append({**comparison, "p_holm": rounded(p)})
    return comparisons


def compare_two(
    benchmark: str, a: str, left: Samples, b: str, right: Samples, seed: int
) -> dict[str, Any]:
    """One comparison: difference, tests, and how far the two agree. Scores are means over a question's samples."""
    first, second = score_questions(left), score_questions(right)
    ids = list(first)
    clusters = {sample["id"]: sample["cluster"] for sample in left}
    x, y = np.array([first[i] for i in ids]), np.array([second[i] for i in ids])
    result = compare_paired(x, y, [clusters[i] for i in ids], seed)
    chosen = {sample["id"]: sample["choice"] for sample in right if sample["sample"] == 0}
    same = [
        s["choice"] is not None and s["choice"] == chosen[s["id"]] for s in left if s["sample"] == 0
    ]
    return {
        "benchmark": benchmark,
        "a": a,
        "b": b,
        "n": len(ids),
        "difference": {
            "value": rounded(result.value),
            "low": rounded(result.low),
            "high": rounded(result.high),
        },
        "only_a": result.only_a,
        "only_b": result.only_b,
        "mcnemar_p": None if result.mcnemar_p is None else rounded(result.mcnemar_p),
        "p": rounded(result.p),
        "test": result.test,
        "both_right": rounded(np.minimum(x, y).mean()),
        "same_choice": rounded(np.mean(same)),
    }


def score_questions(samples: Samples) -> dict[str, float]:
    """id -> mean of `correct` over the question's samples, in the order of the samples."""
    scores: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        scores[sample["id"]].append(sample["correct"])
    return {name: float(np.mean(values)) for name, values in scores.items()}


def judge_claims(comparisons: list[dict[str, Any]], claims: Any) -> list[dict[str, Any]]:
    """The verdict on each claim whose systems and benchmark were compared, with a sentence that says it.

    claims: {of, over, margin, level: [benchmark], ahead: [benchmark], points}. Level with: non-inferiority by the
    margin. Ahead by `points`: the difference is above 0, and the interval says whether it can be that large.
    """
    verdicts = []
    for kind in ("level", "ahead"):
        for comparison in comparisons:
            direct = (comparison["a"], comparison["b"]) == (claims["of"], claims["over"])
            reverse = (comparison["b"], comparison["a"]) == (claims["of"], claims["over"])
            if comparison["benchmark"] not in claims[kind] or not (direct or reverse):
                continue
            value, low, high = (comparison["difference"][key] for key in ("value", "low", "high"))
            if reverse:
                value, low, high = -value, -high, -low
            judge = judge_level if kind == "level" else judge_ahead
            verdict, sentence = judge(value, low, high, comparison, claims)
            verdicts.append(
                {
                    "claim": kind,
                    "benchmark": comparison["benchmark"],
                    "verdict": verdict,
                    "sentence": sentence,
                }
            )
    return verdicts


def judge_level(
    value: float, low: float, high: float, c: dict[str, Any], claims: Any
) -> tuple[str, str]:
    """Is `of` not worse than `over` by the margin or more?"""
    margin = claims["margin"]
    verdict = judge_non_inferiority(low, high, margin)
    ending = {
        "shown": f"the interval stays above −{100 * margin:g} points: not inferior by that margin",
        "refuted": f"the interval lies below −{100 * margin:g} points: worse by more than that margin",
        "open": f"the interval holds −{100 * margin:g} points: too few questions to tell at that margin",
    }[verdict]
    if verdict == "shown" and low > 0:
        ending = "the interval lies above 0: better, not only level"
    if verdict == "open" and high < 0:
        ending = f"the interval lies below 0 and holds −{100 * margin:g} points: worse, by more than the margin or by less"
    head = f"{claims['of']} level with {claims['over']} on {c['benchmark']}: {verdict}."
    return verdict, f"{head} {describe(value, low, high, c)}; {ending}."


def judge_ahead(
    value: float, low: float, high: float, c: dict[str, Any], claims: Any
) -> tuple[str, str]:
    """Is `of` ahead of `over`, and by as much as was claimed?"""
    claimed, p = claims["points"], c["p_holm"]
    if low > 0 and p < 0.05:
        verdict = "shown" if high >= claimed else "smaller"
        size = "is less than" if high < claimed else "is more than" if low > claimed else "can be"
        ending = f"ahead, and the difference {size} {100 * claimed:g} points"
    elif low > 0:
        verdict, ending = (
            "open",
            "the interval lies above 0, but the corrected test does not reach 5 %",
        )
    elif high < claimed:
        verdict, ending = (
            "refuted",
            f"not ahead by {100 * claimed:g} points: the interval lies below that and holds 0",
        )
        if high < 0:
            ending = "behind: the interval lies below 0"
    else:
        verdict = "open"
        ending = (
            f"the interval holds both 0 and {100 * claimed:g} points: too few questions to tell"
        )
    tested = f"{c['test']} {format_p(c['p'])}, after Holm {format_p(p)}"
    head = f"{claims['of']} ahead of {claims['over']} by {100 * claimed:g} points on {c['benchmark']}: {verdict}."
    return verdict, f"{head} {describe(value, low, high, c)} ({tested}); {ending}."


def describe(value: float, low: float, high: float, c: dict[str, Any]) -> str:
    """`Difference +1.2 points (95 % CI −0.4 to +2.8, n = 1,273)`."""
    return f"Difference {points(value)} points (95 % CI {points(low)} to {points(high)}, n = {c['n']:,})"
