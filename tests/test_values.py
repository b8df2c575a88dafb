"""Values, names and places with which no run can start or learn are refused, all of them at once."""

import random
import sys

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.command import explain_overrides
from data_prep.errors import UserError
from recipes import rules
from recipes.launcher import check_recipe
from recipes.preflight import find_problems
from recipes.rules import find_wrong_settings


@pytest.fixture
def wrong(compose_config, tmp_path):
    """wrong(root name, *overrides): what is refused of the laptop's recipe."""

    def find(root_name: str, *overrides: str) -> list[str]:
        cfg = compose_config(root_name, f"run_dir={tmp_path}/run", *overrides)
        return find_wrong_settings(cfg, "ppo" if root_name == "rlvr" else "sft")

    return find


def test_the_recipes_as_they_are_have_no_wrong_setting(wrong):
    assert wrong("rlvr") == wrong("sft") == wrong("rlvr", "experiment=paper") == []


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("openrlhf.rollout.temperature=0", "rollout.temperature=0 must be above 0"),
        ("openrlhf.rollout.top_p=0", "top_p=0 must be above 0"),
        ("openrlhf.rollout.top_p=1.5", "top_p=1.5 must be 1 at most"),
        ("openrlhf.rollout.max_new_tokens=0", "max_new_tokens=0 must be 1 or more"),
        ("openrlhf.rollout.n_samples_per_prompt=0", "n_samples_per_prompt=0"),
        ("openrlhf.rollout.batch_size=0", "rollout.batch_size=0 must be 1 or more"),
        ("openrlhf.train.micro_batch_size=0", "micro_batch_size=0"),
        ("openrlhf.train.num_episodes=0", "num_episodes=0 must be 1 or more"),
        ("openrlhf.train.max_epochs=0", "max_epochs=0"),
        ("openrlhf.actor.adam.lr=0", "actor.adam.lr=0 must be above 0"),
        ("openrlhf.actor.adam.lr=-1", "actor.adam.lr=-1"),
        ("openrlhf.actor.adam.lr=nan", "actor.adam.lr=nan"),
        ("openrlhf.actor.adam.lr=inf", "actor.adam.lr=inf must be above 0, and finite"),
        ("openrlhf.critic.adam.lr=0", "critic.adam.lr=0"),
        ("openrlhf.algo.kl.init_coef=-0.1", "kl.init_coef=-0.1 must be 0 or more"),
        ("openrlhf.data.max_samples=10", "less than one batch of 64: no step"),
        ("openrlhf.data.max_samples=0", "max_samples=0"),
        ("openrlhf.eval.n_samples_per_prompt=4", "4 greedy samples are all the same"),
        ("seed=null", "seed=null must be a whole number, 0 or more"),
        ("seed=-1", "seed=-1"),
        ("seed=1.5", "seed=1.5"),
        ("reward.mode=Strict", "reward.mode=Strict is none of paper, strict"),
        ("reward.hook=http", "reward.hook=http is none of agent, function, server"),
        ("reward.control=coins", "reward.control=coins is none of null, coin,"),
        ("resume=maybe", "resume=maybe is none of true, false, auto"),
        ("dry_run=1", "dry_run=1 is none of true, false"),
        ("model.trust_remote_code=yes_please", "trust_remote_code=yes_please"),
        ("hardware.gpus_per_node=two", "gpus_per_node=two must be a whole number, 1 or more"),
        ("hardware.nodes=0", "hardware.nodes=0"),
    ],
)
def test_what_cannot_train_is_refused_by_key_and_value(wrong, override, part):
    (line,) = wrong("rlvr", override)
    assert part in line


