"""Compute the numbers of summary.json from the samples alone: no time, no path of this machine."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from eval.samples import Samples
from eval.statistics import accuracy_interval, bootstrap_deviation, majority, pass_at_k

INTEGERS = ["sample", "tokens", "num_options"]
FLAGS = ["truncated", "format_ok", "correct", "correct_lenient", "overlap"]
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""k of pass@k, where there are that many answers."""

Numbers = dict[str, Any]


def summarise_samples(samples: Samples, seed: int = 0) -> Numbers:
    """Compute the numbers of one task. Errors and unread answers count as wrong.

    n counts answers, questions different ids, clusters different questions. accuracy_unique counts
    each cluster once, accuracy_clean leaves out questions that overlap with training rows,
    accuracy_given_format answers that do not follow the format (null where none is left);
    accuracy_published, where a benchmark has its own rules of reading, is by these.
    """
    # as objects: pandas' own strings cannot hold half an emoji, which a model may write
    frame = pd.DataFrame(samples, dtype=object)
    frame = frame.astype(dict.fromkeys(INTEGERS, int) | dict.fromkeys(FLAGS, bool))
    # nobody guesses an open answer
    frame["chance"] = (1 / frame["num_options"]).where(frame["num_options"] > 0, 0.0)
    published = "correct_published" in frame
    accuracy = measure(frame, seed) or {}
    tokens, errors = frame["tokens"], frame["error"].dropna()
    return {
        "n": len(frame),
        "questions": frame["id"].nunique(),
        "clusters": frame["cluster"].nunique(),
        "accuracy": accuracy | {"sd": rounded(bootstrap_deviation(frame["correct"], seed=seed))},
        "accuracy_lenient": measure(frame, seed, "correct_lenient"),
        "accuracy_published": measure(frame, seed, "correct_published") if published else None,
        "accuracy_given_format": measure(frame[frame["format_ok"]], seed),
        "accuracy_unique": measure(frame.groupby("cluster")["correct"].mean().reset_index(), seed),
        "accuracy_clean": measure(frame[~frame["overlap"]], seed),
        "chance": rounded(frame["chance"].mean()),
        "format_rate": rounded(frame["format_ok"].mean()),
        "truncated_rate": rounded(frame["truncated"].mean()),
        "errors": len(errors),
        "error_reasons": count_values(errors),
        "reasons": count_values(frame["reason"]),
        "tokens": {
            "mean": rounded(tokens.mean()),
            "median": rounded(tokens.median()),
            "max": int(tokens.max()),
        },
        "by_group": measure_parts(frame, frame["group"], seed),
        "by_length": measure_parts(frame, cut_lengths(frame["tokens"]), seed),
        "by_num_options": measure_parts(frame, frame["num_options"], seed),
        "letters": count_values(frame.loc[frame["num_options"] > 0, "choice"].dropna()),
        "flips": measure_flips(frame, seed) if "rotation_of" in frame else None,
        "sampled": summarise_sampled(frame, seed),
    }


def measure(frame: pd.DataFrame, seed: int, key: str = "correct") -> Numbers | None:
    """Compute an accuracy with its interval and n; None without answers."""
    if frame.empty:
        return None
    scores = frame[key].astype(float)
    low, high, method = accuracy_interval(scores, frame["cluster"], seed=seed)
    ends = {"value": rounded(scores.mean()), "low": rounded(low), "high": rounded(high)}
    return ends | {"method": method, "n": len(frame)}


def measure_parts(frame: pd.DataFrame, parts: Any, seed: int) -> dict[str, Any]:
    """Compute accuracy and chance of each part, in the order of the parts; {} without parts."""
    return {
        str(name): (measure(part, seed) or {}) | {"chance": rounded(part["chance"].mean())}
        for name, part in frame.groupby(parts, observed=True)
    }


