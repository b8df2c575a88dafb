"""hardware=auto, the words that Hydra is handed, and secrets that stay in the environment."""

import json
import stat
import sys

import pytest
from omegaconf import OmegaConf

from data_prep.errors import UserError
from recipes import machine, process, run_folder
from recipes.engine.ppo import check_cluster, choose_forwarded
from recipes.machine import Gpu, choose_hardware, complete_words, find_gpus, list_presets
from recipes.rules import check_secrets


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "RAY_ADDRESS",
        "WANDB_API_KEY",
        "WANDB_MODE",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("gpus", "preset"),
    [
        ([], "cpu"),
        ([Gpu("A100", 80.0)], "1x80gb"),
        ([Gpu("H100", 79.6)] * 2, "2x80gb"),
        ([Gpu("H100", 79.6)] * 3, "2x80gb"),
        ([Gpu("H100", 79.6)] * 4, "4x80gb"),
        ([Gpu("H100", 79.6)] * 8, "8x80gb"),
        ([Gpu("H200", 140.4)], "1x141gb"),
        ([Gpu("H200", 140.4)] * 8, "8x80gb"),
    ],
)
def test_the_preset_that_fits_is_taken_and_said(gpus, preset):
    chosen, why = choose_hardware(gpus)
    assert chosen == preset and preset in why
    assert ("idle" in why) == (len(gpus) == 3)


@pytest.mark.parametrize("gpus", [[Gpu("RTX 4090", 24.0)], [Gpu("CUDA device", None)] * 2])
def test_gpus_that_no_preset_fits(gpus):
    with pytest.raises(UserError, match=r"hardware\.gpu_memory_gb"):
        choose_hardware(gpus)


def test_a_cluster_is_not_guessed(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match="RAY_ADDRESS"):
        choose_hardware([Gpu("H100", 79.6)] * 8)


