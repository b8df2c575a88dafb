"""Prepares a data set: raw multiple-choice questions -> data/<name>/{train,dev,test}.jsonl + manifest.json

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
from pathlib import Path

import hydra
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.summary import print_summary, show_progress

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"


@hydra.main(config_path=str(CONFIGS), config_name="prep", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Prepares, then prints one table. Exits with 2 and one line for each problem where the user must act."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal with an ASCII locale must not fail on a dash
    try:
        with show_progress() as progress:
            manifest = prepare(cfg, progress)
    except UserError as error:
        for problem in error.problems:
            print(f"prep: {problem}", file=sys.stderr)
        sys.exit(2)
    print_summary(manifest, Path(cfg.data_dir) / cfg.data.name)


def name_mixture(arguments: list[str]) -> list[str]:
    """The command line with `data=[a,b]` as the mixture it means; Hydra itself would merge the two configurations."""
    mixed = [re.fullmatch(r"data=(\[.*\])", argument) for argument in arguments]
    parts = [f"data.parts_of_mixture={found[1]}" for found in mixed if found]
    return [
        "data=mix" if found else argument for argument, found in zip(arguments, mixed, strict=True)
    ] + parts


if __name__ == "__main__":
    sys.argv[1:] = name_mixture(sys.argv[1:])
    # Hydra forbids an experiment chosen by ${oc.env:…} to choose the data set, so the variable becomes an override.
    if os.environ.get("EXPERIMENT") and not any(arg.startswith("experiment=") for arg in sys.argv):
        sys.argv.append(f"experiment={os.environ['EXPERIMENT']}")
    main()
