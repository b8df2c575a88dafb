"""Samples -> numbers. What comes out depends on the samples alone: no time, no path of this machine."""

from typing import Any

import numpy as np

from eval.statistics import accuracy_interval

DIGITS = 6


def summarise(samples: list[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """The numbers of one task. Errors and unread answers count as wrong; n counts answers, questions different ids."""
    clusters = [sample["cluster"] for sample in samples]
    tokens = np.array([sample["tokens"] for sample in samples], float)
    return {
        "n": len(samples),
        "questions": len({sample["id"] for sample in samples}),
        "clusters": len(set(clusters)),
        "accuracy": measure([sample["correct"] for sample in samples], clusters, seed),
        "accuracy_lenient": measure([sample["correct_lenient"] for sample in samples], clusters, seed),
        "chance": rounded(np.mean([1 / sample["num_options"] for sample in samples])),
        "format_rate": rounded(np.mean([sample["format_ok"] for sample in samples])),
        "truncated_rate": rounded(np.mean([sample["truncated"] for sample in samples])),
        "errors": sum(sample["error"] is not None for sample in samples),
        "tokens": {"mean": rounded(tokens.mean()), "median": rounded(np.median(tokens)), "max": int(tokens.max())},
    }


def measure(correct: list[bool], clusters: list[str], seed: int) -> dict[str, Any]:
    """Accuracy with its interval and how that was found."""
    interval = accuracy_interval(np.array(correct, float), clusters, seed=seed)
    return {
        "value": rounded(np.mean(correct)),
        "low": rounded(interval.low),
        "high": rounded(interval.high),
        "method": interval.method,
        "n": len(correct),
    }


def rounded(value: Any) -> float:
    """Six digits: enough for every use, and the same text wherever the last bits differ."""
    return round(float(value), DIGITS)