def test_gpus_are_read_from_nvidia_smi_and_the_visible_ones_counted(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\nprintf 'NVIDIA H100 80GB HBM3, 81559\\nNVIDIA H100 80GB HBM3, 81559\\n'\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == [Gpu("NVIDIA H100 80GB HBM3", 81559 / 1024)] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(find_gpus()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []


def test_presets_are_those_of_the_yaml_files(root):
    """A new preset is one file; async ones and clusters are not for `auto`."""
    names = [preset.name for preset in list_presets()]
    assert {"8x80gb", "4x80gb", "2x80gb", "1x80gb", "1x141gb"} <= set(names)
    assert not {"cpu", "2x8x80gb", "8x80gb_async"} & set(names)
    assert [preset.gpus for preset in list_presets()] == sorted(
        (preset.gpus for preset in list_presets()), reverse=True
    )


@pytest.mark.parametrize(
    ("words", "sft", "expected"),
    [
        (["experiment=paper", "hardware=8x80gb"], False, ["experiment=paper", "hardware=8x80gb"]),
        (
            ["experiment=paper", "hardware=8x80gb"],
            True,
            ["experiment=sft/paper", "hardware=8x80gb"],
        ),
        (
            ["experiment=sft/paper", "hardware=cpu"],
            True,
            ["experiment=sft/paper", "hardware=cpu"],
        ),
        (["experiment=sft", "hardware=cpu"], True, ["experiment=sft/paper", "hardware=cpu"]),
        (["name=x", "hardware.nodes=2"], False, ["name=x", "hardware.nodes=2", "hardware=cpu"]),
        (["hardware=auto"], False, ["hardware=cpu"]),
        (["hardware=auto", "hardware=1x80gb"], False, ["hardware=1x80gb"]),
    ],
)
def test_the_words_that_hydra_is_handed(monkeypatch, words, sft, expected):
    monkeypatch.setattr(machine, "find_gpus", list)
    given = list(words)
    assert complete_words(words, sft) == expected
    assert words == given


def test_the_preset_is_said(monkeypatch, capsys):
    monkeypatch.setattr(machine, "find_gpus", lambda: [Gpu("H100", 79.6)] * 4)
    assert complete_words(["experiment=paper"], sft=True) == [
        "experiment=sft/paper",
        "hardware=4x80gb",
    ]
    assert "so 4x80gb" in capsys.readouterr().out


def test_rlvr_does_not_take_an_sft_experiment():
    with pytest.raises(UserError, match=r"make sft experiment=paper"):
        complete_words(["experiment=sft/paper"])


@pytest.mark.parametrize("name", ["7B", "instruct", "nowhere"])
def test_an_experiment_without_an_sft_file_names_the_command(name):
    with pytest.raises(UserError, match=f"make sft experiment=paper model=NAME name={name}"):
        complete_words([f"experiment={name}"], sft=True)


def test_a_mixture_is_not_taken_as_a_merge_of_two_configurations():
    with pytest.raises(UserError, match=r"make prep data=\[medqa,medmcqa\]"):
        complete_words(["data=[medqa,medmcqa]"])


@pytest.mark.parametrize(
    ("offered", "free", "message"),
    [
        (
            {"GPU": 8, "CPU": 64},
            {"GPU": 8, "CPU": 64},
            "the run asks for 16 GPUs, the Ray cluster has 8",
        ),
        ({"GPU": 16, "CPU": 64}, {"GPU": 12, "CPU": 64}, "of which 12 are free"),
        ({"GPU": 16, "CPU": 16}, {"GPU": 16, "CPU": 16}, "asks for 20 CPUs"),
    ],
)
def test_a_cluster_that_is_too_small_is_told_before_a_placement_group_waits(offered, free, message):
    with pytest.raises(RuntimeError, match=message):
        check_cluster(offered, free, 16)
    check_cluster({"GPU": 16, "CPU": 20}, {"GPU": 16, "CPU": 20}, 16)


SECRETS = {
    "WANDB_API_KEY": "wandb-53cret",
    "HF_TOKEN": "hf-53cret",
    "MEDRLVR_REWARD_TOKEN": "reward-53cret",
}


def test_no_secret_is_written_down(compose_config, monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["rlvr"])
    cfg = compose_config("rlvr", f"run_dir={tmp_path}", "openrlhf.logger.wandb.key=environment")
    assert list(check_secrets(cfg)) == []
    environment = process.build_environment(cfg, 0, "id")
    written = [
        process.format_command(process.build_command("ppo", ["--x"], 1), environment),
        OmegaConf.to_yaml(cfg, resolve=True),
        json.dumps(run_folder.describe_run(cfg, "ppo", {}, 0, None)),
        json.dumps(
            choose_forwarded(SECRETS | environment)
        ),  # Ray's runtime environment, which it logs
    ]
    assert not any("53cret" in text for text in written)
    assert environment["WANDB_MODE"] == "online" and "PYTHONPATH" in choose_forwarded(environment)
    assert choose_forwarded({"TOKENIZERS_PARALLELISM": "true"})


@pytest.mark.parametrize("key", ["reward.url", "openrlhf.reward.remote_url"])
@pytest.mark.parametrize(
    "url", ["http://x/get_reward?token=53cret", "http://me:53cret@x/get_reward"]
)
def test_a_url_with_a_secret_is_refused_before_it_is_written(compose_config, key, url):
    (problem,) = check_secrets(compose_config("rlvr", f'{key}="{url}"'))
    assert key in problem and "MEDRLVR_REWARD_TOKEN" in problem and "53cret" not in problem


def test_a_key_on_the_command_line_is_refused(compose_config):
    (problem,) = check_secrets(compose_config("rlvr", "openrlhf.logger.wandb.key=abc123"))
    assert "WANDB_API_KEY" in problem and "abc123" not in problem
    (problem,) = check_secrets(compose_config("rlvr", "openrlhf.logger.wandb.key=environment"))
    assert "is not set" in problem


def test_a_run_has_one_wandb_id_and_a_new_run_another(compose_config, tmp_path):
    cfg = compose_config("rlvr", f"run_dir={tmp_path}")
    first = run_folder.describe_run(cfg, "ppo", {}, 0, None)["wandb_id"]
    assert run_folder.describe_run(cfg, "ppo", {}, 0, None)["wandb_id"] != first
    (tmp_path / "run.json").write_text(json.dumps({"wandb_id": first}))
    assert run_folder.describe_run(cfg, "ppo", {}, 0, None)["wandb_id"] == first
    assert process.build_environment(cfg, 0, first)["WANDB_RUN_ID"] == first


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "micro_batch_size"),
        (
            "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory",
            "end what else holds memory",
        ),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("ValueError: row bank/train/7: label has no answer", "docs/reward.md"),
        ("ValueError: No available memory for the cache blocks.", "raise hardware.vllm_memory"),
        ("OSError: AF_UNIX path length cannot exceed 107 bytes", "TMPDIR=/tmp"),
        ("AssertionError: something else", ""),
    ],
)
def test_a_cause_comes_with_the_next_step(cause, advice):
    found = process.advise(cause)
    assert advice in found and bool(found) == bool(advice)