def measure_flips(frame: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    """Compute the fraction of rotated questions to which the choice is not always the same option.

    An unread answer is a choice of its own. None where no question was asked in two rotations.
    """
    # of several answers the first one counts; an open question has no rotations
    frame = frame[(frame["sample"] == 0) & (frame["num_options"] > 0)]
    questions = frame.assign(place=find_places(frame)).groupby("rotation_of", sort=False)
    table = questions.agg(orders=("id", "nunique"), cluster=("cluster", "first"))
    table["flips"] = questions["place"].nunique() > 1
    return measure(table[table["orders"] > 1], seed, "flips")


def find_places(frame: pd.DataFrame) -> pd.Series:
    """Find each choice's place from the gold letter on, the same in every rotation; unread: -1."""
    chosen, gold = frame["choice"].map(ord, na_action="ignore"), frame["answer"].map(ord)
    return ((chosen - gold) % frame["num_options"]).fillna(-1)


def cut_lengths(tokens: pd.Series) -> pd.Series:
    """Cut answers into quarters by tokens; fewer where lengths coincide, none where all do."""
    inner = np.unique(np.quantile(tokens, [0.25, 0.5, 0.75], method="higher"))
    edges = inner[inner > tokens.min()]
    if not len(edges):
        return pd.Series(np.nan, tokens.index)
    bin_of = pd.Series(np.digitize(tokens, edges), index=tokens.index)
    names = tokens.groupby(bin_of).agg(lambda part: f"{part.min()}–{part.max()}")
    return bin_of.map(names).astype(pd.CategoricalDtype(names.to_list(), ordered=True))


def count_values(values: pd.Series) -> dict[str, int]:
    """Count each value, the most frequent first."""
    counts = Counter(map(str, values))
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def summarise_sampled(frame: pd.DataFrame, seed: int) -> Numbers | None:
    """Compute avg@k, pass@k and maj@k where each question was answered several times.

    pass@k has the interval of whole clusters, and next to it what guessing reaches: with few
    options k guesses are soon right. Confidence is the winner's fraction of the votes.
    """
    questions = frame.groupby("id", sort=False)
    k = int(questions.size().min())
    if k == 1:
        return None
    table = questions.agg(
        right=("correct", "sum"),
        asked=("correct", "size"),
        cluster=("cluster", "first"),
        chance=("chance", "first"),
        answer=("answer", "first"),
        choices=("choice", list),
        votes=("choice", lambda choices: choices.value_counts().max() / len(choices)),
    )
    pairs = zip(table["choices"], table["answer"], strict=True)
    score = pd.Series([majority(choices, answer) for choices, answer in pairs], table.index)
    passed = {}
    # k up to the least number of answers that any question has
    for size in [size for size in SIZES if size < k] + [k]:
        table["passed"] = pass_at_k(table["right"], table["asked"], size)
        guessed = rounded((1 - (1 - table["chance"]) ** size).mean())
        passed[size] = (measure(table, seed, "passed") or {}) | {"chance": guessed}
    each = [rounded(part.mean()) for _, part in frame.groupby("sample")["correct"]][:k]
    return {
        "k": k,
        f"avg@{k}": rounded((table["right"] / table["asked"]).mean()),
        **{f"pass@{size}": found["value"] for size, found in passed.items()},
        f"maj@{k}": rounded(score.mean()),
        "pass": {str(size): found for size, found in passed.items()},
        "accuracy_of_each_sample": each,
        "standard_deviation": rounded(np.std(each, ddof=1)),
        "calibration": calibrate(table["votes"].fillna(0), score),
    }


def calibrate(confidence: pd.Series, score: pd.Series) -> Numbers:
    """Compare confidence with accuracy in fifths; error: mean distance over questions."""
    table = pd.DataFrame({"confidence": confidence, "accuracy": score})
    parts = table.groupby(np.digitize(confidence, [0.2, 0.4, 0.6, 0.8], right=True))
    frame = parts.mean().assign(n=parts.size())
    error = (frame["confidence"] - frame["accuracy"]).abs() @ frame["n"] / len(table)
    frame["up_to"] = (frame.index + 1) / 5
    rows = frame[["up_to", "n", "confidence", "accuracy"]].map(rounded).astype({"n": int})
    return {"error": rounded(error), "bins": rows.to_dict("records")}


def rounded(value: Any) -> float:
    """Round to six digits: the same text wherever the last bits differ."""
    return round(float(value), 6)
