"""Tables of a summary as text in DataFrames; terminal, Markdown and HTML show the same ones.

Their titles, columns, cells and notes are in tables.yaml.
"""

import re
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from data_prep.command import show_text
from data_prep.files import read_mapping
from eval.modes import split_mode

HERE = Path(__file__).parent
TABLES = read_mapping(HERE / "tables.yaml")
PAPER = read_mapping(HERE / "published.yaml")

Result = dict[str, Any]


class Table(NamedTuple):
    """A table. left: that many columns are text, the others numbers. note: to be read with it."""

    title: str
    frame: pd.DataFrame
    left: int
    note: str = ""


def format_percent(value: float) -> str:
    """Format a rate: `27.2`."""
    return f"{100 * value:.1f}"


def format_value(measured: Result | None) -> str:
    """Format a measured rate, `–` where there is none."""
    return format_percent(measured["value"]) if measured else "–"


def format_interval(measured: Result | None) -> str:
    """Format an interval: `24.8–29.7`."""
    return "–".join(format_percent(measured[end]) for end in ("low", "high")) if measured else "–"


def format_measured(measured: Result) -> str:
    """Format a measured rate with its interval: `27.2 (24.8–29.7)`."""
    return f"{format_value(measured)} ({format_interval(measured)})"


def format_p(p: float) -> str:
    """Format a p-value: `p = 0.034`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_points(value: float) -> str:
    """Format points with their sign: `+8.0`, `−0.4`, `0.0`."""
    number = round(100 * value, 1)
    return f"{number:+.1f}".replace("-", "−") if number else "0.0"


def list_errors(reasons: dict[str, int]) -> list[str]:
    """List the three most frequent reasons of errors, each with its number."""
    listed = [f"{n:,} × {reason}" for reason, n in reasons.items()]
    return listed[:3] + ([f"{len(listed) - 3:,} other reasons"] if len(listed) > 3 else [])


def list_faults(reasons: dict[str, int]) -> list[str]:
    """List why answers were not right, each with its number."""
    return [f"{n:,} {why}" for why, n in reasons.items() if why not in ("correct", "stated")]


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
"""For cells, the page and the card."""
TEMPLATES.filters |= {
    "count": "{:,}".format,
    "errors": list_errors,
    "faults": list_faults,
    "interval": format_interval,
    "p_value": lambda p: format_p(p)[2:].lstrip("= "),
    "percent": format_percent,
    "points": format_points,
    "value": format_value,
}
compile_cell = cache(partial(TEMPLATES.compile_expression, undefined_to_none=False))
HEAD = ["model", "benchmark", "mode"]


def build_tables(summary: Result) -> dict[str, list[Table]]:
    """Build the tables of the report by its sections, in order; those without rows are left out."""
    results = summary["results"]
    lengths = [
        result | {"quarter": quarter, "part": part}
        for result in results
        for quarter, part in result["by_length"].items()
    ]
    sections = {
        "Results": [build_results(results), build_published(results), build_asked(results)],
        "Counted in other ways": [
            select("subsets", results),
            build_sampled(results),
            build_letters(results),
        ],
        "Comparisons on the same questions": [select("comparisons", summary["comparisons"])],
        "Choice and open answer": [select("open", summary.get("open", []))],
        "By subject": build_parts(results, "by_group"),
        "By number of options": build_parts(results, "by_num_options"),
        "By tokens of the answer": [select("lengths", lengths)],
        "Lengths and what was read": [select("reasons", results)],
    }
    filled = {title: [one for one in sections[title] if len(one.frame)] for title in sections}
    return {title: tables for title, tables in filled.items() if tables}


def make_table(name: str, rows: list[dict[str, str]]) -> Table:
    """Make a table of tables.yaml; a cell that a row does not have is `–`."""
    known, frame = TABLES[name], pd.DataFrame(rows, dtype=object).fillna("–")
    return Table(known["title"], frame, known["left"], known.get("note", ""))


def select(name: str, rows: list[Result]) -> Table:
    """Make a table of tables.yaml from its columns, with a row for each of `rows`."""
    known = TABLES["cells"] | TABLES[name].get("cells", {})
    cells = {heading: compile_cell(known[heading]) for heading in TABLES[name]["columns"]}
    filled = [{heading: str(cell(row)) for heading, cell in cells.items()} for row in rows]
    return make_table(name, filled)


def name_system(result: Result) -> str:
    """Name the system of a result."""
    return f"{result['model']}.{result['mode']}"


def build_results(results: list[Result]) -> Table:
    """Build the main table, with published rules where a benchmark has them."""
    table = select("results", results)
    if any(result["accuracy_published"] for result in results):
        return table._replace(note=f"{table.note} {TABLES['results']['published']}")
    return table._replace(frame=table.frame.drop(columns="published rules"))


def build_asked(results: list[Result]) -> Table:
    """Build the table of what was asked: state of the labels, prompt template, questions' hash."""
    table = select("asked", results)
    frame = table.frame.drop_duplicates()
    several = len(frame[["prompt", "prompt SHA-256"]].drop_duplicates()) > 1
    return table._replace(frame=frame, note=table.note if several else "")


