"""The command line before Hydra sees it."""

import os


def add_experiment(argv: list[str]) -> None:
    """Add $EXPERIMENT to argv, in place, where no experiment is given.

    As an override, since Hydra forbids an experiment chosen by ${oc.env:…} to choose the data set.
    """
    if os.environ.get("EXPERIMENT") and not any(arg.startswith("experiment=") for arg in argv):
        argv.append(f"experiment={os.environ['EXPERIMENT']}")
