"""Prepare a data set: raw multiple-choice questions -> data/<name>/*.jsonl + manifest.json

make prep                                   the question bank, for the laptop experiment
make prep data=medqa                        MedQA from the hub, at its pinned revision
make prep data=medqa data.source=FOLDER     MedQA from a local copy
make prep data=[medqa,medmcqa]              a mixture of prepared sets, in data/mix
python -m data_prep.run --help              every setting
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from data_prep.card import render_card
from data_prep.command import run_command
from data_prep.prepare import prepare
from data_prep.splits import Progress as ProgressCall


def main(cfg: DictConfig) -> None:
    """Prepare, then print the card."""
    with show_progress() as progress:
        manifest = prepare(cfg, progress)
    # Without a terminal rich would wrap at 80 columns; logs and CI read better unwrapped.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(Markdown(render_card(manifest).replace("![", "[")))  # a link to the picture
    console.print(f"Files are in {Path(cfg.data_dir) / cfg.data.name}/", highlight=False)


@contextmanager
def show_progress() -> Iterator[ProgressCall]:
    """Show a progress bar on standard error, which vanishes; nothing where that is no terminal.

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


def name_mixture(arguments: list[str]) -> list[str]:
    """Return the command line with `data=[a,b]` as the mixture it means; Hydra would merge the
    two.
    """
    named: list[str] = []
    parts: list[str] = []
    for argument in arguments:
        if found := re.fullmatch(r"data=(\[.*\])", argument):
            named.append("data=mix")
            parts.append(f"data.parts_of_mixture={found[1]}")
        else:
            named.append(argument)
    return named + parts


if __name__ == "__main__":
    run_command(main, "prep", name_mixture)
