"""SFT baseline, by OpenRLHF's own trainer: direct prompt → letter, on the rows that RLVR trains on.

make sft                                        the laptop experiment, without a GPU
make sft dry_run=true                           print the engine's command and stop
python -m recipes.sft experiment=paper hardware=8x80gb
"""

import sys

import hydra
from omegaconf import DictConfig

from recipes.choices import add_environment_choices
from recipes.launcher import run_recipe


@hydra.main(config_path="configs", config_name="sft", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run the composed recipe."""
    run_recipe(cfg, "sft")


if __name__ == "__main__":
    add_environment_choices(sys.argv, prefix="sft/")
    main()
