"""What a person sees: progress while answers come, then one table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from eval.ask import Progress as ProgressCall
from eval.plan import Plan, Task
from eval.tables import list_results


@contextmanager
def show_progress(plan: Plan) -> Iterator[ProgressCall]:
    """A bar over all answers with the time left, which vanishes at the end; without a terminal a line for each task."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    left = {task.key: len(task.requests) for task in plan.tasks}
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        total = bar.add_task("starting", total=sum(left.values()))

        def progress(task: Task, done: int) -> None:
            left[task.key] -= done
            bar.update(
                total,
                advance=done,
                description=f"{task.model} on {task.benchmark.name}, {task.mode}",
            )
            if not console.is_terminal and done and not left[task.key]:
                console.print(
                    f"{task.model} on {task.benchmark.name}, {task.mode}: {len(task.requests):,} answers"
                )

        yield progress


def print_table(summary: dict[str, Any]) -> None:
    """The results, one a line, then the verdict on the claims."""
    console = Console()
    found = list_results(summary)
    title = f"{summary['name']}: accuracy in %, by the strict and by the lenient reading"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(found.headings):
        justify: Literal["left", "right"] = "left" if index < found.left else "right"
        table.add_column(
            heading,
            justify=justify,
            no_wrap=index != 1,
            min_width=9 if index == 1 else None,
            overflow="fold",
        )
    for row in found.rows:
        table.add_row(*row)
    console.print(table)
    for claim in summary["claims"]:
        console.print(claim["sentence"], highlight=False)