@pytest.mark.parametrize(
    ("override", "part"),
    [
        # in argv all is text, where these would be the number 3, NaN, 1 and the engine's default
        ("openrlhf.actor.adam.lr=[0.001]", "adam.lr=[0.001] must be a number"),
        ("openrlhf.rollout.temperature='nan'", "temperature=nan must be a number"),
        ("openrlhf.rollout.temperature=true", "temperature=true must be a number"),
        ("openrlhf.actor.adam.lr=null", "adam.lr=null must be a number"),
        ("~openrlhf.actor.adam.lr", "adam.lr=null must be a number"),
        ("openrlhf.rollout.batch_size='64'", "batch_size=64 must be a whole number"),
        ("openrlhf.rollout.batch_size=64.0", "batch_size=64.0 must be a whole number"),
        ("openrlhf.data.max_len=null", "max_len=null must be a whole number"),
        ("openrlhf.train.colocate_all=1", "colocate_all=1 must be true or false"),
        ("openrlhf.actor.adam.betas=[0.9,x]", "betas=[0.9, 'x'] must be a number"),
        ("openrlhf.data.input_key=[a]", "input_key=['a'] must be text"),
        # NaN and infinity anywhere, and numbers out of what they mean
        ("openrlhf.actor.max_norm=nan", "max_norm=nan must be 0 or more, and finite"),
        ("openrlhf.algo.advantage.gamma=2", "gamma=2 must be 1 at most"),
        ("openrlhf.algo.advantage.lambd=-3", "lambd=-3 must be 0 or more"),
        ("openrlhf.actor.eps_clip_low_high=[0.2,nan]", "[0.2, nan] must be 0 or more"),
        ("openrlhf.actor.adam.betas=[2,2]", "betas=[2, 2] must be 1 at most"),
        ("openrlhf.critic.adam.lr=1000", "adam.lr=1000 must be 1 at most"),
        ("openrlhf.actor.lr_warmup_ratio=2", "lr_warmup_ratio=2 must be 1 at most"),
        ("openrlhf.actor.lr_scheduler=cosin", "lr_scheduler=cosin is none of cosine_with_min_lr"),
        ("openrlhf.ds.zero_stage=7", "zero_stage=7 must be 3 at most"),
        ("openrlhf.ds.lora.rank=-4", "lora.rank=-4 must be 0 or more"),
        ("openrlhf.logger.logging_steps=0", "logging_steps=0 must be 1 or more"),
        ("openrlhf.eval.steps=0", "eval.steps=0 divides by zero at the first step: -1"),
        ("openrlhf.ckpt.save_steps=-7", "save_steps=-7 must be -1 or more"),
        ("openrlhf.train.seed=-5", "train.seed=-5 must be 0 or more"),
        ("openrlhf.reward.overlong_buffer_len=nan", "buffer_len=nan must be finite (below 1e+15)"),
        ("openrlhf.rollout.max_new_tokens=1024", "leaves no room for a prompt in openrlhf.data."),
        ("seed=4294967296", "seed=4294967296 must be a whole number, 0 or more, 2147483647 at"),
        ("reward.patience=0", "reward.patience=0 must be above 0"),
        ("reward.options.correct=nan", "reward.options.correct=nan must be finite"),
        ("plan.prompt_tokens=-5", "plan.prompt_tokens=-5 must be above 0"),
        ("plan.rows.train=x", "plan.rows.train=x must be a whole number, 0 or more"),
        # by the key that was given, not by the flag that refers to it
        ("hardware.vllm_memory=nan", "hardware.vllm_memory=nan must be above 0"),
        ("hardware.gpus_per_node=1e3", "hardware.gpus_per_node=1000.0 must be a whole number, 1"),
        ("hardware.training_gpus_per_node=0", "hardware.training_gpus_per_node=0"),
        ("hardware.async=null", "hardware.async=null is none of true, false"),
        ("hardware.name=../x", "hardware.name=../x is no name"),
        ("name=null", "name=null is no name"),
        ("name=true", "name=true is no name"),
        ("run_dir='~/run'", "run_dir=~/run is no path: printable text"),
        ("data_dir=[data]", "is no path"),
    ],
)
def test_a_value_of_another_kind_or_out_of_its_range(wrong, override, part):
    found = wrong("rlvr", override)
    assert any(part in line for line in found), found
    (key,) = {line.partition("=")[0] for line in found}
    assert len(found) == 1 or key == "data_dir"


def test_each_wrong_value_is_one_line_and_all_are_there(compose_config, tmp_path):
    words = ["openrlhf.actor.adam.lr='x'", "openrlhf.rollout.batch_size=1.5", "seed=1e3"]
    argv, problems = check_recipe(compose_config("rlvr", f"run_dir={tmp_path}/run", *words), "ppo")
    keys = [line.partition("=")[0] for line in problems]
    assert argv == []
    assert sorted(keys) == ["openrlhf.actor.adam.lr", "openrlhf.rollout.batch_size", "seed"]


