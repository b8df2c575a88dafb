"""Compare two systems (`model.mode`) on the same questions, and judge the paper's two claims."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from data_prep.errors import UserError
from eval.modes import split_mode
from eval.samples import Samples
from eval.statistics import compare_paired, correct_holm
from eval.summary import rounded
from eval.tables import (
    Result,
    format_interval,
    format_p,
    format_percent,
    format_points,
    format_value,
    name_system,
)

Systems = dict[str, dict[str, Samples]]
"""benchmark -> system -> samples"""


def compare_systems(systems: Systems, pairs: list[list[str]] | None, seed: int) -> list[Result]:
    """Compare each pair of systems on each benchmark that both answered.

    pairs: [[a, b]] of system names; null: every two. p_holm corrects a pair's p over benchmarks.
    Raises UserError for a system that was not evaluated.
    """
    known = sorted({name for by_system in systems.values() for name in by_system})
    wanted = pairs if pairs is not None else [list(pair) for pair in combinations(known, 2)]
    if unknown := sorted({name for pair in wanted for name in pair}.difference(known)):
        there = f"there are {', '.join(known)}"
        raise UserError(f"compare: {', '.join(unknown)} not evaluated here: {there}")
    comparisons = []
    for a, b in wanted:
        found = [
            {"benchmark": benchmark, "a": a, "b": b} | compare_two(of[a], of[b], seed)
            for benchmark, of in systems.items()
            if a in of and b in of
        ]
        # the benchmarks of one pair are one family of tests
        corrected = correct_holm([c["p"] for c in found]) if found else []
        comparisons += [c | {"p_holm": rounded(p)} for c, p in zip(found, corrected, strict=True)]
    return comparisons


def compare_two(left: Samples, right: Samples, seed: int) -> Result:
    """Compare two systems on one benchmark by the means over each question's samples."""
    a = score_questions(left)
    b = score_questions(right).loc[a.index]
    result = compare_paired(a["score"], b["score"], a["cluster"], seed)._asdict()
    found = {key: rounded(x) if isinstance(x, float) else x for key, x in result.items()}
    difference = {end: found.pop(end) for end in ("value", "low", "high")}
    agreement = {
        "both_right": rounded(np.minimum(a["score"], b["score"]).mean()),
        "same_choice": rounded((a["choice"].notna() & (a["choice"] == b["choice"])).mean()),
    }
    return {"n": len(a), "difference": difference} | found | agreement


def score_questions(samples: Samples) -> pd.DataFrame:
    """List each question's first answer, with the mean of `correct` over its samples as `score`."""
    frame = pd.DataFrame(samples, dtype=object)
    score = frame["correct"].astype(float).groupby(frame["id"]).mean()
    return frame.drop_duplicates("id").set_index("id").assign(score=score)


def compare_open(systems: Systems) -> list[Result]:
    """Compare each system's answers to the same questions, asked as a choice and openly.

    Benchmark `X_open/test` asks what `X/test` asks, row by row. Only questions in both count.
    """
    found = []
    for benchmark in [name for name in systems if "_open/" in name]:
        as_choice = systems.get(benchmark.replace("_open/", "/"), {})
        for system in [name for name in systems[benchmark] if name in as_choice]:
            both_ways = [
                score_questions(samples)["score"].rename(lambda key: key.replace("_open/", "/", 1))
                for samples in (as_choice[system], systems[benchmark][system])
            ]
            scores = pd.concat(both_ways, axis=1, join="inner", keys=["choice", "open"])
            scores["both"] = scores.min(axis=1)
            rates = scores.mean().map(rounded).to_dict()
            if len(scores):  # a mean of none is no number, which summary.json cannot hold
                found.append({"benchmark": benchmark, "system": system, "n": len(scores)} | rates)
    return found


