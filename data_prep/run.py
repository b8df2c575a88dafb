"""Prepare a data set: raw multiple-choice questions -> data/<name>/*.jsonl + manifest.json

make prep                                   the question bank, for the laptop experiment
make prep data=medqa                        MedQA from the hub, at its pinned revision
make prep data=medqa data.source=FOLDER     MedQA from a local copy
make prep data=[medqa,medmcqa]              a mixture of prepared sets, in data/mix
python -m data_prep.run --help              every setting
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from data_prep.card import render_card
from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.splits import Progress as ProgressCall

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"


@hydra.main(config_path=str(CONFIGS), config_name="prep", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Prepare, then print the card. Exits with 2 and a line for each problem the user must fix."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal with an ASCII locale must not fail on a dash
            stream.reconfigure(errors="replace")
    try:
        with show_progress() as progress:
            manifest = prepare(cfg, progress)
    except UserError as error:
        for problem in error.problems:
            print(f"prep: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prep: interrupted; what was there before is untouched", file=sys.stderr)
        sys.exit(130)
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
    sys.argv[1:] = name_mixture(sys.argv[1:])
    # Hydra forbids an experiment chosen by ${oc.env:…} to choose the data set, so the variable
    # becomes an override.
    if os.environ.get("EXPERIMENT") and not any(arg.startswith("experiment=") for arg in sys.argv):
        sys.argv.append(f"experiment={os.environ['EXPERIMENT']}")
    main()
