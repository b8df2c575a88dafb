"""The paper's numbers (published.yaml) next to ours, and what its own n supports."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from eval.modes import split_mode
from eval.statistics import CONFIDENCE
from eval.tables import Table, format_percent, format_points, name_prompt

FILE = Path(__file__).with_name("published.yaml")
CLAIM = ("rlvr.think", "sft.direct")
"""The paper's two claims are about the first against the second."""


def read_published() -> dict[str, Any]:
    """Read source, model and benchmarks; a benchmark: title, n, and accuracy and sd by system."""
    published: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return published


def find_published(benchmark: str) -> dict[str, Any] | None:
    """Find the paper's numbers for a benchmark; also where its labels are in a later state."""
    found = read_published()["benchmarks"].get(benchmark.replace("_2026/", "/"))
    return None if found is None else dict(found)


def pair_scores(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pair each number of the paper with ours, for benchmarks that it has; ours may be missing."""
    pairs = []
    for benchmark in dict.fromkeys(result["benchmark"] for result in results):
        paper = find_published(benchmark) or {}
        ours = {
            f"{result['model']}.{split_mode(result['mode'])[0]}": result
            for result in results
            if result["benchmark"] == benchmark
        }
        for system, theirs in paper.items():
            if isinstance(theirs, dict):
                pair = {"benchmark": benchmark, "system": system, "n": paper["n"]}
                pairs.append(pair | {"paper": theirs, "ours": ours.get(system)})
    return pairs


def list_support(benchmarks: list[str]) -> list[str]:
    """Say what the paper's own n supports: one computed sentence for each of these benchmarks."""
    from scipy.stats import norm

    sentences = []
    for benchmark in benchmarks:
        if (paper := find_published(benchmark)) is None:
            continue
        n = paper["n"]
        a, b = (paper[system]["right"] / n for system in CLAIM)
        half = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((a * (1 - a) + b * (1 - b)) / n)
        low, high = a - b - half, a - b + half
        sentences.append(
            f"{paper['title']}: {CLAIM[0]} − {CLAIM[1]} is {format_points(a - b)} points (95 % CI "
            f"{format_points(low)} to {format_points(high)}, unpaired, n = {n:,}): "
            f"{'above 0' if low > 0 else 'not shown to differ from 0'}, and as little as "
            f"{format_points(low)} is possible."
        )
    return sentences


def build_published(results: list[dict[str, Any]]) -> Table:
    """Build the table of the paper's numbers next to ours, with SDs by the same estimator."""
    rows, prompts = [], set()
    for pair in pair_scores(results):
        theirs, ours = pair["paper"], pair["ours"]
        row = {
            "benchmark": pair["benchmark"],
            "system": pair["system"],
            "paper n": f"{pair['n']:,}",
            "paper": f"{theirs['accuracy']:.1f} ± {theirs['sd']:.2f}",
            "our n": "–",
            "ours": "–",
        }
        if ours:
            accuracy = ours["accuracy"]
            row["our n"] = f"{ours['n']:,}"
            row["ours"] = f"{format_percent(accuracy['value'])} ± {100 * accuracy['sd']:.2f}"
            prompts.add(name_prompt(ours["settings"]["benchmark"]["prompt"]))
        rows.append(row)
    note = "±: standard deviation over 1,000 bootstrap samples, theirs and ours. "
    if other := prompts - {"paper"}:
        note += f"Ours were asked with another prompt template ({', '.join(sorted(other))}). "
    note += " ".join(list_support(list(dict.fromkeys(row["benchmark"] for row in rows))))
    title = f"The paper's numbers ({read_published()['source']}) and ours (%)"
    return Table(title, pd.DataFrame(rows, dtype=object), 2, note)