def build_scores(results: list[Result], **facts: str) -> Table:
    """Build the rows for a README or a card. facts: further columns, the same in every row."""
    table = select("scores", results)
    return table._replace(frame=table.frame.assign(**facts))


def build_sampled(results: list[Result]) -> Table:
    """Build the table of results with several answers to each question."""
    rows = []
    for result in [result for result in results if result["sampled"]]:
        sampled, k = result["sampled"], result["sampled"]["k"]
        row = {key: result[key] for key in HEAD}
        row[f"avg@{k}"] = format_percent(sampled[f"avg@{k}"])
        row |= {f"pass@{n}": format_measured(found) for n, found in sampled["pass"].items()}
        row["guessing, same k"] = format_percent(sampled["pass"][str(k)]["chance"])
        row[f"maj@{k}"] = format_percent(sampled[f"maj@{k}"])
        row["calibration error"] = format_percent(sampled["calibration"]["error"])
        row["sd"] = format_percent(sampled["standard_deviation"])
        rows.append(row)
    return make_table("sampled", rows)


def build_letters(results: list[Result]) -> Table:
    """Build the table of where rotated questions were answered: each letter, flips."""
    rows = []
    for result in [result for result in results if result["flips"]]:
        row = {key: result[key] for key in HEAD}
        row["flips"] = format_measured(result["flips"])
        for letter, count in sorted(result["letters"].items()):
            row[letter] = format_percent(count / result["n"])
        rows.append(row)
    return make_table("letters", rows)


def build_parts(results: list[Result], key: str) -> list[Table]:
    """Build a table for each benchmark with more than one part (`by_group`, …)."""
    tables = []
    for benchmark, group in group_results(results).items():
        rows: dict[str, dict[str, str]] = {}
        for result in group:
            for part, found in result[key].items():
                facts = {"n": f"{found['n']:,}", "chance": format_percent(found["chance"])}
                row = rows.setdefault(part, {"part": part} | facts)
                row[name_system(result)] = format_measured(found)
        if len(rows) > 1:
            frame = pd.DataFrame(list(rows.values()), dtype=object).fillna("–")
            tables.append(Table(benchmark, frame, 1))
    return tables


def build_published(results: list[Result]) -> Table:
    """Build the table of the paper's numbers next to ours, with SDs by the same estimator.

    Only benchmarks that the paper has, also with labels of a later state; ours may be missing.
    """
    rows, support = [], []
    for benchmark, group in group_results(results).items():
        paper = PAPER["benchmarks"].get(benchmark.replace("_2026/", "/"))  # later labels
        if paper is None:
            continue
        support.append(paper["supports"])
        ours = {f"{result['model']}.{split_mode(result['mode'])[0]}": result for result in group}
        for system in [key for key, theirs in paper.items() if isinstance(theirs, dict)]:
            row = {"benchmark": benchmark, "system": system, "n": paper["n"]}
            rows.append(row | {"paper": paper[system], "ours": ours.get(system)})
    table, find_prompt = select("published", rows), compile_cell(TABLES["cells"]["prompt"])
    notes = [table.note]
    if other := {str(find_prompt(row["ours"])) for row in rows if row["ours"]} - {"paper"}:
        notes.append(f"Ours were asked with another prompt template ({', '.join(sorted(other))}).")
    title = table.title.format(source=PAPER["source"])
    return table._replace(title=title, note=" ".join([*notes, *support]))


def group_results(results: list[Result]) -> dict[str, list[Result]]:
    """Group results by benchmark."""
    names = dict.fromkeys(result["benchmark"] for result in results)
    return {name: [one for one in results if one["benchmark"] == name] for name in names}


def escape_markdown(text: object) -> str:
    """Write text of others as text: no HTML, link, picture, line break or end of a table's cell."""
    line = re.sub(r"([\\`\[\]|])", r"\\\1", " ".join(show_text(text).split()))
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", line)


def render_markdown(table: Table) -> str:
    """Render a table in Markdown, without its title."""
    marks = ["---" if index < table.left else "---:" for index in range(table.frame.shape[1])]
    text = ""
    for row in [list(table.frame.columns), marks, *table.frame.to_numpy().tolist()]:
        text += "| " + " | ".join(map(escape_markdown, row)) + " |\n"
    return text
