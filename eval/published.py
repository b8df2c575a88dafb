"""The paper's numbers (published.yaml) next to ours, and what its own n supports."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eval.modes import split_mode
from eval.statistics import CONFIDENCE
from eval.tables import (
    Table,
    build_frame,
    format_percent,
    format_points,
    group_results,
    name_prompt,
)

PAPER: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
)
"""source, model and benchmarks; a benchmark: title, n, and accuracy and sd by system."""
CLAIM = ("rlvr.think", "sft.direct")
"""The paper's two claims are about the first against the second."""


def build_published(results: list[dict[str, Any]]) -> Table:
    """Build the table of the paper's numbers next to ours, with SDs by the same estimator.

    Only benchmarks that the paper has, also with labels of a later state; ours may be missing.
    """
    rows, prompts, support = [], set(), []
    for benchmark, group in group_results(results).items():
        paper = PAPER["benchmarks"].get(benchmark.replace("_2026/", "/"))
        if paper is None:
            continue
        support.append(describe_support(paper))
        ours = {f"{result['model']}.{split_mode(result['mode'])[0]}": result for result in group}
        for system, theirs in paper.items():
            if not isinstance(theirs, dict):
                continue  # its title, its n
            row = {
                "benchmark": benchmark,
                "system": system,
                "paper n": f"{paper['n']:,}",
                "paper": f"{theirs['accuracy']:.1f} ± {theirs['sd']:.2f}",
                "our n": "–",
                "ours": "–",
            }
            if result := ours.get(system):
                accuracy = result["accuracy"]
                row["our n"] = f"{result['n']:,}"
                row["ours"] = f"{format_percent(accuracy['value'])} ± {100 * accuracy['sd']:.2f}"
                prompts.add(name_prompt(result["settings"]["benchmark"]["prompt"]))
            rows.append(row)
    notes = ["±: standard deviation over 1,000 bootstrap samples, theirs and ours."]
    if other := prompts - {"paper"}:
        notes.append(f"Ours were asked with another prompt template ({', '.join(sorted(other))}).")
    title = f"The paper's numbers ({PAPER['source']}) and ours (%)"
    return Table(title, build_frame(rows), 2, " ".join([*notes, *support]))


def describe_support(paper: dict[str, Any]) -> str:
    """Say in a sentence what the paper's own n supports on a benchmark."""
    from scipy.stats import norm

    n = paper["n"]
    a, b = (paper[system]["right"] / n for system in CLAIM)
    half = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((a * (1 - a) + b * (1 - b)) / n)
    low, high = format_points(a - b - half), format_points(a - b + half)
    shown = "above 0" if a - b > half else "not shown to differ from 0"
    return (
        f"{paper['title']}: {CLAIM[0]} − {CLAIM[1]} is {format_points(a - b)} points (95 % CI "
        f"{low} to {high}, unpaired, n = {n:,}): {shown}, and as little as {low} is possible."
    )
