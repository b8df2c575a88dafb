"""Tables of a summary as text cells in DataFrames; terminal, Markdown and HTML show the same ones."""

import re
from typing import Any, NamedTuple

import pandas as pd

Row = dict[str, str]


class Table(NamedTuple):
    """A table. left: so many columns are text, the others numbers. note: what a reader must know."""

    title: str
    frame: pd.DataFrame
    left: int
    note: str = ""


def name_result(result: dict[str, Any]) -> Row:
    """Begin a row with what a result is of."""
    return {key: str(result[key]) for key in ("model", "benchmark", "mode")}


def build_results(summary: dict[str, Any]) -> Table:
    """Build the main table: one row for each model, benchmark and mode."""
    published = any(result.get("accuracy_published") for result in summary["results"])
    rows = []
    for result in summary["results"]:
        row = name_result(result) | {
            "n": f"{result['n']:,}",
            "strict": format_percent(result["accuracy"]["value"]),
            "95 % CI": format_interval(result["accuracy"]),
            "lenient": format_percent(result["accuracy_lenient"]["value"]),
            "format": format_percent(result["format_rate"]),
            "given format": format_value(result["accuracy_given_format"]),
            "cut": format_percent(result["truncated_rate"]),
            "errors": f"{result['errors']:,}",
        }
        if published:
            row["published rules"] = format_value(result["accuracy_published"])
        rows.append(row)
    return Table(
        "Accuracy (%)",
        pd.DataFrame(rows),
        3,
        "Strict: the trained format, or the whole answer, states one choice. Lenient: the last choice "
        "clearly stated. Given format: strict, of the answers that follow the format. Unread answers "
        "and errors count as wrong; nothing is guessed."
        + (" Published rules: how the benchmark's own script reads mode cot." if published else ""),
    )


def build_asked(summary: dict[str, Any]) -> Table:
    """Build the table of what was asked: state of the labels, prompt template, questions' hash."""
    rows: list[Row] = []
    for result in summary["results"]:
        asked = result["settings"]["benchmark"]
        row = {
            "benchmark": result["benchmark"],
            "labels": str(asked["state"] or "–"),
            "prompt template": name_prompt(asked["prompt"]),
            "SHA-256 of its think prompt": str(asked["prompt"]["sha256"] or "–")[:12],
            "SHA-256 of the questions": asked["sha256"][:12],
        }
        rows += [row] if row not in rows else []
    several = len({row["prompt template"] + row["SHA-256 of its think prompt"] for row in rows}) > 1
    note = "The prompt templates differ: do not compare scores between these benchmarks."
    return Table("What was asked", pd.DataFrame(rows), 5, note if several else "")


def name_prompt(prompt: dict[str, Any]) -> str:
    """Name a prompt template: by its file where the user gave one."""
    return str(prompt["file"] or prompt["name"])


def build_subsets(summary: dict[str, Any]) -> Table:
    """Build the table of other counts: each question once, without overlap with training rows."""
    rows = []
    for result in summary["results"]:
        unique, clean = result["accuracy_unique"], result["accuracy_clean"]
        rows.append(
            name_result(result)
            | {
                "chance": format_percent(result["chance"]),
                "all": format_percent(result["accuracy"]["value"]),
                "different n": f"{unique['n']:,}",
                "once each": format_percent(unique["value"]),
                "clean n": f"{clean['n']:,}" if clean else "0",
                "clean": format_value(clean),
                "95 % CI": format_interval(clean) if clean else "–",
            }
        )
    title = (
        "Strict accuracy (%) with repeated questions once, and without overlap with training rows"
    )
    return Table(title, pd.DataFrame(rows), 3)


def build_sampled(summary: dict[str, Any]) -> Table:
    """Build the table of results with several answers to each question."""
    rows = []
    for result in summary["results"]:
        if not (sampled := result["sampled"]):
            continue
        row = name_result(result)
        k = sampled["k"]
        row[f"avg@{k}"] = format_percent(sampled[f"avg@{k}"])
        for size, found in sampled["pass"].items():
            row[f"pass@{size}"] = f"{format_percent(found['value'])} ({format_interval(found)})"
        last = sampled["pass"][str(k)]
        row["guessing, same k"] = format_percent(last["chance"])
        row[f"maj@{k}"] = format_percent(sampled[f"maj@{k}"])
        row["calibration error"] = format_percent(sampled["calibration"]["error"])
        row["sd"] = format_percent(sampled["standard_deviation"])
        rows.append(row)
    return Table(
        "Several answers to each question (%)",
        pd.DataFrame(rows).fillna("–"),
        3,
        "In brackets: 95 % interval over questions. Guessing: pass@k of uniform guesses for the "
        "largest k. Calibration error: distance of the vote's share from how often it is right.",
    )


def build_comparisons(summary: dict[str, Any]) -> Table:
    """Build the table of every pair on every benchmark."""
    rows = []
    for c in summary["comparisons"]:
        difference = c["difference"]
        rows.append(
            {
                "a": c["a"],
                "b": c["b"],
                "benchmark": c["benchmark"],
                "test": c["test"],
                "n": f"{c['n']:,}",
                "a − b": format_points(difference["value"]),
                "95 % CI": f"{format_points(difference['low'])} to {format_points(difference['high'])}",
                "only a": "–" if c["only_a"] is None else f"{c['only_a']:,}",
                "only b": "–" if c["only_b"] is None else f"{c['only_b']:,}",
                "p": format_p(c["p"])[2:].lstrip("= "),
                "p (Holm)": format_p(c["p_holm"])[2:].lstrip("= "),
                "same choice": format_percent(c["same_choice"]),
            }
        )
    return Table(
        "Differences in points, on the same questions",
        pd.DataFrame(rows),
        4,
        "Intervals: paired bootstrap of clusters (questions that repeat stay together). p: exact "
        "McNemar, or sign flips of clusters where questions repeat or are sampled; Holm over "
        "benchmarks.",
    )


