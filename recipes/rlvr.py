"""RLVR: PPO with the verifiable reward, by OpenRLHF's own trainer.

make rlvr                                       the laptop experiment, without a GPU
make rlvr dry_run=true                          print the engine's command and stop
python -m recipes.rlvr experiment=paper hardware=8x80gb openrlhf.actor.adam.lr=5e-7
"""

import sys

import hydra
from omegaconf import DictConfig

from recipes.choices import add_environment_choices
from recipes.launcher import run_recipe


@hydra.main(config_path="configs", config_name="rlvr", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run the composed recipe."""
    run_recipe(cfg, "ppo")


if __name__ == "__main__":
    add_environment_choices(sys.argv)
    main()
