"""Tables of a summary as text in DataFrames; terminal, Markdown and HTML show the same ones."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from data_prep.command import show_text
from eval.modes import split_mode

PAPER: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
)
CLAIM = ("rlvr.think", "sft.direct")
"""The paper's two claims are about the first against the second."""

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


def name_prompt(prompt: Result) -> str:
    """Name a prompt template: by its file where the user gave one."""
    return str(prompt["file"] or prompt["name"])


def list_errors(result: Result, most: int = 3) -> list[str]:
    """List the most frequent reasons of a result's errors, each with its number."""
    reasons = list(result["error_reasons"].items())
    listed = [f"{n:,} × {reason}" for reason, n in reasons[:most]]
    return listed + ([f"{len(reasons) - most:,} other reasons"] if len(reasons) > most else [])


def list_faults(result: Result) -> list[str]:
    """List why answers were not right, each with its number."""
    reasons = result["reasons"].items()
    return [f"{n:,} {reason}" for reason, n in reasons if reason not in ("correct", "stated")]


COLUMNS: dict[str, Callable[[Result], str]] = {
    "model": lambda r: r["model"],
    "system": lambda r: f"{r['model']}.{r['mode']}",
    "benchmark": lambda r: r["benchmark"],
    "mode": lambda r: r["mode"],
    "labels": lambda r: str(r["settings"]["benchmark"]["state"] or "–"),
    "prompt": lambda r: name_prompt(r["settings"]["benchmark"]["prompt"]),
    "prompt SHA-256": lambda r: str(r["settings"]["benchmark"]["prompt"]["sha256"] or "–")[:12],
    "questions SHA-256": lambda r: r["settings"]["benchmark"]["sha256"][:12],
    "seed": lambda r: str(r["settings"]["seed"]),
    "n": lambda r: f"{r['n']:,}",
    "strict": lambda r: format_value(r["accuracy"]),
    "95 % CI": lambda r: format_interval(r["accuracy"]),
    "lenient": lambda r: format_value(r["accuracy_lenient"]),
    "published rules": lambda r: format_value(r["accuracy_published"]),
    "format": lambda r: format_percent(r["format_rate"]),
    "given format": lambda r: format_value(r["accuracy_given_format"]),
    "cut": lambda r: format_percent(r["truncated_rate"]),
    "errors": lambda r: f"{r['errors']:,}",
    "failed requests": lambda r: "; ".join(list_errors(r)) or "–",
    "chance": lambda r: format_percent(r["chance"]),
    "different n": lambda r: f"{r['accuracy_unique']['n']:,}",
    "once each": lambda r: format_value(r["accuracy_unique"]),
    "clean n": lambda r: f"{r['accuracy_clean']['n']:,}" if r["accuracy_clean"] else "0",
    "clean": lambda r: format_value(r["accuracy_clean"]),
    "clean 95 % CI": lambda r: format_interval(r["accuracy_clean"]),
    "why not correct": lambda r: ", ".join(list_faults(r)) or "–",
    "tokens: mean": lambda r: f"{r['tokens']['mean']:,.1f}",
    "median": lambda r: f"{r['tokens']['median']:,.0f}",
    "max": lambda r: f"{r['tokens']['max']:,}",
}
"""Heading -> cell of a result."""
OPEN_COLUMNS = {"as a choice": "choice", "openly": "open", "right both ways": "both"}
HEAD = ["model", "benchmark", "mode"]
SCORES = ["n", "strict", "95 % CI", "lenient", "format", "given format"]


def select(results: list[Result], headings: list[str]) -> pd.DataFrame:
    """Select columns: one row for each result."""
    rows = [[COLUMNS[heading](result) for heading in headings] for result in results]
    return pd.DataFrame(rows, columns=headings, dtype=object)


def build_results(results: list[Result]) -> Table:
    """Build the main table."""
    headings = [*HEAD, *SCORES, "published rules", "cut", "errors"]
    note = (
        "Strict: the trained format, or the whole answer, states one choice. Lenient: the last "
        "choice clearly stated. Given format: strict, of answers that follow the format. Unread "
        "answers and errors count as wrong; nothing is guessed."
    )
    if any(result["accuracy_published"] for result in results):
        note += " Published rules: how the benchmark's own script reads mode cot."
    else:
        headings.remove("published rules")
    return Table("Accuracy (%)", select(results, headings), 3, note)


