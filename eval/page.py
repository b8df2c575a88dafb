"""Write what people read: report.html (one page that loads nothing), report.md and table.md."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from data_prep.files import write_text
from data_prep.prompt import LETTERS
from eval import plots
from eval.compare import Systems
from eval.tables import (
    Table,
    build_asked,
    build_comparisons,
    build_lengths,
    build_parts,
    build_published,
    build_reasons,
    build_results,
    build_sampled,
    build_scores,
    build_subsets,
    group_results,
    render_markdown,
)

TEMPLATE = "evaluation.html.j2"
EXAMPLES = 10
"""Questions shown of each pair in each direction."""


def write_report(
    folder: Path, summary: dict[str, Any], systems: Systems, questions: dict[str, dict[str, Any]]
) -> None:
    """Write the three files. questions: row of each id, for the questions shown side by side."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))[-1]
    date = run["started"][:10]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    made = f"{date}, commit {run['commit'] or 'unknown'}, Python {run['python']}, {versions}"
    rows = build_scores(summary["results"], commit=run["commit"] or "–", date=date)
    write_text(folder / "table.md", render_markdown(rows))
    write_text(folder / "report.md", render_text(summary, made))
    differing = find_differing(summary, systems, questions)
    write_text(folder / "report.html", render_page(summary, differing, made))


def build_tables(summary: dict[str, Any]) -> dict[str, list[Table]]:
    """Build the tables of the report by its sections, in order; those without rows are left out."""
    results = summary["results"]
    sections = {
        "Results": [build_results(results), build_published(results), build_asked(results)],
        "Counted in other ways": [build_subsets(results), build_sampled(results)],
        "Comparisons on the same questions": [build_comparisons(summary["comparisons"])],
        "By subject": build_parts(results, "by_group"),
        "By number of options": build_parts(results, "by_num_options"),
        "By tokens of the answer": [build_lengths(results)],
        "Lengths and what was read": [build_reasons(results)],
    }
    found: dict[str, list[Table]] = {}
    for title, tables in sections.items():
        if filled := [table for table in tables if len(table.frame)]:
            found[title] = filled
    return found


def render_text(summary: dict[str, Any], made: str) -> str:
    """Render the report in Markdown."""
    parts = [f"# Evaluation: {summary['name']}", made]
    parts += [f"> {claim['sentence']}" for claim in summary["claims"]]
    for title, tables in build_tables(summary).items():
        parts.append(f"## {title}")
        for table in tables:
            parts += [f"### {table.title}", render_markdown(table), table.note]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def render_page(
    summary: dict[str, Any], differing: dict[str, list[dict[str, Any]]], made: str
) -> str:
    """Render the page. differing: heading -> questions that only one of two systems got right."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # all that a model or a data set says is text
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(
        name=summary["name"],
        made=made,
        claims=summary["claims"],
        sections=build_tables(summary),
        plots=build_plots(summary),
        differing=differing,
        letters=LETTERS,
    )


def build_plots(summary: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Build the plots by section, each as its heading and SVG."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for benchmark, results in group_results(summary["results"]).items():
        found["Results"].append((benchmark, plots.plot_accuracy(results)))
        if pairs := [c for c in summary["comparisons"] if c["benchmark"] == benchmark]:
            heading = f"Same choice on {benchmark} (% of questions)"
            narrow = plots.plot_agreement(pairs).replace("<svg", '<svg class="narrow"', 1)
            found["Comparisons on the same questions"].append((heading, narrow))
        for key, label in (("by_group", "subject"), ("by_num_options", "number of options")):
            if any(len(result[key]) > 1 for result in results):
                drawn = plots.plot_parts(results, key, label)
                found[f"By {label}"].append((benchmark, drawn))
        for result in results:
            # a plot for each: the lengths of one system are not those of another
            if result["by_length"]:
                system = f"{result['model']}.{result['mode']}"
                drawn = plots.plot_parts([result], "by_length", system)
                found["By tokens of the answer"].append((benchmark, drawn))
    return found


def find_differing(
    summary: dict[str, Any], systems: Systems, questions: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Find for each pair and direction the first questions that only one got right."""
    differing: dict[str, list[dict[str, Any]]] = {}
    for c in summary["comparisons"]:
        for right, wrong in ((c["a"], c["b"]), (c["b"], c["a"])):
            first, second = (
                {sample["id"]: sample for sample in samples if sample["sample"] == 0}
                for samples in (systems[c["benchmark"]][name] for name in (right, wrong))
            )
            names = [n for n, s in first.items() if s["correct"] and not second[n]["correct"]]
            counted = f"{len(names[:EXAMPLES])} of {len(names):,}"
            differing[f"{c['benchmark']}: {right} right, {wrong} wrong ({counted})"] = [
                {"row": questions[n], "sides": [(right, first[n]), (wrong, second[n])]}
                for n in names[:EXAMPLES]
            ]
    return differing
