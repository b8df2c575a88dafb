"""What a person sees: a progress bar while rows are prepared, then one table."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from data_prep.card import count_reasons
from data_prep.splits import Progress as ProgressCall


@contextmanager
def show_progress() -> Iterator[ProgressCall]:
    """A progress bar on standard error, which vanishes at the end; nothing where that is no terminal.

    It starts with the first step, so that the bars of a download have the terminal to themselves.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=None)

    def progress(step: str, done: int, total: int) -> None:
        bar.start()
        bar.update(task, description=step, completed=done, total=total)

    try:
        yield progress
    finally:
        bar.stop()


def print_summary(manifest: dict[str, Any], folder: Path) -> None:
    """One table: rows read, kept and dropped by reason, overlaps, prompt tokens, and where the files are."""
    # Without a terminal rich would wrap at 80 columns; logs and CI read better unwrapped.
    console = Console(width=None if sys.stdout.isatty() else 160)
    limit = manifest["max_prompt_tokens"]["limit"]
    table = Table(title=f"{manifest['name']}: {folder}/", title_justify="left", title_style="bold")
    for heading in ("split", "read", "kept"):
        table.add_column(heading, justify="left" if heading == "split" else "right", no_wrap=True)
    for heading in ("dropped", "mended", "flagged"):
        table.add_column(heading)
    table.add_column(
        f"prompt tokens (limit {limit:,})\nmedian / p99 / max", justify="right", no_wrap=True
    )
    for split, facts in manifest["splits"].items():
        tokens = facts["prompt_tokens"]
        reasons = [
            count_reasons(facts[key]).replace(", ", "\n")
            for key in ("dropped", "mended", "flagged")
        ]
        lengths = f"{tokens['p50']:,} / {tokens['p99']:,} / {tokens['max']:,}"
        table.add_row(split, f"{facts['read']:,}", f"{facts['kept']:,}", *reasons, lengths)
    console.print(table)
    for line in describe_overlap(manifest["overlap"]):
        console.print(line, soft_wrap=True, highlight=False)
    for split, facts in manifest["shuffled_options"].items():
        console.print(
            f"{split}: options of {facts['rows']:,} rows shuffled, {len(facts['left_in_order']):,} left in order"
        )
    if manifest["state"]:
        console.print(f"state: {manifest['state']}", soft_wrap=True, highlight=False)
    for split, ids in manifest["max_prompt_tokens"]["over_limit"].items():
        console.print(
            f"{split}: {len(ids):,} prompts are longer than a run's limit; `make eval` asks them whole, "
            "the engine's own evaluation in training cuts their beginning"
        )
    for remark in manifest["remarks"]:
        console.print(f"note: {remark}", soft_wrap=True, highlight=False)
    console.print(
        f"files, manifest.json, README.md (data card) in {folder}/", soft_wrap=True, highlight=False
    )


def describe_overlap(overlap: dict[str, Any]) -> list[str]:
    """A line each for duplicates, for overlap with evaluation rows, and for what was not compared."""
    lines = []
    for split, facts in overlap["within_splits"].items():
        repeated = facts["rows"] - facts["clusters_same_stem_and_gold"]
        if repeated or facts["near_copies"]:
            lines.append(
                f"{split}: {repeated:,} rows repeat a question ({facts['clusters_same_stem_and_gold']:,} clusters); "
                f"{len(facts['near_copies']):,} rows share 8-grams with an earlier row"
            )
    if "evaluation_rows" in overlap:
        dropped, flagged = len(overlap["train_dropped"]), len(overlap["train_flagged"])
        concerned, sets = (
            len(overlap["evaluation_rows"]),
            ["its own evaluation rows", *overlap["checked_against"]],
        )
        lines.append(
            f"train against {', '.join(sets)}: {dropped:,} training rows dropped, {flagged:,} flagged; "
            f"{concerned:,} evaluation rows concerned"
        )
        if overlap["not_checked_against"]:
            lines.append(
                f"not compared, since not prepared yet: {', '.join(overlap['not_checked_against'])}"
            )
    return lines