def build_asked(results: list[Result]) -> Table:
    """Build the table of what was asked: state of the labels, prompt template, questions' hash."""
    headings = ["benchmark", "labels", "prompt", "prompt SHA-256", "questions SHA-256"]
    frame = select(results, headings).drop_duplicates()
    several = len(frame[["prompt", "prompt SHA-256"]].drop_duplicates()) > 1
    note = "The prompt templates differ: do not compare scores between these benchmarks."
    return Table("What was asked", frame, 5, note if several else "")


def build_scores(results: list[Result], **facts: str) -> Table:
    """Build the rows for a README or a card: each number with all that it depends on.

    facts: columns that are the same in every row, such as the commit.
    """
    head = [*HEAD, "labels", "prompt"]
    frame = select(results, [*head, *SCORES, "chance", "failed requests", "seed"])
    rates = ("strict", "lenient", "format", "given format", "chance")
    frame = frame.rename(columns={name: f"{name} (%)" for name in rates})
    return Table("Scores", frame.assign(**facts), len(head))


def build_subsets(results: list[Result]) -> Table:
    """Build the table of other counts: each question once, without overlap with training rows."""
    title = "Strict accuracy (%), repeated questions once, and without overlap with training rows"
    other = ["chance", "strict", "different n", "once each", "clean n", "clean", "clean 95 % CI"]
    return Table(title, select(results, HEAD + other), 3)


def build_reasons(results: list[Result]) -> Table:
    """Build the table of why answers were not right or failed, and how long they are."""
    headings = [*HEAD, "why not correct", "failed requests", "tokens: mean", "median", "max"]
    return Table("What was read, and tokens of an answer", select(results, headings), 5)


def build_sampled(results: list[Result]) -> Table:
    """Build the table of results with several answers to each question."""
    rows = []
    for result in results:
        if not (sampled := result["sampled"]):  # one answer to each question
            continue
        row, k = describe_head(result), sampled["k"]
        row[f"avg@{k}"] = format_percent(sampled[f"avg@{k}"])
        row |= {f"pass@{n}": format_measured(found) for n, found in sampled["pass"].items()}
        row["guessing, same k"] = format_percent(sampled["pass"][str(k)]["chance"])
        row[f"maj@{k}"] = format_percent(sampled[f"maj@{k}"])
        row["calibration error"] = format_percent(sampled["calibration"]["error"])
        row["sd"] = format_percent(sampled["standard_deviation"])
        rows.append(row)
    note = (
        "In brackets: 95 % interval over questions. Guessing: pass@k of uniform guesses for the "
        "largest k. Calibration error: how far the winner's fraction of the votes is from how "
        "often it is right."
    )
    return Table("Several answers to each question (%)", build_frame(rows), 3, note)


def build_letters(results: list[Result]) -> Table:
    """Build the table of where rotated questions were answered: each letter, flips."""
    rows = []
    for result in results:
        if not result["flips"]:
            continue
        row = describe_head(result) | {"flips": format_measured(result["flips"])}
        for letter, count in sorted(result["letters"].items()):
            row[letter] = format_percent(count / result["n"])
        rows.append(row)
    return Table(
        "Questions in every rotation of their options (%)",
        build_frame(rows),
        3,
        "Flips: questions to which not always the same option was chosen. Letters: how often each "
        "was chosen; each is right equally often.",
    )


def build_comparisons(comparisons: list[Result]) -> Table:
    """Build the table of every pair on every benchmark."""
    rows = []
    for c in comparisons:
        value, low, high = (format_points(c["difference"][key]) for key in ("value", "low", "high"))
        rows.append(
            {
                "a": c["a"],
                "b": c["b"],
                "benchmark": c["benchmark"],
                "test": c["test"],
                "n": f"{c['n']:,}",
                "a − b": value,
                "95 % CI": f"{low} to {high}",
                # None where answers are sampled: then a question is not simply right or wrong
                "only a": "–" if c["only_a"] is None else f"{c['only_a']:,}",
                "only b": "–" if c["only_b"] is None else f"{c['only_b']:,}",
                "p": format_p(c["p"])[2:].lstrip("= "),
                "p (Holm)": format_p(c["p_holm"])[2:].lstrip("= "),
                "same choice": format_percent(c["same_choice"]),
            }
        )
    note = (
        "Intervals: paired bootstrap of clusters (questions that repeat stay together). p: exact "
        "McNemar, or sign flips of clusters where questions repeat or are sampled; Holm over "
        "benchmarks."
    )
    return Table("Differences in points, on the same questions", build_frame(rows), 4, note)


