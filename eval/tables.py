"""The tables of a summary as plain text cells; terminal, Markdown and HTML show the same ones."""

from typing import Any, NamedTuple


class Cells(NamedTuple):
    """A table. left: that many columns are text, the others numbers."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    left: int


def list_results(summary: dict[str, Any]) -> Cells:
    """One row for each model, benchmark and mode."""
    headings = [
        "model",
        "benchmark",
        "mode",
        "n",
        "strict",
        "95 % CI",
        "lenient",
        "format",
        "cut",
        "errors",
    ]
    rows = [
        [
            *(result["model"], result["benchmark"], result["mode"], f"{result['n']:,}"),
            percent(result["accuracy"]["value"]),
            interval(result["accuracy"]),
            percent(result["accuracy_lenient"]["value"]),
            percent(result["format_rate"]),
            percent(result["truncated_rate"]),
            f"{result['errors']:,}",
        ]
        for result in summary["results"]
    ]
    return Cells("Accuracy (%)", headings, rows, 3)


def list_subsets(summary: dict[str, Any]) -> Cells:
    """The same questions counted in other ways: each different one once, without training overlap; and lengths."""
    headings = [
        "model",
        "benchmark",
        "mode",
        "chance",
        "all",
        "different n",
        "once each",
        "clean n",
        "clean",
        "95 % CI",
    ]
    rows = []
    for result in summary["results"]:
        unique, clean = result["accuracy_unique"], result["accuracy_clean"]
        rows.append(
            [
                *(result["model"], result["benchmark"], result["mode"], percent(result["chance"])),
                percent(result["accuracy"]["value"]),
                f"{unique['n']:,}",
                percent(unique["value"]),
                f"{clean['n']:,}" if clean else "0",
                percent(clean["value"]) if clean else "–",
                interval(clean) if clean else "–",
            ]
        )
    return Cells(
        "Strict accuracy (%) with repeated questions once, and without overlap with training rows",
        headings,
        rows,
        3,
    )


def list_lengths(summary: dict[str, Any]) -> Cells:
    """Tokens per answer, and why answers were not read."""
    headings = ["model", "benchmark", "mode", "why not correct", "tokens: mean", "median", "max"]
    rows = []
    for result in summary["results"]:
        reasons = [
            f"{n:,} {reason}"
            for reason, n in result["reasons"].items()
            if reason not in ("correct", "stated")
        ]
        tokens = result["tokens"]
        lengths = [f"{tokens['mean']:,.1f}", f"{tokens['median']:,.0f}", f"{tokens['max']:,}"]
        rows.append(
            [
                result["model"],
                result["benchmark"],
                result["mode"],
                ", ".join(reasons) or "–",
                *lengths,
            ]
        )
    return Cells("What was read, and tokens of an answer", headings, rows, 4)


def list_sampled(summary: dict[str, Any]) -> Cells:
    """avg@k, pass@k and maj@k of results with several answers to each question."""
    results = [result for result in summary["results"] if result["sampled"]]
    scores = list(
        dict.fromkeys(key for result in results for key in result["sampled"] if "@" in key)
    )
    rows = [
        [result["model"], result["benchmark"], result["mode"]]
        + [percent(result["sampled"][key]) if key in result["sampled"] else "–" for key in scores]
        + [percent(result["sampled"]["standard_deviation"])]
        for result in results
    ]
    return Cells(
        "Several answers to each question (%)",
        ["model", "benchmark", "mode", *scores, "sd"],
        rows,
        3,
    )


def list_comparisons(summary: dict[str, Any]) -> Cells:
    """Every pair on every benchmark."""
    headings = [
        "a",
        "b",
        "benchmark",
        "test",
        "n",
        "a − b",
        "95 % CI",
        "only a",
        "only b",
        "p",
        "p (Holm)",
        "same choice",
    ]
    rows = []
    for c in summary["comparisons"]:
        counts = ["–" if c[key] is None else f"{c[key]:,}" for key in ("only_a", "only_b")]
        difference = c["difference"]
        rows.append(
            [
                *(
                    c["a"],
                    c["b"],
                    c["benchmark"],
                    c["test"],
                    f"{c['n']:,}",
                    points(difference["value"]),
                ),
                f"{points(difference['low'])} to {points(difference['high'])}",
                *counts,
                *(
                    format_p(c["p"])[2:].lstrip("= "),
                    format_p(c["p_holm"])[2:].lstrip("= "),
                    percent(c["same_choice"]),
                ),
            ]
        )
    return Cells("Differences in points, on the same questions", headings, rows, 4)


def list_parts(summary: dict[str, Any], key: str, title: str) -> list[Cells]:
    """One table for each benchmark that has more than one part (`by_group`, `by_num_options`)."""
    tables = []
    for benchmark in dict.fromkeys(result["benchmark"] for result in summary["results"]):
        results = [
            result
            for result in summary["results"]
            if result["benchmark"] == benchmark and result[key]
        ]
        parts = list(dict.fromkeys(part for result in results for part in result[key]))
        if len(parts) < 2:
            continue
        first = {part: next(r[key][part] for r in results if part in r[key]) for part in parts}
        rows = [
            [part, f"{first[part]['n']:,}", percent(first[part]["chance"])]
            + [
                f"{percent(r[key][part]['value'])} ({interval(r[key][part])})"
                if part in r[key]
                else "–"
                for r in results
            ]
            for part in parts
        ]
        systems = [f"{result['model']}.{result['mode']}" for result in results]
        tables.append(Cells(f"{title}: {benchmark}", ["", "n", "chance", *systems], rows, 1))
    return tables


def list_length_parts(summary: dict[str, Any]) -> Cells:
    """Accuracy by the tokens of the answer; the quarters are each system's own."""
    headings = ["model", "benchmark", "mode", "tokens", "n", "strict", "95 % CI"]
    rows = [
        [
            result["model"],
            result["benchmark"],
            result["mode"],
            tokens,
            f"{part['n']:,}",
            percent(part["value"]),
            interval(part),
        ]
        for result in summary["results"]
        for tokens, part in result["by_length"].items()
    ]
    return Cells("Accuracy (%) by tokens of the answer", headings, rows, 3)


