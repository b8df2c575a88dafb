"""Compare two systems (`model.mode`) on the same questions, and judge the paper's two claims."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from data_prep.errors import UserError
from eval.modes import split_mode
from eval.samples import Samples
from eval.statistics import compare_paired, correct_holm, judge_non_inferiority
from eval.summary import rounded
from eval.tables import format_interval, format_p, format_percent, format_points, format_value

Systems = dict[str, dict[str, Samples]]
"""benchmark -> system -> samples"""

ENDINGS = {
    "level shown": "the interval stays above −{limit:g} points: not inferior by that margin",
    "level better": "the interval is above 0: better, not only level",
    "level refuted": "the interval is below −{limit:g} points: worse by more than that margin",
    "level worse": "the interval is below 0 and holds −{limit:g} points: worse, by more than the "
    "margin or by less",
    "level open": "the interval holds −{limit:g} points: too few questions to tell at that margin",
    "ahead less": "ahead, and the difference is less than {limit:g} points",
    "ahead equal": "ahead, and the difference can be {limit:g} points",
    "ahead more": "ahead, and the difference is more than {limit:g} points",
    "ahead untested": "the interval is above 0, but the corrected test does not reach 5 %",
    "ahead not": "not ahead by {limit:g} points: the interval is below that and holds 0",
    "ahead behind": "behind: the interval is below 0",
    "ahead open": "the interval holds both 0 and {limit:g} points: too few questions to tell",
}
"""Endings of a verdict's sentence. limit: the margin, or the points claimed."""
MEASURED = "Difference {value} points (95 % CI {low} to {high}, n = {n:,})"
SENTENCES = {
    "level": f"{{of}} level with {{over}} on {{benchmark}}: {{verdict}}. {MEASURED}; {{ending}}.",
    "ahead": "{of} ahead of {over} by {limit:g} points on {benchmark}: {verdict}. "
    f"{MEASURED} ({{test}}); {{ending}}.",
}


def compare_systems(
    systems: Systems, pairs: list[list[str]] | None, seed: int
) -> list[dict[str, Any]]:
    """Compare each pair of systems on each benchmark that both answered.

    pairs: [[a, b]] of system names; null: every two. p_holm corrects a pair's p over benchmarks.
    Raises UserError for a system that was not evaluated.
    """
    known = sorted({name for by_system in systems.values() for name in by_system})
    wanted = pairs if pairs is not None else [list(pair) for pair in combinations(known, 2)]
    if any(len(pair) != 2 for pair in wanted):
        raise UserError(f"compare={wanted} is no list of pairs [[model.mode, model.mode]]")
    if unknown := sorted({name for pair in wanted for name in pair}.difference(known)):
        there = f"there are {', '.join(known)}"
        raise UserError(f"compare: {', '.join(unknown)} not evaluated here: {there}")
    comparisons = []
    for a, b in wanted:
        found = [
            compare_two(benchmark, a, by_system[a], b, by_system[b], seed)
            for benchmark, by_system in systems.items()
            if a in by_system and b in by_system
        ]
        # the benchmarks of one pair are one family of tests
        corrected = correct_holm([c["p"] for c in found]) if found else []
        for comparison, p in zip(found, corrected, strict=True):
            comparisons.append(comparison | {"p_holm": rounded(p)})
    return comparisons


def compare_two(
    benchmark: str, a: str, left: Samples, b: str, right: Samples, seed: int
) -> dict[str, Any]:
    """Compare two systems on one benchmark by the means over each question's samples."""
    samples = pd.DataFrame(left, dtype=object)
    first, second = score_questions(samples), score_questions(pd.DataFrame(right, dtype=object))
    x, y = first.to_numpy(), second[first.index].to_numpy()
    clusters = samples.drop_duplicates("id")["cluster"].to_list()
    result = compare_paired(x, y, clusters, seed)
    # of several answers the first one counts for agreement
    chosen = {sample["id"]: sample["choice"] for sample in right if sample["sample"] == 0}
    same = [
        sample["choice"] is not None and sample["choice"] == chosen[sample["id"]]
        for sample in left
        if sample["sample"] == 0
    ]
    found = {
        name: rounded(value) if isinstance(value, float) else value
        for name, value in result._asdict().items()
    }
    head = {"benchmark": benchmark, "a": a, "b": b, "n": len(first)}
    difference = {end: found.pop(end) for end in ("value", "low", "high")}
    agreement = {
        "both_right": rounded(np.minimum(x, y).mean()),
        "same_choice": rounded(np.mean(same)),
    }
    return head | {"difference": difference} | found | agreement


