"""Write what people read: report.html (one page that loads nothing), report.md and table.md."""

from collections import defaultdict
from pathlib import Path

from data_prep.files import write_text
from data_prep.prompt import LETTERS
from eval.compare import Systems
from eval.plots import plot_accuracy, plot_parts
from eval.tables import (
    TEMPLATES,
    Result,
    build_scores,
    build_tables,
    escape_markdown,
    group_results,
    name_system,
    render_markdown,
)

EXAMPLES = 10
"""Questions shown of each pair in each direction."""


def write_report(
    folder: Path, call: Result, summary: Result, systems: Systems, questions: dict[str, Result]
) -> None:
    """Write the three files. call: the last of run.json. questions: row of each id."""
    date, commit = call["started"][:10], call["commit"]
    versions = ", ".join(f"{name} {version}" for name, version in call["versions"].items())
    made = f"{date}, commit {commit or 'unknown'}, Python {call['python']}, {versions}"
    rows = build_scores(summary["results"], commit=commit or "–", date=date)
    write_text(folder / "table.md", render_markdown(rows))
    write_text(folder / "report.md", render_text(summary, made))
    differing = find_differing(summary, systems, questions)
    write_text(folder / "report.html", render_page(summary, differing, made))


def render_text(summary: Result, made: str) -> str:
    """Render the report in Markdown."""
    parts = [f"# Evaluation: {summary['name']}", made]
    parts += [f"> {escape_markdown(claim['sentence'])}" for claim in summary["claims"]]
    for title, tables in build_tables(summary).items():
        parts.append(f"## {title}")
        for table in tables:
            title, note = escape_markdown(table.title), escape_markdown(table.note)
            parts += [f"### {title}", render_markdown(table), note]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def render_page(summary: Result, differing: dict[str, list[Result]], made: str) -> str:
    """Render the page. differing: heading -> questions that only one of two systems got right."""
    # autoescape: all that a model or a data set says is text
    template = TEMPLATES.overlay(autoescape=True).get_template("evaluation.html.j2")
    return template.render(
        name=summary["name"],
        made=made,
        claims=summary["claims"],
        sections=build_tables(summary),
        plots=draw_plots(summary["results"]),
        differing=differing,
        letters=LETTERS,
    )


def draw_plots(results: list[Result]) -> dict[str, list[tuple[str, str]]]:
    """Draw the plots of each section, each a heading and its SVG."""
    found = defaultdict(list)
    for benchmark, group in group_results(results).items():
        found["Results"].append((benchmark, plot_accuracy(group)))
        for key, label in (("by_group", "subject"), ("by_num_options", "number of options")):
            if any(len(result[key]) > 1 for result in group):
                found[f"By {label}"].append((benchmark, plot_parts(group, key, label)))
        # a plot for each: the lengths of one system are not those of another
        for result in [result for result in group if result["by_length"]]:
            drawn = plot_parts([result], "by_length", name_system(result))
            found["By tokens of the answer"].append((benchmark, drawn))
    return found


def find_differing(
    summary: Result, systems: Systems, questions: dict[str, Result]
) -> dict[str, list[Result]]:
    """Find for each pair and direction the first questions that only one got right."""
    differing = {}
    for c in summary["comparisons"]:
        for right, wrong in ((c["a"], c["b"]), (c["b"], c["a"])):
            first, second = (
                {sample["id"]: sample for sample in samples if sample["sample"] == 0}
                for samples in (systems[c["benchmark"]][name] for name in (right, wrong))
            )
            names = [n for n, s in first.items() if s["correct"] and not second[n]["correct"]]
            shown = names[:EXAMPLES]
            heading = f"{right} right, {wrong} wrong ({len(shown)} of {len(names):,})"
            differing[f"{c['benchmark']}: {heading}"] = [
                {"row": questions[n], "sides": [(right, first[n]), (wrong, second[n])]}
                for n in shown
            ]
    return differing