def build_open(pairs: list[Result]) -> Table:
    """Build the table of the same questions asked as a choice and openly."""
    rows = []
    for pair in pairs:
        rates = {name: format_percent(pair[key]) for name, key in OPEN_COLUMNS.items()}
        row = {"system": pair["system"], "benchmark": pair["benchmark"], "n": f"{pair['n']:,}"}
        rows.append(row | rates | {"open − choice": format_points(pair["open"] - pair["choice"])})
    note = "Only questions that are in both. Right both ways: as a choice and openly."
    return Table(
        "Strict accuracy (%), the same questions asked both ways", build_frame(rows), 2, note
    )


def build_parts(results: list[Result], key: str) -> list[Table]:
    """Build a table for each benchmark with more than one part (`by_group`, …)."""
    tables = []
    for benchmark, group in group_results(results).items():
        rows: dict[str, dict[str, str]] = {}
        for result in group:
            for part, found in result[key].items():
                facts = {"n": f"{found['n']:,}", "chance": format_percent(found["chance"])}
                row = rows.setdefault(part, {"part": part} | facts)
                row[COLUMNS["system"](result)] = format_measured(found)
        if len(rows) > 1:
            tables.append(Table(benchmark, build_frame(list(rows.values())), 1))
    return tables


def build_lengths(results: list[Result]) -> Table:
    """Build the table of accuracy by the tokens of the answer; quarters are each system's own."""
    rows = []
    for result in results:
        for tokens, part in result["by_length"].items():
            score = {"strict": format_value(part), "95 % CI": format_interval(part)}
            rows.append(describe_head(result) | {"tokens": tokens, "n": f"{part['n']:,}"} | score)
    return Table("Accuracy (%) by tokens of the answer", build_frame(rows), 3)


def build_published(results: list[Result]) -> Table:
    """Build the table of the paper's numbers next to ours, with SDs by the same estimator.

    Only benchmarks that the paper has, also with labels of a later state; ours may be missing.
    """
    rows, prompts, support = [], set(), []
    for benchmark, group in group_results(results).items():
        paper = PAPER["benchmarks"].get(benchmark.replace("_2026/", "/"))  # later labels
        if paper is None:
            continue
        support.append(describe_support(paper))
        ours = {f"{result['model']}.{split_mode(result['mode'])[0]}": result for result in group}
        for system in [key for key, theirs in paper.items() if isinstance(theirs, dict)]:
            theirs = f"{paper[system]['accuracy']:.1f} ± {paper[system]['sd']:.2f}"
            row = {"benchmark": benchmark, "system": system, "paper n": f"{paper['n']:,}"}
            row |= {"paper": theirs, "our n": "–", "ours": "–"}
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


def describe_support(paper: Result) -> str:
    """Say in a sentence what the paper's own n supports on a benchmark."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    n = paper["n"]
    a, b = (paper[system]["right"] for system in CLAIM)
    low, high = confint_proportions_2indep(a, n, b, n, compare="diff", method="wald")
    return (
        f"{paper['title']}: {CLAIM[0]} − {CLAIM[1]} is {format_points((a - b) / n)} points (95 % "
        f"CI {format_points(low)} to {format_points(high)}, unpaired, n = {n:,}): "
        f"{'above 0' if low > 0 else 'not shown to differ from 0'}, and as little as "
        f"{format_points(low)} is possible."
    )


def describe_head(result: Result) -> dict[str, str]:
    """Describe which result a row is about."""
    return {heading: result[heading] for heading in HEAD}


def build_frame(rows: list[dict[str, str]]) -> pd.DataFrame:
    """Build a table's frame; a cell that a row does not have is `–`."""
    return pd.DataFrame(rows, dtype=object).fillna("–")


def group_results(results: list[Result]) -> dict[str, list[Result]]:
    """Group results by benchmark."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["benchmark"], []).append(result)
    return groups


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