def score_questions(samples: pd.DataFrame) -> pd.Series:
    """Compute the mean of `correct` over each question's samples, in the order of the questions."""
    return samples["correct"].astype(float).groupby(samples["id"], sort=False).mean()


def judge_claims(
    comparisons: list[dict[str, Any]], claims: Any, results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Judge each claim whose systems and benchmark were compared; say the verdict in a sentence.

    claims: `claims` of eval.yaml; null judges nothing. Level with: non-inferiority by the margin.
    Ahead by `points`: above 0, and the interval tells if the difference can be that large.
    """
    verdicts = []
    for kind in ("level", "ahead") if claims else ():
        pair = {claims["of"], claims["over"]}
        for c in comparisons:
            if c["benchmark"] not in (claims[kind] or []) or {c["a"], c["b"]} != pair:
                continue
            # the pair may have been compared the other way round
            value, low, high = (c["difference"][key] for key in ("value", "low", "high"))
            if c["a"] == claims["over"]:
                value, low, high = -value, -high, -low
            limit = claims["margin"] if kind == "level" else claims["points"]
            verdict, ending = judge(kind, low, high, c["p_holm"], limit)
            if faults := find_faults(c["benchmark"], claims, results):
                verdict, ending = "cannot be judged", "; ".join(faults)
            p, p_holm = format_p(c["p"]), format_p(c["p_holm"])
            sentence = SENTENCES[kind].format(
                of=claims["of"],
                over=claims["over"],
                limit=100 * limit,
                benchmark=c["benchmark"],
                verdict=verdict,
                value=format_points(value),
                low=format_points(low),
                high=format_points(high),
                n=c["n"],
                test=f"{c['test']} {p}, after Holm {p_holm}",
                ending=ending,
            )
            facts = {"claim": kind, "benchmark": c["benchmark"], "verdict": verdict}
            verdicts.append(facts | {"sentence": sentence})
    return verdicts


def judge(kind: str, low: float, high: float, p: float, limit: float) -> tuple[str, str]:
    """Judge an interval of `of` - `over`; return the verdict and how its sentence ends."""
    if kind == "level":
        verdict = key = judge_non_inferiority(low, high, limit)
        if verdict == "shown" and low > 0:
            key = "better"
        elif verdict == "open" and high < 0:
            key = "worse"
    elif low > 0 and p < 0.05:
        verdict = "shown" if high >= limit else "smaller"
        key = "less" if high < limit else "more" if low > limit else "equal"
    elif low > 0:
        verdict, key = "open", "untested"
    elif high < limit:
        verdict, key = "refuted", "behind" if high < 0 else "not"
    else:
        verdict = key = "open"
    return verdict, ENDINGS[f"{kind} {key}"].format(limit=100 * limit)


def find_faults(benchmark: str, claims: Any, results: list[dict[str, Any]]) -> list[str]:
    """Find what keeps a comparison from being judged: errors, format, a baseline at chance."""
    found = {f"{r['model']}.{r['mode']}": r for r in results if r["benchmark"] == benchmark}
    faults = []
    for system in (claims["of"], claims["over"]):
        result = found[system]
        if result["errors"]:
            faults.append(f"{result['errors']:,} answers of {system} are errors")
        needed = (claims["format_rate"] or {}).get(split_mode(result["mode"])[0], 0)
        if result["format_rate"] < needed:
            faults.append(
                f"{system} follows its format in {format_percent(result['format_rate'])} % of its "
                f"answers, {100 * needed:g} % are needed"
            )
    accuracy, chance = found[claims["over"]]["accuracy"], found[claims["over"]]["chance"]
    if accuracy["low"] <= chance:
        faults.append(
            f"{claims['over']} is not above chance: {format_value(accuracy)} % "
            f"({format_interval(accuracy)}), chance {format_percent(chance)} %"
        )
    return faults