def test_a_gpu_has_a_size(wrong):
    found = wrong("rlvr", "hardware=cpu", "hardware.cuda=true")
    assert "hardware.gpu_memory_gb=null must be the GiB of a GPU: choose hardware=8x80gb" in found


@pytest.mark.parametrize("key", ["run_dir", "data_dir"])
def test_a_loop_of_links_is_named(compose_config, tmp_path, key):
    (tmp_path / "loop").symlink_to("loop")
    words = [f"run_dir={tmp_path}/run", f"{key}={tmp_path}/loop"]
    argv, problems = check_recipe(compose_config("rlvr", *words), "ppo")
    assert argv == [] and any(f"{tmp_path}/loop" in line for line in problems)


@pytest.mark.parametrize(
    "words",
    [
        ["openrlhf.train.agent_func_path=''"],
        ["openrlhf.eval.dataset=5"],
    ],
)
def test_what_the_engine_stumbles_over_is_a_line(compose_config, tmp_path, words):
    cfg = compose_config("rlvr", f"run_dir={tmp_path}/run", *words)
    argv, problems = check_recipe(cfg, "ppo")
    assert argv == [] and problems and all("\n" not in line for line in problems)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("openrlhf.adam.lr=0", "openrlhf.adam.lr=0 must be above 0"),
        ("openrlhf.train.max_epochs=0", "max_epochs=0"),
        ("openrlhf.data.max_samples=63", "less than one batch of 64"),
        ("openrlhf.train.batch_size=0", "batch_size=0"),
        ("seed=null", "seed=null"),
        ("resume=maybe", "resume=maybe"),
    ],
)
def test_sft_refuses_the_same(wrong, override, part):
    (line,) = wrong("sft", override)
    assert part in line


def test_a_critic_that_is_not_there_has_no_rate(wrong):
    grpo = ("openrlhf.algo.advantage.estimator=group_norm", "openrlhf.critic.adam.lr=0")
    assert wrong("rlvr", *grpo) == []


def test_all_are_told_at_once(compose_config, tmp_path):
    words = ["openrlhf.rollout.temperature=0", "seed=null", "name=a/b", "reward.mode=Strict"]
    cfg = compose_config("rlvr", f"run_dir={tmp_path}/run", *words)
    assert len(find_problems(cfg, "ppo")) == 4


@pytest.mark.parametrize(
    "name",
    ["..", ".", "a/b", "../../x", "a b", "a;b", "$(id)", "`id`", "x" * 101, "a\nb", "", "-x"],
)
def test_a_name_stays_in_its_folder(compose_config, tmp_path, name):
    cfg = compose_config("rlvr", f"run_dir={tmp_path}/run")
    for key in ("name", "data.name"):
        changed = cfg.copy()
        group = changed if key == "name" else changed.data
        group.name = name
        (line,) = find_wrong_settings(changed, "ppo")
        assert line.startswith(f"{key}=") and "\n" not in line


@pytest.mark.parametrize("name", ["low-lr", "0.5B", "paper_strict", "étude", "a.b+c=d@e", "5"])
def test_a_good_name_is_taken(compose_config, tmp_path, name):
    cfg = compose_config("rlvr", f"run_dir={tmp_path}/run")
    cfg.name = name
    assert find_wrong_settings(cfg, "ppo") == []


@pytest.mark.parametrize("key", ["run_dir", "data_dir", "model.path"])
@pytest.mark.parametrize("value", ["x" * 300, "a\0b"])
def test_a_path_that_is_none(compose_config, tmp_path, key, value):
    cfg = compose_config("rlvr", f"run_dir={tmp_path}/run")
    OmegaConf.update(cfg, key, value)
    (line,) = find_wrong_settings(cfg, "ppo")
    assert line.startswith(f"{key}=") and "is no path" in line


