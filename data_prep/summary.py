"""What a person sees: a progress bar while rows are prepared, then one table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from data_prep.prepare import Progress as ProgressCall


@contextmanager
def show_progress() -> Iterator[ProgressCall]:
    """A progress bar on standard error, which vanishes at the end; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def progress(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bar.add_task(split, total=total)
            bar.update(tasks[split], completed=done)

        yield progress


def print_summary(manifest: dict[str, Any], folder: Path) -> None:
    """One table: rows read, kept and dropped by reason, prompt tokens, and where the files are."""
    limit = manifest["max_prompt_tokens"]["limit"]
    table = Table(title=f"{manifest['name']} → {folder}/", title_justify="left")
    for heading in ("split", "read", "kept", "dropped", "mended", f"prompt tokens (limit {limit:,})"):
        table.add_column(heading, justify="left" if heading in ("split", "dropped", "mended") else "right")
    for split, facts in manifest["splits"].items():
        tokens = facts["tokens"]["prompt"]
        table.add_row(
            f"{split}.jsonl",
            f"{facts['read']:,}",
            f"{facts['kept']:,}",
            list_counts(facts["dropped"]),
            list_counts(facts["fixed"]),
            f"median {tokens['p50']:,}  p99 {tokens['p99']:,}  max {tokens['max']:,}",
        )
    Console().print(table)


def list_counts(ids_by_reason: dict[str, list[str]]) -> str:
    """`2 duplicate_options, 1 not_json`, or a dash for none."""
    return ", ".join(f"{len(ids):,} {reason}" for reason, ids in ids_by_reason.items()) or "–"
