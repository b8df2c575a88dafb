"""SFT baseline, by OpenRLHF's own trainer: direct prompt → answer, on the rows that RLVR trains on.

make sft                                        the laptop experiment, without a GPU
make sft dry_run=true                           print the engine's command and stop
python -m recipes.sft experiment=paper hardware=8x80gb
"""

from functools import partial

from data_prep.command import run_command
from recipes.launcher import run_recipe
from recipes.machine import complete_words

if __name__ == "__main__":
    run_command(partial(run_recipe, method="sft"), "sft", partial(complete_words, sft=True))
