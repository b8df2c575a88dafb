"""Samples -> numbers. What comes out depends on the samples alone: no time, no path of this machine."""

from collections.abc import Callable
from typing import Any

import numpy as np

from eval.sampling import majority, pass_at_k
from eval.statistics import accuracy_interval

DIGITS = 6

Samples = list[dict[str, Any]]


def summarise(samples: Samples, seed: int = 0) -> dict[str, Any]:
    """The numbers of one task. Errors and unread answers count as wrong.

    n counts answers, questions different ids, clusters different questions. accuracy_unique counts each cluster once,
    accuracy_clean leaves out questions that overlap with training rows (null where none is left).
    """
    tokens = np.array([sample["tokens"] for sample in samples], float)
    clean = [sample for sample in samples if not sample["overlap"]]
    return {
        "n": len(samples),
        "questions": len({sample["id"] for sample in samples}),
        "clusters": len({sample["cluster"] for sample in samples}),
        "accuracy": measure(samples, "correct", seed),
        "accuracy_lenient": measure(samples, "correct_lenient", seed),
        "accuracy_unique": measure_clusters(samples, seed),
        "accuracy_clean": measure(clean, "correct", seed) if clean else None,
        "chance": find_chance(samples),
        "format_rate": rounded(np.mean([sample["format_ok"] for sample in samples])),
        "truncated_rate": rounded(np.mean([sample["truncated"] for sample in samples])),
        "errors": sum(sample["error"] is not None for sample in samples),
        "reasons": count(samples, "reason"),
        "tokens": {
            "mean": rounded(tokens.mean()),
            "median": rounded(np.median(tokens)),
            "max": int(tokens.max()),
        },
        "by_group": split(samples, lambda sample: sample["group"], seed),
        "by_length": split_by_length(samples, seed),
        "by_num_options": split(samples, lambda sample: str(sample["num_options"]), seed),
        "sampled": summarise_sampled(samples),
    }


def measure(samples: Samples, key: str, seed: int) -> dict[str, Any]:
    """Accuracy with its interval and how that was found."""
    correct = np.array([sample[key] for sample in samples], float)
    interval = accuracy_interval(correct, [sample["cluster"] for sample in samples], seed=seed)
    return {
        "value": rounded(correct.mean()),
        "low": rounded(interval.low),
        "high": rounded(interval.high),
        "method": interval.method,
        "n": len(correct),
    }


def measure_clusters(samples: Samples, seed: int) -> dict[str, Any]:
    """Accuracy with each different question counted once, as the mean of its answers."""
    scores: dict[str, list[bool]] = {}
    for sample in samples:
        scores.setdefault(sample["cluster"], []).append(sample["correct"])
    means = np.array([np.mean(values) for values in scores.values()])
    interval = accuracy_interval(means, np.arange(len(means)), seed=seed)
    low, high = rounded(interval.low), rounded(interval.high)
    return {
        "value": rounded(means.mean()),
        "low": low,
        "high": high,
        "method": interval.method,
        "n": len(means),
    }


def split(samples: Samples, key: Callable[[dict[str, Any]], str], seed: int) -> dict[str, Any]:
    """Accuracy and chance of each part, in the order of the parts' names (numbers by their size)."""
    parts: dict[str, Samples] = {}
    for sample in samples:
        parts.setdefault(key(sample), []).append(sample)
    names = sorted(parts, key=lambda name: (int(name), "") if name.isdigit() else (0, name))
    return {
        name: {**measure(parts[name], "correct", seed), "chance": find_chance(parts[name])}
        for name in names
    }


def split_by_length(samples: Samples, seed: int, bins: int = 4) -> dict[str, Any]:
    """Accuracy by the number of tokens of the answer, in quarters; fewer where lengths coincide, none where all do."""
    tokens = np.array([sample["tokens"] for sample in samples])
    inner = np.unique(np.quantile(tokens, np.arange(1, bins) / bins, method="higher"))
    edges = inner[(inner > tokens.min()) & (inner <= tokens.max())]
    if not len(edges):
        return {}
    parts: dict[str, Any] = {}
    for index in range(len(edges) + 1):
        inside = [
            s for s, bin_ in zip(samples, np.digitize(tokens, edges), strict=True) if bin_ == index
        ]
        lengths = [sample["tokens"] for sample in inside]
        parts[f"{min(lengths)}–{max(lengths)}"] = {
            **measure(inside, "correct", seed),
            "chance": find_chance(inside),
        }
    return parts


def find_chance(samples: Samples) -> float:
    """Expected accuracy of a uniform guess."""
    return rounded(np.mean([1 / sample["num_options"] for sample in samples]))


def count(samples: Samples, key: str) -> dict[str, int]:
    """How often each value comes, the most frequent first."""
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample[key]] = counts.get(sample[key], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def summarise_sampled(samples: Samples) -> dict[str, Any] | None:
    """avg@k, pass@k and maj@k where each question was answered several times, and the spread over the samples."""
    questions: dict[str, Samples] = {}
    for sample in samples:
        questions.setdefault(sample["id"], []).append(sample)
    k = min(map(len, questions.values()))
    if k == 1:
        return None
    right = [sum(sample["correct"] for sample in answers) for answers in questions.values()]
    asked = [len(answers) for answers in questions.values()]
    votes = [
        majority([sample["choice"] for sample in a], a[0]["answer"]) for a in questions.values()
    ]
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < k] + [k]
    accuracies = [
        np.mean([s["correct"] for s in samples if s["sample"] == number]) for number in range(k)
    ]
    return {
        "k": k,
        f"avg@{k}": rounded(np.mean(np.array(right) / np.array(asked))),
        **{f"pass@{size}": rounded(pass_at_k(right, asked, size).mean()) for size in sizes},
        f"maj@{k}": rounded(np.mean(votes)),
        "accuracy_of_each_sample": [rounded(value) for value in accuracies],
        "standard_deviation": rounded(np.std(accuracies, ddof=1)),
    }


def rounded(value: Any) -> float:
    """Six digits: enough for every use, and the same text wherever the last bits differ."""
    return round(float(value), DIGITS)
