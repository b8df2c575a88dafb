"""OpenRLHF's rules: what we refuse, beside the failure that the engine itself would have come to.

Where the engine's own check is a line of its CLI or a function that needs no GPU, the test calls it.
"""

import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from recipes.flags import FlagError, build_parser, to_argv, validate
from recipes.launcher import check_recipe
from recipes.rules import count_gpus, find_broken_rules

GROUP = "openrlhf.algo.advantage.estimator="


@pytest.fixture
def gpu_recipe(compose_config):
    """The tuned recipe on 8 GPUs with overrides."""
    return lambda *overrides: compose_config(
        "rlvr", "experiment=tuned", "hardware=8x80gb", *overrides
    )


def run_engine_validation(cfg) -> None:
    """The engine's own words between its parser and its trainer, ours left out."""
    argv = to_argv(OmegaConf.to_container(cfg.openrlhf, resolve=True), build_parser("ppo"))
    validate(argv, "ppo")


@pytest.mark.parametrize(
    ("overrides", "ours", "engines"),
    [
        (
            ["hardware.async=true"],
            "async_enable excludes openrlhf.vllm.enable_sleep",
            "not supported with --vllm.ena",
        ),
        (["openrlhf.vllm.num_engines=null"], "num_engines must be at least 1", "'>' not supported"),
        *[
            (
                [f"{GROUP}{name}", "openrlhf.rollout.n_samples_per_prompt=1"],
                "compares samples of one prompt",
                "requires n_",
            )
            for name in ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")
        ],
        (
            ["openrlhf.rollout.vllm_generate_batch_size=512"],
            "vllm_generate_batch_size above rollout.batch_size loses samples",
            "requires --train.async_enable",
        ),
        (
            ["openrlhf.rollout.batch_size=8", "openrlhf.rollout.micro_batch_size=8"],
            "rollout.batch_size × n_samples_per_prompt = 32 is not a multiple",
            "number of sample batches must be greater",
        ),
    ],
)
def test_the_engine_refuses_too_but_later(gpu_recipe, overrides, ours, engines):
    cfg = gpu_recipe(*overrides)
    assert any(ours in problem for problem in find_broken_rules(cfg, "ppo"))
    with pytest.raises(FlagError, match=engines):
        run_engine_validation(cfg)


def test_what_the_engine_refuses_is_told_by_its_keys(compose_config):
    """And not by the engine's own words, which name none: `number of sample batches must be …`."""
    argv, problems = check_recipe(
        compose_config("rlvr", "experiment=smollm2", "hardware=2x8x80gb"), "ppo"
    )
    assert not argv and len(problems) > 1
    assert all(line.startswith("openrlhf.") and "not a multiple" in line for line in problems)


@pytest.mark.parametrize(
    ("overrides", "ours"),
    [
        (
            ["openrlhf.train.batch_size=200"],
            "1024 is not a multiple of openrlhf.train.batch_size=200",
        ),
        (
            ["openrlhf.train.micro_batch_size=3"],
            "openrlhf.train.micro_batch_size=3 × 8 actor ranks",
        ),
        (["openrlhf.rollout.micro_batch_size=48"], "micro_batch_size=48 × 8 actor ranks"),
        (["hardware.vllm_engines=4"], "as many actor GPUs (8) as vLLM GPUs"),
        (["openrlhf.ref.num_gpus_per_node=4"], "the reference model needs the actor's 8 GPUs"),
        (
            ["openrlhf.critic.num_gpus_per_node=16"],
            "the critic can have at most the actor's 8 GPUs",
        ),
        (["openrlhf.train.dynamic_batch_enable=true"], "crashes below ZeRO-3"),
        (["openrlhf.ref.offload=true"], "does nothing below ZeRO-3"),
        (["openrlhf.ckpt.max_num=1"], "deletes the last checkpoint before the next is whole"),
        (["openrlhf.ds.lora.rank=8", "hardware.zero_stage=3"], "merged weights go to vLLM"),
        (["openrlhf.algo.kl.target=0.1"], "marked incompatible"),
    ],
)
def test_the_engines_command_line_lets_it_pass(gpu_recipe, overrides, ours):
    """These it finds in another process, on a GPU, or never: its own validation says nothing."""
    cfg = gpu_recipe(*overrides)
    assert any(ours in problem for problem in find_broken_rules(cfg, "ppo")), find_broken_rules(
        cfg, "ppo"
    )
    run_engine_validation(cfg)


def test_an_async_run_counts_both_kinds_of_gpus(compose_config):
    assert count_gpus(compose_config("rlvr", "experiment=paper", "hardware=8x80gb_async")) == 8
    assert count_gpus(compose_config("rlvr", "experiment=paper", "hardware=2x8x80gb")) == 16


DEEPSPEED = """
from deepspeed.runtime.config import DeepSpeedConfig
for micro in (4, 3):
    try:
        DeepSpeedConfig({"train_batch_size": 256, "train_micro_batch_size_per_gpu": micro})
        print("TOOK", micro)
    except AssertionError as error:
        print("REFUSED", micro, error)
"""


@pytest.mark.slow
def test_deepspeeds_batch_equation(root):
    """DeepSpeed's own assertion, which OpenRLHF meets inside an actor, after everything was loaded (15 s: imports)."""
    done = subprocess.run(
        [sys.executable, "-c", DEEPSPEED], capture_output=True, text=True, env=os.environ, cwd=root
    )
    assert "TOOK 4" in done.stdout and "REFUSED 3" in done.stdout, done.stdout + done.stderr[-2000:]
    assert (
        "train_batch_size is not equal to micro_batch_per_gpu * gradient_acc_step * world_size"
        in done.stdout
    )
