"""Functions named build, check, find, read, list change nothing: not the configuration, not the environment."""

import ast
import copy
import inspect
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recipes import launcher, model, preflight, process, reward, rules, run_folder

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recipes", "reward_server", "data_prep", "eval")
NAMES = ("build_", "check_", "find_", "read_", "list_", "count_", "estimate_", "describe_")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = (rules, run_folder, model, process, reward, preflight, launcher)


def list_functions(module) -> list:
    """The functions of a module that read a whole configuration and are named for reading."""
    found = [member for _, member in inspect.getmembers(module, inspect.isfunction)]
    return [
        function
        for function in found
        if function.__module__ == module.__name__
        and function.__name__.startswith(NAMES)
        and "cfg" in inspect.signature(function).parameters
    ]


@pytest.mark.parametrize("method", ["ppo", "sft"])
def test_a_frozen_configuration_passes_through_all_of_them(compose_config, bank, tmp_path, method):
    cfg = compose_config(
        "rlvr" if method == "ppo" else "sft", f"data_dir={bank}", f"run_dir={tmp_path / 'run'}"
    )
    OmegaConf.set_readonly(cfg, True)
    before, environment = copy.deepcopy(OmegaConf.to_container(cfg)), dict(os.environ)
    facts = preflight.gather_facts(cfg, method)
    arguments = {
        "cfg": cfg,
        "method": method,
        "facts": facts,
        "role": "actor",
        "data_files": {},
        "folder": tmp_path,
        "start_step": 0,
        "wandb_id": "id",
        "data": {},
    }
    called = Counter()
    for module in MODULES:
        for function in list_functions(module):
            wanted = inspect.signature(function).parameters
            # rules of PPO know flags that SFT does not have
            if method == "sft" and function.__name__ in (
                "check_placement",
                "check_traps",
                "count_ranks",
                "count_gpus",
                "count_samples",
            ):
                continue
            result = function(**{name: arguments[name] for name in wanted})
            list(result) if inspect.isgenerator(result) else result
            called[module.__name__] += 1
    assert called.total() > 20
    assert OmegaConf.to_container(cfg) == before and dict(os.environ) == environment
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_of_such_a_name_writes_into_the_configuration(path):
    """Read from the source, in all packages: no assignment to cfg…, to os.environ, and no update of either."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith(NAMES):
            continue
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AugAssign) else targets
            for target in targets:
                if isinstance(target, (ast.Attribute, ast.Subscript, ast.Name)):
                    text = ast.unparse(target)
                    assert not text.startswith(("cfg.", "cfg[", "os.environ")), f"{path}: {text}"
            if isinstance(node, ast.Call):
                text = f"{ast.unparse(node.func)}("
                assert not text.startswith(
                    ("OmegaConf.update(", "os.environ.update", "os.putenv")
                ), f"{path}: {text}"


def test_a_runs_configuration_enters_at_most_8_modules(compose_config, bank, tmp_path):
    """Counted while a whole dry run goes through: modules with a frame that holds the configuration itself."""
    cfg = compose_config("rlvr", f"data_dir={bank}", f"run_dir={tmp_path / 'run'}", "dry_run=true")
    entered = set()

    def note(frame, event, argument) -> None:
        name = frame.f_globals.get("__name__", "")
        # the frame is fresh at a call: only its arguments are there
        ours = event == "call" and name.startswith(PACKAGES)
        if ours and any(value is cfg for value in frame.f_locals.values()):
            entered.add(name)

    sys.setprofile(note)
    try:
        launcher.run_recipe(cfg, "ppo")
    finally:
        sys.setprofile(None)
    sizes = {"recipes.memory", "recipes.disk", "recipes.cost", "recipes.plan"}  # of what fits
    assert {"recipes.launcher", "recipes.preflight"} <= entered
    assert len(entered - sizes) + bool(entered & sizes) <= 8, entered
