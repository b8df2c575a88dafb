"""Every YAML under recipes/configs composes, and OpenRLHF's own parser and validation take the result."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from recipes.flags import FlagError, build_parser, to_argv, validate
from recipes.launcher import build_argv
from recipes.model import Shape, read_shape
from recipes.plan import check_memory
from recipes.rules import find_broken_rules
from reward_server.scoring import RewardOptions

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"
# What the engine says of a setting that is meant: in async mode only DeepSpeed's models share GPUs.
MEANT = "[Warning] Using --colocate_all_models in async RLHF only colocates DeepSpeed models.\n"


def list_group(group: str) -> list[str]:
    """The options of a group, nested ones as `folder/name`."""
    folder = CONFIGS / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


EXPERIMENTS = list_group("experiment")
HARDWARE = list_group("hardware")
PAIRS = [(name, place) for name in EXPERIMENTS for place in HARDWARE]
# Pairs that make no sense, each for its reason; every other pair must do.
SMALL = ("laptop", "hacked", "open", "paper_laptop", "sft/laptop", "sft/open", "sft/paper_laptop")
LARGE = [name for name in EXPERIMENTS if name not in SMALL]
SENSELESS = {
    **{
        (name, "cpu"): "GiB of memory without a GPU" for name in LARGE
    },  # told by preflight, see test_plan.py
    **{
        (name, place): "not a multiple of"
        for name in SMALL[:3]
        for place in ("8x80gb", "2x8x80gb", "4x8x40gb")
    },  # batches of 64
    **{
        (name, place): "not a multiple of"
        for name in SMALL[4:]
        for place in ("8x80gb", "8x80gb_async")
    },
    **{
        ("paper_laptop", place): "not a multiple of" for place in ("8x80gb", "2x8x80gb", "4x8x40gb")
    },  # batches of 64 in micro-batches of 4
    **{
        ("smollm2", place): "not a multiple of" for place in ("2x8x80gb", "4x8x40gb")
    },  # batches of 8
    **{
        (name, place): "one machine"
        for name in EXPERIMENTS
        if name.startswith("sft/")
        for place in ("2x8x80gb", "4x8x40gb")
    },
    ("lora", "4x40gb"): "whole bf16 matrices",
    **{
        ("7B", place): "GiB on each GPU"
        for place in ("1x141gb", "2x80gb", "4x80gb", "8x80gb_async", "4x40gb", "4x8x40gb")
    },
}
SENSIBLE = [pair for pair in PAIRS if pair not in SENSELESS]
QUICK = ("cpu", "8x80gb")  # the other presets' pairs take half a minute: marker slow
MARKED = [
    pytest.param(*pair, marks=() if pair[1] in QUICK else pytest.mark.slow) for pair in SENSIBLE
]


@pytest.fixture
def compose_pair(compose_config):
    """compose_pair(experiment, hardware) → configuration, method."""

    def compose_one(experiment: str, hardware: str):
        root_name = "sft" if experiment.startswith("sft/") else "rlvr"
        cfg = compose_config(root_name, f"experiment={experiment}", f"hardware={hardware}")
        assert not OmegaConf.missing_keys(cfg)
        return cfg, "sft" if root_name == "sft" else "ppo"

    return compose_one


def test_there_is_something_to_compose():
    asked = {
        "paper",
        "paper_laptop",
        "tuned",
        "grpo",
        "reinforce_baseline",
        "dr_grpo",
        "paper_strict",
        "paper_shaped",
        "0.5B",
        "7B",
        "lora",
    }
    assert asked | {
        "mixture",
        "laptop",
        "instruct",
        "sft/paper",
        "sft/paper_laptop",
        "sft/tuned",
        "sft/laptop",
    } <= set(EXPERIMENTS)
    assert {
        "cpu",
        "1x80gb",
        "1x141gb",
        "2x80gb",
        "4x80gb",
        "8x80gb",
        "2x8x80gb",
        "8x80gb_async",
        "4x40gb",
        "4x8x40gb",
    } == set(HARDWARE)
    assert len(SENSIBLE) > 40 and set(SENSELESS) <= set(PAIRS)
    quick = {experiment for experiment, hardware in SENSIBLE if hardware in QUICK}
    assert quick == set(EXPERIMENTS)  # each experiment is tried, on some hardware, every time


@pytest.mark.parametrize(("experiment", "hardware"), MARKED)
def test_a_sensible_pair_fits_and_the_engines_validation_takes_it(
    compose_pair, experiment, hardware
):
    cfg, method = compose_pair(experiment, hardware)
    argv = build_argv(cfg, method)
    assert validate(argv, method) in ("", MEANT)  # nothing that the engine would change silently
    read = vars(build_parser(method).parse_args(argv))
    assert read["ckpt.output_dir"].endswith(f"{cfg.name}/model")
    assert read["train.batch_size"] == cfg.openrlhf.train.batch_size
    assert read["logger.wandb.run_name"] == cfg.name
    assert find_broken_rules(cfg, method) == []
    if cfg.hardware.cuda:
        assert check_memory(cfg, read_shape(cfg)) == ([], [])


FIRST = {reason: pair for pair, reason in reversed(SENSELESS.items()) if pair[1] != "cpu"}
"""A pair of each reason, which is quick."""


@pytest.mark.parametrize(
    ("experiment", "hardware"),
    [
        pytest.param(*pair, marks=() if pair == FIRST[reason] else pytest.mark.slow)
        for pair, reason in SENSELESS.items()
        if pair[1] != "cpu"
    ],
)
def test_a_senseless_pair_is_refused_for_its_reason(compose_pair, experiment, hardware):
    cfg, method = compose_pair(experiment, hardware)
    refused, doubtful = check_memory(cfg, read_shape(cfg))
    problems = [*find_broken_rules(cfg, method), *refused, *doubtful]
    assert problems and any(SENSELESS[experiment, hardware] in problem for problem in problems)


RUN_CLI = """
import ast, importlib.util, json, sys
from pathlib import Path
pairs = json.load(sys.stdin)
for module in {module for module, _ in pairs}:
    source = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0], "cli", f"{module}.py").read_text()
    tree = ast.parse(source)
    (train,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train"]
    train.body = ast.parse("REACHED.append(args)").body  # the one thing that is replaced
    code = compile(tree, module, "exec")
    for _, argv in [pair for pair in pairs if pair[0] == module]:
        sys.argv, reached = [module, *argv], []
        exec(code, {"__name__": "__main__", "REACHED": reached})
        assert len(reached) == 1 and reached[0].train.batch_size > 0
        print("ACCEPTED", module)
"""


@pytest.mark.slow
def test_the_engines_own_cli_accepts_every_sensible_pair(compose_pair, root):
    """OpenRLHF's CLI modules whole, imports and all, with only `train` replaced: half a minute."""
    modules = {"ppo": "train_ppo_ray", "sft": "train_sft"}
    pairs = []
    for pair in SENSIBLE:
        cfg, method = compose_pair(*pair)
        pairs.append((modules[method], build_argv(cfg, method)))
    environment = os.environ | {
        "PYTHONPATH": f"{root}/recipes/engine/startup:{root}",
        "MEDRLVR_CPU_ENGINE": "1",
    }
    command = [sys.executable, "-c", RUN_CLI]
    done = subprocess.run(
        command, input=json.dumps(pairs), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ACCEPTED") == len(pairs) > 40


DATA = [name for name in list_group("data") if name != "base"]


@pytest.mark.parametrize("data", DATA)
def test_each_data_set_composes(compose_config, data):
    assert compose_config("prep", f"data={data}").data.name


@pytest.mark.parametrize("root_name", ["rlvr", "sft"])
@pytest.mark.parametrize(
    "data",
    [name if name == "custom" else pytest.param(name, marks=pytest.mark.slow) for name in DATA],
)
def test_a_data_set_composes_with_each_recipe(compose_config, data, root_name):
    """The quick one has all of the keys, and a source that must be given."""
    assert compose_config(root_name, f"data={data}").data.name


def test_the_hacked_experiment_has_the_laptops_shape(compose_config):
    """Its base is made from the laptop's model, by commands that a new machine has not run yet."""
    hacked, laptop = (compose_config("rlvr", f"experiment={name}") for name in ("hacked", "laptop"))
    assert Shape(**hacked.model.shape) == read_shape(laptop)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_data_preparation_takes_each_experiment(compose_config, experiment):
    assert compose_config("prep", f"experiment={experiment}").model.path


@pytest.mark.parametrize("root_name", ["prep", "rlvr", "sft", "eval"])
def test_an_instruct_model_keeps_its_data_in_a_folder_of_its_own(compose_config, root_name):
    words = ["experiment=instruct"]
    if root_name == "sft":  # the command at the head of experiment/instruct.yaml
        words = ["experiment=sft/tuned", "model=qwen2.5-3b-instruct", "name=instruct"]
        words += ["data_dir=data/chat", "data.chat=true"]
    cfg = compose_config(root_name, *words)
    assert (cfg.data_dir, cfg.data.name, cfg.data.chat) == ("data/chat", "medqa", True)
    assert cfg.model.path.endswith("-Instruct")
    assert not cfg.openrlhf.data.get("apply_chat_template")  # rows hold the whole prompt
    assert compose_config(root_name, *words, "data_dir=x").data_dir == "x"
    cfg = compose_config(
        root_name, "experiment=sft/tuned" if root_name == "sft" else "experiment=tuned"
    )
    assert (cfg.data_dir, cfg.data.chat) == ("data", False)


def test_an_override_reaches_the_engine(compose_config):
    cfg = compose_config("rlvr", "openrlhf.actor.adam.lr=3e-7", "name=low", "seed=7")
    argv = build_argv(cfg, "ppo")
    assert argv[argv.index("--actor.adam.lr") + 1] == "3e-07"
    assert argv[argv.index("--train.seed") + 1] == "7"
    assert argv[argv.index("--ckpt.path") + 1].endswith("/runs/rlvr/low/checkpoints")


@pytest.mark.parametrize(
    "override", ["openrlhf.actor.adam.l=1", "openrlhf.actor.lr=1", "sed=3", "data=medqqa"]
)
def test_an_unknown_override_is_refused(compose_config, override):
    with pytest.raises(HydraException, match=override.split("=")[0].split(".")[-1]):
        compose_config("rlvr", override)


def test_a_wrong_type_fails_in_ours(compose_config):
    with pytest.raises(FlagError, match=r"openrlhf\.train\.batch_size: invalid int value: 'many'"):
        build_argv(compose_config("rlvr", "openrlhf.train.batch_size=many"), "ppo")


def test_what_the_engines_validation_refuses_is_told_in_its_words(compose_config):
    with pytest.raises(FlagError, match=r"partial_rollout_enable requires --train\.async_enable"):
        build_argv(compose_config("rlvr", "openrlhf.train.partial_rollout_enable=true"), "ppo")


def test_ppo_flags_in_the_sft_recipe_are_refused(compose_config):
    cfg = compose_config("sft", "experiment=laptop")
    with pytest.raises(ValueError, match=r"openrlhf\.actor\.adam\.lr"):
        to_argv(OmegaConf.to_container(cfg.openrlhf, resolve=True), build_parser("sft"))


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_file_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert next(line for line in lines if "@package" not in line).startswith("# ")
    for revision in re.findall(r"^\s*revision: (\S+)", path.read_text(), re.MULTILINE):
        # medqa_5: a branch whose rows are pinned instead, see tests/test_sources.py
        known = ("null", "???", "refs/convert/parquet")
        assert revision in known or re.fullmatch(r"[0-9a-f]{40}", revision.strip("'\""))


def test_the_facts_of_a_model_are_in_one_file():
    """Path, revision, licence and shape; an experiment only names the model."""
    for path in (CONFIGS / "model").glob("*.yaml"):
        model = OmegaConf.load(path)
        assert set(model) == {"id", "path", "revision", "licence", "shape"}
        assert set(model.licence) == {"name", "link", "note"}
        assert (model.revision is None) == path.stem.startswith("laptop")
    for path in (CONFIGS / "experiment").rglob("*.yaml"):
        assert not re.search(r"^  (path|revision|licence):", path.read_text(), re.MULTILINE), path


def test_every_option_of_the_reward_is_a_key(compose_config):
    assert compose_config("rlvr", "reward.options.max_words=9").reward.options.max_words == 9
    keys = OmegaConf.to_container(compose_config("rlvr").reward.options)
    assert keys == RewardOptions().model_dump()


@pytest.mark.parametrize(
    ("experiment", "hardware", "expected"),
    [
        ("tuned", "8x80gb", {"adam_offload": False, "micro": 4, "dtype": "fp32", "entropy": 0}),
        ("tuned", "1x80gb", {"adam_offload": True, "micro": 8, "dtype": None, "entropy": None}),
        ("lora", "1x80gb", {"adam_offload": False, "micro": 8, "dtype": "fp32", "entropy": None}),
        ("0.5B", "1x80gb", {"adam_offload": False, "micro": 8, "dtype": "fp32", "entropy": None}),
        ("laptop", "cpu", {"adam_offload": False, "micro": 16, "dtype": None, "entropy": 0}),
    ],
)
def test_what_fits_decides_offload_micro_batch_and_entropy(
    compose_config, experiment, hardware, expected
):
    flags = compose_config("rlvr", f"experiment={experiment}", f"hardware={hardware}").openrlhf
    found = {
        "adam_offload": flags.ds.adam_offload,
        "micro": flags.train.micro_batch_size,
        "dtype": flags.ds.grad_accum_dtype,
        "entropy": flags.actor.entropy_coef,
    }
    assert found == expected
    is_sampled_often = flags.rollout.n_samples_per_prompt > 1
    assert flags.vllm.enable_prefix_caching == is_sampled_often
