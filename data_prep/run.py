"""Run `make prep`: from raw multiple-choice questions to data/<name>/*.jsonl and manifest.json.

make prep                                   the question bank, for the laptop experiment
make prep data=medqa                        MedQA from the hub, at its pinned revision
make prep data=medqa data.source=FOLDER     MedQA from a local copy
make prep data=[medqa,medmcqa]              a mixture of prepared sets, in data/mix
python -m data_prep.run --help              every setting
"""

import re
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from data_prep.card import render_card
from data_prep.command import run_command, show_text
from data_prep.prepare import prepare


def main(cfg: DictConfig) -> None:
    """Prepare, then print the card."""
    manifest = prepare(cfg)
    # Without a terminal rich would wrap at 80 columns; logs and CI read better unwrapped.
    console = Console(width=None if sys.stdout.isatty() else 160)
    card = render_card(manifest).replace("![", "[")  # a link to the picture
    console.print(Markdown(show_text(card)))
    print(f"Files are in {Path(cfg.data_dir) / cfg.data.name}/")


def name_mixture(arguments: list[str]) -> list[str]:
    """Return the command line with `data=[a,b]` as the mixture it means; Hydra would merge them."""
    words = []
    for argument in arguments:
        if found := re.fullmatch(r"data=(\[.*\])", argument):
            words += ["data=mix", f"data.parts_of_mixture={found[1]}"]
        else:
            words.append(argument)
    return words


if __name__ == "__main__":
    run_command(main, "prep", name_mixture)