def list_readme_rows(summary: dict[str, Any], commit: str | None, date: str) -> Cells:
    """The rows of README's results table: n, interval, seed, commit and date beside each number."""
    headings = [
        "model",
        "mode",
        "benchmark",
        "n",
        "strict accuracy (95 % CI)",
        "lenient",
        "format",
        "seed",
        "commit",
        "date",
    ]
    rows = [
        [
            *(result["model"], result["mode"], result["benchmark"], f"{result['n']:,}"),
            f"{percent(result['accuracy']['value'])} % ({interval(result['accuracy'])})",
            f"{percent(result['accuracy_lenient']['value'])} %",
            f"{percent(result['format_rate'])} %",
            *(str(result["settings"]["seed"]), commit or "–", date),
        ]
        for result in summary["results"]
    ]
    return Cells("Results", headings, rows, 3)


def render_markdown(cells: Cells) -> str:
    """The table in Markdown, without its title."""
    marks = ["---" if index < cells.left else "---:" for index in range(len(cells.headings))]
    lines = [
        cells.headings,
        marks,
        *([cell.replace("|", "\\|") for cell in row] for row in cells.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def percent(value: float) -> str:
    """`27.2`."""
    return f"{100 * value:.1f}"


def interval(measured: dict[str, Any]) -> str:
    """`24.8–29.7`."""
    return f"{percent(measured['low'])}–{percent(measured['high'])}"


def format_p(p: float) -> str:
    """`p = 0.034`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def points(value: float) -> str:
    """Points with their sign: `+8.0`, `−0.4`, `0.0`."""
    rounded = round(100 * value, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"