@pytest.mark.parametrize("folder", ["with space", "a:b", "a$b", "it's", "(x)", "a;b"])
def test_ray_cannot_start_from_such_a_folder(wrong, monkeypatch, folder):
    monkeypatch.setattr(sys, "executable", f"/home/{folder}/.venv/bin/python")
    (line,) = wrong("rlvr")
    assert "Ray cannot start from" in line and folder in line.replace("\\'", "'")
    assert wrong("sft") == []


def test_a_long_tmpdir_is_named_before_ray_stumbles(wrong, monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    (line,) = wrong("rlvr")
    assert str(folder) in line and "export TMPDIR=/tmp" in line
    assert wrong("sft") == []
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert wrong("rlvr") == []


def test_a_folder_that_cannot_be_written(wrong, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = wrong("rlvr", f"run_dir={tmp_path}/file/run")
    assert "cannot be written" in line
    monkeypatch.setattr(rules.os, "access", lambda *_: False)
    (line,) = wrong("sft")
    assert "cannot be written; set run_dir=FOLDER" in line


HOSTILE = [
    *list("ab/..\\ ;|&$(){}[]<>`'\"#=,:*?~!%^\n\t\x00é\u202e�😀-+@0"),
    "$(id)",
    "../",
    "${x}",
    "null",
]


@pytest.mark.slow
def test_2000_hostile_names_and_paths_are_lines_and_nothing_else(compose_config, tmp_path, bank):
    """No exception, no line break, nothing outside the run's folder: whatever stands in a name, a path or a word."""
    draw = random.Random(20)
    before = sorted(tmp_path.rglob("*"))
    cfg = compose_config("rlvr", f"run_dir={tmp_path}/run", f"data_dir={bank}")
    for _ in range(2000):
        text = "".join(draw.choices(HOSTILE, k=draw.choice([1, 2, 5, 30, 400])))
        key = draw.choice(["name", "data.name", "run_dir", "data_dir", "model.path", "reward.mode"])
        changed = cfg.copy()
        try:
            OmegaConf.update(changed, key, text)
            problems = find_problems(changed, "ppo")
        except OmegaConfBaseException:  # ${…} is its own, and one line at the door
            continue
        assert all("\n" not in line for line in problems), problems
        # composing takes 0.3 s, so only one in twenty
        if draw.random() < 0.05:
            lines = explain_overrides("rlvr", [f"{key}={text}"])
            assert all("\n" not in line for line in lines), lines
    assert sorted(tmp_path.rglob("*")) == before


ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x" * 3000,
    "half \ud83d",
    "a\0b",
]
ODD += [[], [1], {}, {"a": {"b": []}}, "../../x", "x"]


def list_keys(config, prefix: str = "") -> list[str]:
    """Every key of a configuration, the nested ones with dots."""
    keys = []
    for key in config:
        keys.append(prefix + key)
        if OmegaConf.is_dict(config._get_node(key)):
            keys += list_keys(config._get_node(key), f"{prefix}{key}.")
    return keys


def find_kind(value) -> type:
    """What the door of a command compares: a mapping, a list, text, a number, true or false, null."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return float if type(plain) is int else type(plain)


@pytest.mark.slow
@pytest.mark.parametrize("root_name", ["rlvr", "sft"])
def test_1000_odd_values_of_any_key_are_lines_or_named_by_the_door(
    compose_config, tmp_path, bank, root_name
):
    """A value of the kind of its default is never a traceback; of another kind the door names it (test_command)."""
    draw, refused, failed = random.Random(root_name), 0, 0
    whole = compose_config(root_name, "hardware=cpu", f"run_dir={tmp_path}/run", f"data_dir={bank}")
    keys = list_keys(whole)
    for _ in range(1000):
        key, value, cfg = draw.choice(keys), draw.choice(ODD), whole.copy()
        default = OmegaConf.select(whole, key)
        try:
            OmegaConf.update(cfg, key, value, force_add=True)
            problems = check_recipe(cfg, "ppo" if root_name == "rlvr" else "sft")[1]
        except (UserError, OmegaConfBaseException) as error:
            problems = [str(error).splitlines()[0]]
        except Exception:
            assert find_kind(value) != find_kind(default), (key, value)
            failed += 1
            continue
        refused += bool(problems)
        assert all("\n" not in line for line in problems), problems
    assert refused > 200 and failed < 200
    assert list(tmp_path.iterdir()) == []