def build_parts(summary: dict[str, Any], key: str) -> list[Table]:
    """Build a table for each benchmark with more than one part (`by_group`, `by_num_options`)."""
    tables = []
    for benchmark, results in group_results(summary).items():
        rows: dict[str, Row] = {}
        for result in results:
            for part, found in result[key].items():
                head = {
                    "part": part,
                    "n": f"{found['n']:,}",
                    "chance": format_percent(found["chance"]),
                }
                row = rows.setdefault(part, head)
                cell = f"{format_percent(found['value'])} ({format_interval(found)})"
                row[f"{result['model']}.{result['mode']}"] = cell
        if len(rows) > 1:
            frame = pd.DataFrame(list(rows.values())).fillna("–")
            tables.append(Table(benchmark, frame, 1))
    return tables


def build_lengths(summary: dict[str, Any]) -> Table:
    """Build the table of accuracy by the tokens of the answer; quarters are each system's own."""
    rows = []
    for result in summary["results"]:
        for tokens, part in result["by_length"].items():
            cells = {
                "tokens": tokens,
                "n": f"{part['n']:,}",
                "strict": format_percent(part["value"]),
            }
            rows.append(name_result(result) | cells | {"95 % CI": format_interval(part)})
    return Table("Accuracy (%) by tokens of the answer", pd.DataFrame(rows), 3)


def build_reasons(summary: dict[str, Any]) -> Table:
    """Build the table of why answers were not right, why requests failed, and how long answers are."""
    rows = []
    for result in summary["results"]:
        reasons = [
            f"{n:,} {reason}"
            for reason, n in result["reasons"].items()
            if reason not in ("correct", "stated")
        ]
        tokens = result["tokens"]
        rows.append(
            name_result(result)
            | {
                "why not correct": ", ".join(reasons) or "–",
                "errors": "; ".join(list_errors(result)) or "–",
                "tokens: mean": f"{tokens['mean']:,.1f}",
                "median": f"{tokens['median']:,.0f}",
                "max": f"{tokens['max']:,}",
            }
        )
    return Table("What was read, and tokens of an answer", pd.DataFrame(rows), 5)


def list_errors(result: dict[str, Any], most: int = 3) -> list[str]:
    """List the most frequent reasons of a result's errors, each with its number."""
    reasons = list(result["error_reasons"].items())
    listed = [f"{n:,} × {reason}" for reason, n in reasons[:most]]
    return listed + ([f"{len(reasons) - most:,} other reasons"] if len(reasons) > most else [])


def build_scores(results: list[dict[str, Any]], **facts: str) -> Table:
    """Build the rows for a README or a card: each number with all that it depends on.

    facts: columns that are the same in every row, such as the commit.
    """
    rows = []
    for result in results:
        asked, accuracy = result["settings"]["benchmark"], result["accuracy"]
        rows.append(
            {
                "model": result["model"],
                "mode": result["mode"],
                "benchmark": result["benchmark"],
                "labels": str(asked["state"] or "–"),
                "prompt": name_prompt(asked["prompt"]),
                "n": f"{result['n']:,}",
                "strict accuracy (95 % CI)": f"{format_percent(accuracy['value'])} % "
                f"({format_interval(accuracy)})",
                "lenient": f"{format_percent(result['accuracy_lenient']['value'])} %",
                "format": f"{format_percent(result['format_rate'])} %",
                "given format": format_value(result["accuracy_given_format"]),
                "errors": "; ".join(list_errors(result)) or "0",
                "chance": f"{format_percent(result['chance'])} %",
                "seed": str(result["settings"]["seed"]),
                **facts,
            }
        )
    return Table("Scores", pd.DataFrame(rows), 5)


def group_results(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group results by benchmark."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in summary["results"]:
        groups.setdefault(result["benchmark"], []).append(result)
    return groups


def render_markdown(table: Table) -> str:
    """Render a table in Markdown, without its title; a cell cannot leave its place, nor be HTML."""
    marks = ["---" if index < table.left else "---:" for index in range(table.frame.shape[1])]
    rows = [list(table.frame.columns), marks, *table.frame.to_numpy().tolist()]
    text = ""
    for row in rows:
        cells = [re.sub("<(?=[A-Za-z/!?])", "&lt;", " ".join(cell.split())) for cell in row]
        text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


def format_percent(value: float) -> str:
    """Format a rate: `27.2`."""
    return f"{100 * value:.1f}"


def format_value(measured: dict[str, Any] | None) -> str:
    """Format a measured rate, `–` where there is none."""
    return format_percent(measured["value"]) if measured else "–"


def format_interval(measured: dict[str, Any]) -> str:
    """Format an interval: `24.8–29.7`."""
    return f"{format_percent(measured['low'])}–{format_percent(measured['high'])}"


def format_p(p: float) -> str:
    """Format a p-value: `p = 0.034`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_points(value: float) -> str:
    """Format points with their sign: `+8.0`, `−0.4`, `0.0`."""
    number = round(100 * value, 1)
    return f"{number:+.1f}".replace("-", "−") if number else "0.0"
