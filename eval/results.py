"""Writes what people read: report.md, report.html and table.md (the rows of README's results table)."""

import json
from pathlib import Path
from typing import Any

from data_prep.files import write_text
from data_prep.prompt import LETTERS
from eval.compare import Systems
from eval.page import render_page
from eval.tables import (
    list_comparisons,
    list_length_parts,
    list_lengths,
    list_parts,
    list_readme_rows,
    list_results,
    list_sampled,
    list_subsets,
    render_markdown,
)

EXAMPLES = 10
"""Questions shown of each pair in each direction."""


def write_report(
    folder: Path, summary: dict[str, Any], systems: Systems, questions: dict[str, dict[str, Any]]
) -> None:
    """Writes the three files. questions: row of each id, for the questions shown side by side."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))[-1]
    date = run["started"][:10]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    made = f"{date}, commit {run['commit'] or 'unknown'}, Python {run['python']}, {versions}"
    write_text(folder / "table.md", render_markdown(list_readme_rows(summary, run["commit"], date)))
    write_text(folder / "report.md", render_text(summary, made))
    write_text(
        folder / "report.html",
        render_page(summary, find_differing(summary, systems, questions), made),
    )


def render_text(summary: dict[str, Any], made: str) -> str:
    """The report in Markdown."""
    parts = [f"# Evaluation: {summary['name']}", made]
    parts += [f"> {claim['sentence']}" for claim in summary["claims"]]
    tables = [
        list_results(summary),
        list_subsets(summary),
        list_sampled(summary),
        list_comparisons(summary),
    ]
    tables += list_parts(summary, "by_group", "By subject")
    tables += list_parts(summary, "by_num_options", "By number of options")
    tables += [list_length_parts(summary), list_lengths(summary)]
    parts += [f"## {table.title}\n\n{render_markdown(table)}" for table in tables if table.rows]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def find_differing(
    summary: dict[str, Any], systems: Systems, questions: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """For each comparison and direction the first questions that one got right and the other wrong (first sample)."""
    differing: dict[str, list[dict[str, Any]]] = {}
    for comparison in summary["comparisons"]:
        by_system = systems[comparison["benchmark"]]
        for right, wrong in (
            (comparison["a"], comparison["b"]),
            (comparison["b"], comparison["a"]),
        ):
            others = {sample["id"]: sample for sample in by_system[wrong] if sample["sample"] == 0}
            found = [
                (sample, others[sample["id"]])
                for sample in by_system[right]
                if sample["sample"] == 0
                and sample["correct"]
                and not others[sample["id"]]["correct"]
            ]
            shown = [
                describe_question(questions[pair[0]["id"]], (right, wrong), pair)
                for pair in found[:EXAMPLES]
            ]
            heading = f"{comparison['benchmark']}: {right} right, {wrong} wrong ({len(shown)} of {len(found):,})"
            differing[heading] = shown
    return differing


def describe_question(
    row: dict[str, Any], names: tuple[str, str], pair: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    """What the page shows of one question: stem, options, and what each system answered."""
    return {
        "id": row["id"],
        "question": row["question"],
        "options": [
            f"{letter}. {text}" for letter, text in zip(LETTERS, row["options"], strict=False)
        ],
        "answer": row["answer"],
        "sides": [
            {
                "system": name,
                "choice": sample["choice"],
                "reason": sample["reason"],
                "response": sample["response"],
            }
            for name, sample in zip(names, pair, strict=True)
        ],
    }