def judge_claims(comparisons: list[Result], claims: Any, results: list[Result]) -> list[Result]:
    """Judge each claim whose systems and benchmark were compared; say the verdict in a sentence.

    claims: `claims` of eval.yaml; null judges nothing. Level with: non-inferiority by the margin.
    Ahead by `points`: above 0, and the interval tells if the difference can be that large.
    """
    verdicts = []
    for kind in ("level", "ahead") if claims else ():
        of, over = claims["of"], claims["over"]
        for c in comparisons:
            if c["benchmark"] not in (claims[kind] or []) or {c["a"], c["b"]} != {of, over}:
                continue
            # the pair may have been compared the other way round
            value, low, high = (c["difference"][key] for key in ("value", "low", "high"))
            if c["a"] == over:
                value, low, high = -value, -high, -low
            limit = claims["margin"] if kind == "level" else claims["points"]
            verdict, ending = judge(kind, low, high, c["p_holm"], limit)
            if faults := find_faults(c["benchmark"], claims, results):
                verdict, ending = "cannot be judged", "; ".join(faults)
            claim, test = f"{of} level with {over}", ""
            if kind == "ahead":
                claim = f"{of} ahead of {over}, {100 * limit:g} points not excluded,"
                test = f" ({c['test']} {format_p(c['p'])}, after Holm {format_p(c['p_holm'])})"
            sentence = (
                f"{claim} on {c['benchmark']}: {verdict}. Difference {format_points(value)} points "
                f"(95 % CI {format_points(low)} to {format_points(high)}, n = {c['n']:,}){test}; "
                f"{ending}."
            )
            facts = {"claim": kind, "benchmark": c["benchmark"], "verdict": verdict}
            verdicts.append(facts | {"sentence": sentence})
    return verdicts


def judge(kind: str, low: float, high: float, p: float, limit: float) -> tuple[str, str]:
    """Judge an interval of `of` - `over`; return the verdict and how its sentence ends.

    level: non-inferiority; a two-sided 95 % interval makes `shown` a one-sided test at 2.5 %.
    """
    points = f"{100 * limit:g} points"
    if not limit > 0:
        raise ValueError(f"a margin of {points} is not above 0")
    if kind == "level":
        if low > 0:
            return "shown", "the interval is above 0: better, not only level"
        if low > -limit:
            return "shown", f"the interval stays above −{points}: not inferior by that margin"
        if high < -limit:
            return "refuted", f"the interval is below −{points}: worse by more than that margin"
        if high < 0:
            held = f"the interval is below 0 and holds −{points}"
            return "open", f"{held}: worse, by more than the margin or by less"
        return "open", f"the interval holds −{points}: too few questions to tell at that margin"
    if low > 0 and p >= 0.05:  # interval and test must agree
        return "open", "the interval is above 0, but the corrected test does not reach 5 %"
    if low > limit:
        return "shown", f"ahead, and the difference is more than {points}"
    if low > 0 and high >= limit:
        return "shown", f"ahead, and the difference can be {points}"
    if low > 0:
        return "smaller", f"ahead, and the difference is less than {points}"
    if high < 0:
        return "refuted", "behind: the interval is below 0"
    if high < limit:
        return "refuted", f"not ahead by {points}: the interval is below that and holds 0"
    return "open", f"the interval holds both 0 and {points}: too few questions to tell"


def find_faults(benchmark: str, claims: Any, results: list[Result]) -> list[str]:
    """Find what keeps a comparison from being judged: errors, format, a baseline at chance."""
    found = {name_system(one): one for one in results if one["benchmark"] == benchmark}
    faults = []
    for system in (claims["of"], claims["over"]):
        result = found[system]
        if result["errors"]:
            faults.append(f"{result['errors']:,} answers of {system} are errors")
        needed = (claims["format_rate"] or {}).get(split_mode(result["mode"])[0], 0)
        if result["format_rate"] < needed:  # then accuracy is about the format first
            faults.append(
                f"{system} follows its format in {format_percent(result['format_rate'])} % of its "
                f"answers, {100 * needed:g} % are needed"
            )
    accuracy, chance = found[claims["over"]]["accuracy"], found[claims["over"]]["chance"]
    if accuracy["low"] <= chance:  # to beat a model that guesses shows nothing
        faults.append(
            f"{claims['over']} is not above chance: {format_value(accuracy)} % "
            f"({format_interval(accuracy)}), chance {format_percent(chance)} %"
        )
    return faults
