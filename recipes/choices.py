"""The command line before Hydra sees it: EXPERIMENT and HARDWARE, `hardware=auto`, and SFT's folder of experiments.

As command-line overrides, since Hydra forbids an experiment chosen by ${oc.env:…} to choose the data set.
"""

import os
import sys

from recipes.machine import NoPresetError, choose_hardware, find_gpus

ASKS_FOR_HELP = ("-h", "--help", "--hydra-help", "--cfg", "-c")


def add_environment_choices(argv: list[str], prefix: str = "") -> None:
    """Complete argv in place. prefix: `sft/`, the folder of the SFT experiments, for recipes.sft.

    With prefix, experiment=paper means experiment=sft/paper, and so does experiment=sft. Where hardware is not said,
    or is `auto`, the preset that fits this machine is put in and printed. Exits with 2 where there is none, and for
    `data=[a,b]`, of which Hydra would make one data set with the settings of both.
    """
    for word in argv:
        if word.startswith("data=["):
            print(
                f"{word}: a mixture is prepared first, `make prep {word}`, then trained on as data=mix",
                file=sys.stderr,
            )
            sys.exit(2)
    experiment = take(argv, "experiment") or os.environ.get("EXPERIMENT")
    if experiment:
        if prefix:
            experiment = prefix + (
                "paper" if experiment == "sft" else experiment.removeprefix(prefix)
            )
        elif experiment == "sft" or experiment.startswith("sft/"):
            name = experiment.removeprefix("sft").removeprefix("/") or "paper"
            sys.exit(f"experiment={experiment} is the SFT baseline: make sft experiment={name}")
        argv.append(f"experiment={experiment}")
    hardware = take(argv, "hardware") or os.environ.get("HARDWARE") or "auto"
    if hardware == "auto":
        try:
            hardware, why = choose_hardware(find_gpus())
        except NoPresetError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        if not any(word in ASKS_FOR_HELP for word in argv):
            print(why)
    argv.append(f"hardware={hardware}")


def take(argv: list[str], group: str) -> str | None:
    """Remove `group=value` from argv; returns the last value given."""
    given = [word for word in argv if word.startswith(f"{group}=")]
    argv[:] = [word for word in argv if word not in given]
    return given[-1].split("=", 1)[1] if given else None
