"""OpenRLHF's flags: our YAML has each with the engine's default, and argv says only what differs."""

import math

import pytest
import yaml

from dev.engine_flags import CONFIG_FOLDER, render_yaml
from recipes.flags import CLI_MODULES, FlagError, build_parser, flatten, group_actions, to_argv


@pytest.fixture(params=CLI_MODULES)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def load_flags(method: str) -> dict:
    return yaml.safe_load((CONFIG_FOLDER / f"{method}.yaml").read_text())


def test_yaml_is_what_the_installed_engine_has(method):
    assert (CONFIG_FOLDER / f"{method}.yaml").read_text() == render_yaml(method), (
        "run `python -m dev.engine_flags`"
    )


def test_every_flag_is_there_once(method):
    flags = flatten(load_flags(method))
    assert set(flags) == set(group_actions(build_parser(method)))
    assert len(flags) == {"ppo": 165, "sft": 76}[method]


def test_defaults_need_no_argv(method):
    assert to_argv(load_flags(method), build_parser(method)) == []


def test_argv_is_read_back_by_the_engines_parser():
    parser = build_parser("ppo")
    flags = load_flags("ppo")
    flags["actor"]["adam"] |= {"lr": 3e-7, "betas": [0.9, 0.999]}
    flags["train"]["colocate_all"] = True
    flags["actor"]["muon"]["nesterov"] = False
    flags["ckpt"]["max_mem"] = math.inf
    argv = to_argv(flags, parser)
    assert argv == [
        *("--train.colocate_all", "--actor.muon.no_nesterov"),
        *("--actor.adam.lr", "3e-07", "--actor.adam.betas", "0.9", "0.999"),
    ]
    read = vars(parser.parse_args(argv))
    assert (
        read["actor.adam.lr"] == 3e-7
        and read["train.colocate_all"]
        and not read["actor.muon.nesterov"]
    )


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ("actor", "adam", "l"),
            1e-6,
            "not flags of OpenRLHF: openrlhf.actor.adam.l",
        ),  # argparse would take it as lr
        (("actor", "adam", "lr"), "fast", "openrlhf.actor.adam.lr: invalid float value: 'fast'"),
        (("actor", "adam", "betas"), [0.9], "openrlhf.actor.adam.betas: expected 2 arguments"),
        (("ds", "param_dtype"), "fp8", "openrlhf.ds.param_dtype: invalid choice: 'fp8'"),
        (("train", "colocate_all"), "yes", "unrecognized arguments: yes"),
    ],
)
def test_what_the_engine_would_refuse_fails_here(keys, value, message):
    flags = load_flags("ppo")
    node = flags
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    with pytest.raises(FlagError, match=message.replace(".", r"\.")):
        to_argv(flags, build_parser("ppo"))
