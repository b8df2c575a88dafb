"""The recipes on the real engine, without a GPU: GRPO, LoRA, async and two ranks, 3 steps each, finite and in sync.

Each starts Ray, vLLM and DeepSpeed (2 to 4 minutes on 2 idle cores). The recipe's own YAML is composed, with the
laptop's model, questions and lengths in place of the large ones.
"""

import json

import pytest

pytestmark = pytest.mark.e2e
SMALL = [
    *("data=bank", "model.path=recipes/laptop_model", "openrlhf.data.max_len=1024"),
    *(
        "openrlhf.rollout.max_new_tokens=128",
        "openrlhf.rollout.micro_batch_size=8",
        "openrlhf.train.micro_batch_size=8",
    ),
]
GROUPS = [
    *(
        "openrlhf.rollout.batch_size=8",
        "openrlhf.data.max_samples=24",
        "openrlhf.rollout.n_samples_per_prompt=4",
    ),
    "openrlhf.train.batch_size=32",
]


def check_steps(folder, read_metrics, read_rollouts, samples: int) -> list[dict]:
    """3 finite steps whose rollouts come from the weights just trained, each rollout on disk once."""
    rows = [row for row in read_metrics(folder) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 < row["actor_grad_norm"] < 1e3 for row in rows)
    assert all(abs(row["vllm_kl"]) < 2e-3 for row in rows), [row["vllm_kl"] for row in rows]
    rollouts = [row for row in read_rollouts(folder) if row["split"] == "train"]
    assert len(rollouts) == 3 * samples and {row["step"] for row in rollouts} == {1, 2, 3}
    return rows


def test_grpo(train, read_metrics, read_rollouts):
    done, folder = train("experiment=grpo", *SMALL, *GROUPS, "openrlhf.ckpt.save_hf=false")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = check_steps(folder, read_metrics, read_rollouts, samples=32)
    assert all("critic_loss" not in row and "group_reward_std" in row for row in rows)


def test_lora_trains_what_vllm_samples_from(train, read_metrics, read_rollouts, root):
    """A high learning rate, so that base weights alone would show in `vllm_kl`; the saved model is whole."""
    from safetensors.torch import load_file  # torch, 2 s: this file is collected in every unit run

    done, folder = train(
        "experiment=lora",
        *SMALL,
        *GROUPS,
        "openrlhf.actor.adam.lr=3e-3",
        "openrlhf.ckpt.save_hf=false",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_steps(folder, read_metrics, read_rollouts, samples=32)
    base = load_file(root / "recipes" / "laptop_model" / "model.safetensors")
    merged = load_file(folder / "model" / "model.safetensors")
    assert set(merged) == set(base)
    changed = {name for name in base if not (base[name].float() == merged[name].float()).all()}
    assert changed and all("proj" in name and name.endswith("weight") for name in changed)
    assert (folder / "model" / "adapter" / "adapter_model.safetensors").is_file()


def test_async_with_a_vllm_engine_of_its_own(train, read_metrics, read_rollouts, bank):
    """Rollouts are a step older than the weights, so `vllm_kl` may be larger, and stays finite."""
    places = [
        "hardware.gpus_per_node=2",
        "hardware.training_gpus_per_node=1",
        "hardware.vllm_engines=1",
    ]
    done, folder = train(
        *places, "hardware.async=true", "openrlhf.eval.steps=2", "openrlhf.ckpt.save_steps=2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3]
    assert all(0 < row["actor_grad_norm"] < 1e3 for row in rows if row["kind"] == "train")
    rollouts = read_rollouts(folder)
    trained = [row for row in rollouts if row["split"] == "train"]
    assert len(trained) == 192 and len({row["id"] for row in trained}) == 192
    assert {row["step"] for row in trained} == {1, 2, 3}
    assert {row["step"] for row in rollouts if row["split"] == "dev"} == {2}
    marks = {
        path.stem: json.loads(path.read_text())
        for path in (folder / "checkpoints" / "complete").glob("*.json")
    }
    assert "global_step2" in marks and marks["global_step2"]["step"] == 2
