"""What a person sees: progress while answers come, then one table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from eval.answer import Progress as ProgressCall
from eval.plan import Plan, Task

HEADINGS = ("model", "benchmark", "mode", "n", "strict", "95 % CI", "lenient", "format", "cut off", "errors")


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
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        total = bar.add_task("starting", total=sum(left.values()))

        def progress(task: Task, done: int) -> None:
            left[task.key] -= done
            bar.update(total, advance=done, description=f"{task.model} on {task.benchmark.name}, {task.mode}")
            if not console.is_terminal and done and not left[task.key]:
                console.print(f"{task.model} on {task.benchmark.name}, {task.mode}: {len(task.requests):,} answers")

        yield progress


def format_row(result: dict[str, Any]) -> tuple[str, ...]:
    """One result as the cells under HEADINGS; rates in per cent."""
    accuracy = result["accuracy"]
    return (
        result["model"],
        result["benchmark"],
        result["mode"],
        f"{result['n']:,}",
        percent(accuracy["value"]),
        f"{percent(accuracy['low'])}–{percent(accuracy['high'])}",
        percent(result["accuracy_lenient"]["value"]),
        percent(result["format_rate"]),
        percent(result["truncated_rate"]),
        f"{result['errors']:,}",
    )


def percent(value: float) -> str:
    """`27.2`."""
    return f"{100 * value:.1f}"


def print_table(summary: dict[str, Any]) -> None:
    """The results, one a line."""
    title = f"{summary['name']}: accuracy in %, by the strict and by the lenient reading"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(HEADINGS):
        justify: Literal["left", "right"] = "left" if index < 3 else "right"
        table.add_column(
            heading, justify=justify, no_wrap=index != 1, min_width=9 if index == 1 else None, overflow="fold"
        )
    for result in summary["results"]:
        table.add_row(*format_row(result))
    Console().print(table)
