"""Every YAML under recipes/configs composes, and OpenRLHF's own parser takes the result."""

import re
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from recipes.flags import build_parser, to_argv
from recipes.run import build_argv

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"


def list_group(group: str) -> list[str]:
    """The options of a group, nested ones as `folder/name`."""
    folder = CONFIGS / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


PPO = [name for name in list_group("experiment") if not name.startswith("sft/")]
SFT = [name for name in list_group("experiment") if name.startswith("sft/")]
HARDWARE = list_group("hardware")
PAIRS = [("rlvr", name, place) for name in PPO for place in HARDWARE]
PAIRS += [("sft", name, place) for name in SFT for place in HARDWARE]


def test_there_is_something_to_compose():
    assert "laptop" in PPO and "sft/laptop" in SFT and "cpu" in HARDWARE and len(PAIRS) >= 2


@pytest.mark.parametrize(("root_name", "experiment", "hardware"), PAIRS)
def test_experiment_on_hardware_is_taken_by_the_engines_parser(compose_config, root_name, experiment, hardware):
    cfg = compose_config(root_name, f"experiment={experiment}", f"hardware={hardware}")
    assert not OmegaConf.missing_keys(cfg)
    method = "ppo" if root_name == "rlvr" else "sft"
    argv = build_argv(cfg, method)
    read = vars(build_parser(method).parse_args(argv))
    assert read["ckpt.output_dir"].endswith(f"runs/{root_name}/{cfg.name}/model")
    assert read["train.batch_size"] == cfg.openrlhf.train.batch_size
    assert read["logger.wandb.run_name"] == cfg.name


@pytest.mark.parametrize("data", [name for name in list_group("data") if name != "base"])
def test_each_data_set_composes_with_each_root(compose_config, data):
    for root_name in ("prep", "rlvr", "sft"):
        assert compose_config(root_name, f"data={data}").data.name


def test_an_override_reaches_the_engine(compose_config):
    cfg = compose_config("rlvr", "openrlhf.actor.adam.lr=3e-7", "name=low", "seed=7")
    argv = build_argv(cfg, "ppo")
    assert argv[argv.index("--actor.adam.lr") + 1] == "3e-07"
    assert argv[argv.index("--train.seed") + 1] == "7"
    assert argv[argv.index("--ckpt.path") + 1].endswith("/runs/rlvr/low/checkpoints")


@pytest.mark.parametrize("override", ["openrlhf.actor.adam.l=1", "openrlhf.actor.lr=1", "sed=3", "data=medqqa"])
def test_an_unknown_override_is_refused(compose_config, override):
    with pytest.raises(HydraException, match=override.split("=")[0].split(".")[-1]):
        compose_config("rlvr", override)


def test_ppo_flags_in_the_sft_recipe_are_refused(compose_config):
    cfg = compose_config("sft", "experiment=laptop")
    with pytest.raises(ValueError, match=r"openrlhf\.actor\.adam\.lr"):
        to_argv(OmegaConf.to_container(cfg.openrlhf, resolve=True), build_parser("sft"))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert next(line for line in lines if "@package" not in line).startswith("# ")
    for revision in re.findall(r"^\s*revision: (\S+)", path.read_text(), re.MULTILINE):
        assert revision in ("null", "???") or re.fullmatch(r"[0-9a-f]{40}", revision.strip("'\""))
