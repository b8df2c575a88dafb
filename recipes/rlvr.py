"""RLVR: PPO with the verifiable reward, by OpenRLHF's own trainer.

make rlvr                                       the laptop experiment, without a GPU
make rlvr dry_run=true                          print the engine's command and stop
python -m recipes.rlvr experiment=paper hardware=8x80gb openrlhf.actor.adam.lr=5e-7
"""

from functools import partial

from data_prep.command import run_command
from recipes.launcher import run_recipe
from recipes.machine import complete_words

if __name__ == "__main__":
    run_command(partial(run_recipe, method="ppo"), "rlvr", complete_words)
