"""The report as one HTML page that asks for nothing: styles and plots are inside, scripts there are none."""

from collections.abc import Iterable
from html import escape
from typing import Any

from eval import plots
from eval.tables import (
    Cells,
    list_comparisons,
    list_length_parts,
    list_lengths,
    list_parts,
    list_results,
    list_sampled,
    list_subsets,
)

STYLE = """
:root { color-scheme: light dark;
  --ink: #1d2329; --soft: #5c6670; --line: #d9dee3; --paper: #fff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7eb; --soft: #9aa5b0; --line: #39424b; --paper: #14181c; --tint: #1e242a; } }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.3rem 0 .3rem; } p { max-width: 46rem; margin: .4rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; margin: .4rem 0 .8rem; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } .text { text-align: left; }
td.text { white-space: normal; }
blockquote { margin: .5rem 0; padding: .5rem .9rem; background: var(--tint); border-left: 4px solid #1b6ca8; }
blockquote.refuted { border-color: #d1495b; } blockquote.open, blockquote.smaller { border-color: #c77d1e; }
svg { max-width: 46rem; width: 100%; height: auto; display: block; }
svg.narrow { max-width: 34rem; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; } summary { cursor: pointer; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
pre { background: var(--tint); padding: .6rem; margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .8rem/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
@media (max-width: 44rem) { .pair { grid-template-columns: 1fr; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may load: nothing. Model output cannot change that either, all of it is escaped."""


def render_page(
    summary: dict[str, Any], differing: dict[str, list[dict[str, Any]]], made: str
) -> str:
    """The page. differing: heading -> questions that one system got right and the other wrong; made: by what, when."""
    name = escape(summary["name"])
    body = [f"<h1>Evaluation: {name}</h1>", f'<p class="soft">{escape(made)}</p>']
    body += [
        f'<blockquote class="{c["verdict"]}">{escape(c["sentence"])}</blockquote>'
        for c in summary["claims"]
    ]
    body += [*section_results(summary), *section_comparisons(summary), *section_parts(summary)]
    body += ["<h2>Lengths and what was read</h2>", render_table(list_lengths(summary))]
    body += section_differing(differing)
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>Evaluation: {name}</title><style>{STYLE}</style>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def section_results(summary: dict[str, Any]) -> Iterable[str]:
    """The table, accuracy with intervals as a plot for each benchmark, the other ways to count."""
    yield "<h2>Results</h2>"
    yield render_table(list_results(summary))
    yield (
        '<p class="soft">Strict: the trained format, or the whole answer, states one choice. Lenient: the last choice '
        "clearly stated anywhere. Unread answers and errors count as wrong in both; nothing is guessed. "
        "In the plots: dot strict with its 95 % interval, ring lenient, dotted line chance.</p>"
    )
    for benchmark, results in group_results(summary).items():
        yield f"<h3>{escape(benchmark)}</h3>"
        yield plots.plot_accuracy(results)
    yield "<h2>Counted in other ways</h2>"
    yield render_table(list_subsets(summary))
    sampled = list_sampled(summary)
    if sampled.rows:
        yield render_table(sampled)


def section_comparisons(summary: dict[str, Any]) -> Iterable[str]:
    """Differences, tests and agreement of every pair."""
    if not summary["comparisons"]:
        return
    yield "<h2>Comparisons on the same questions</h2>"
    yield render_table(list_comparisons(summary))
    yield (
        '<p class="soft">Intervals: paired bootstrap of clusters (questions that repeat stay together). p: exact '
        "McNemar, or sign flips of clusters where questions repeat or are sampled; Holm over benchmarks.</p>"
    )
    for benchmark in group_results(summary):
        pairs = [c for c in summary["comparisons"] if c["benchmark"] == benchmark]
        if pairs:
            yield f"<h3>Same choice on {escape(benchmark)} (% of questions)</h3>"
            yield plots.plot_agreement(pairs).replace("<svg", '<svg class="narrow"', 1)


def section_parts(summary: dict[str, Any]) -> Iterable[str]:
    """Accuracy by subject, number of options and length of the answer."""
    for key, title in (("by_group", "subject"), ("by_num_options", "number of options")):
        tables = {
            table.title.rpartition(": ")[2]: table
            for table in list_parts(summary, key, f"By {title}")
        }
        if tables:
            yield f"<h2>By {title}</h2>"
        for benchmark, table in tables.items():
            yield f"<h3>{escape(benchmark)}</h3>"
            yield plots.plot_parts(group_results(summary)[benchmark], key, title)
            yield f"<details><summary>as a table</summary>{render_table(table)}</details>"
    lengths = list_length_parts(summary)
    if lengths.rows:
        yield "<h2>By tokens of the answer</h2>"
        for benchmark, results in group_results(summary).items():
            parted = [result for result in results if result["by_length"]]
            if parted:
                yield f"<h3>{escape(benchmark)}</h3>"
            for (
                result
            ) in parted:  # a plot for each: the lengths of one system are not those of another
                yield plots.plot_parts([result], "by_length", f"{result['model']}.{result['mode']}")
        yield f"<details><summary>as a table</summary>{render_table(lengths)}</details>"


def section_differing(differing: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Questions with both answers side by side."""
    if not any(differing.values()):
        return
    yield "<h2>One right, the other wrong</h2>"
    for heading, questions in differing.items():
        if questions:
            inner = "".join(map(render_question, questions))
            yield f"<details><summary>{escape(heading)}</summary>{inner}</details>"


def render_question(question: dict[str, Any]) -> str:
    """One question with the answers of two systems."""
    options = "\n".join(question["options"])
    sides = "".join(
        f"<div><b>{escape(side['system'])}</b>: {escape(side['choice'] or '–')} ({escape(side['reason'])})"
        f"<pre>{escape(side['response'])}</pre></div>"
        for side in question["sides"]
    )
    return (
        f"<h3>{escape(question['id'])}: right is {escape(question['answer'])}</h3>"
        f'<pre>{escape(question["question"])}\n{escape(options)}</pre><div class="pair">{sides}</div>'
    )


def group_results(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """benchmark -> results."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in summary["results"]:
        groups.setdefault(result["benchmark"], []).append(result)
    return groups


def render_table(cells: Cells) -> str:
    """A table with its title above."""

    def render_row(row: list[str], tag: str) -> str:
        marks = [' class="text"' if index < cells.left else "" for index in range(len(row))]
        return "".join(
            f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(row, marks, strict=True)
        )

    rows = "".join(f"<tr>{render_row(row, 'td')}</tr>" for row in cells.rows)
    head = f"<thead><tr>{render_row(cells.headings, 'th')}</tr></thead>"
    return f'<p class="soft">{escape(cells.title)}</p><div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
