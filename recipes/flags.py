"""Turn OpenRLHF's command line into configuration and back, by the engine's own parser.

The lines that build the parser are taken from the installed OpenRLHF's source and run alone: flags,
types and defaults are the engine's, and torch is not imported. recipes/configs/openrlhf/*.yaml have
every flag (`python -m dev.engine_flags`), so Hydra refuses others; only differences go into argv.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import runpy
from datetime import datetime
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

CLI_MODULES = {"ppo": "train_ppo_ray", "sft": "train_sft"}


class FlagError(ValueError):
    """A flag or a value that OpenRLHF's parser refuses."""


class _Parser(argparse.ArgumentParser):
    """The engine's parser, but no abbreviations, and an error instead of an exit."""

    def __init__(self) -> None:
        super().__init__(prog="openrlhf", allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise FlagError(message.replace("argument --", "openrlhf."))


def find_engine() -> Path:
    """Find OpenRLHF's folder. Raises ModuleNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("openrlhf is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0])


@cache
def read_main(method: str) -> tuple[CodeType, CodeType]:
    """Compile what the engine's CLI does under `__main__`, not imported: its parser, its checks."""
    source = (find_engine() / "cli" / f"{CLI_MODULES[method]}.py").read_text(encoding="utf-8")
    nodes = next(node for node in ast.parse(source).body if isinstance(node, ast.If)).body
    lines = [ast.unparse(node) for node in nodes]
    end = next(i for i, line in enumerate(lines) if "parse_args" in line)
    start = lines.index("args = hierarchize(args)") + 1
    # the first is `parser = ArgumentParser()`, the last `train(args)`; use_ms imports ModelScope
    checks = [nodes[i] for i in range(start, len(nodes) - 1) if "use_ms" not in lines[i]]
    parts = [ast.Module(part, []) for part in (nodes[1:end], checks)]
    parser, validation = (compile(part, "openrlhf/cli", "exec") for part in parts)
    return parser, validation


@cache
def build_parser(method: str) -> argparse.ArgumentParser:
    """Build OpenRLHF's own argument parser for `ppo` or `sft`, without importing OpenRLHF."""
    namespace: dict[str, Any] = {"argparse": argparse, "datetime": datetime, "parser": _Parser()}
    exec(read_main(method)[0], namespace)
    return namespace["parser"]


def validate(argv: list[str], method: str) -> str:
    """Run the engine's own validation on argv: the lines after `parse_args()` of its CLI.

    Returns what it prints: it changes settings with no more than a warning. Raises FlagError.
    """
    # stdlib only
    hierarchize = runpy.run_path(str(find_engine() / "utils" / "config.py"))["hierarchize"]
    args = hierarchize(build_parser(method).parse_args(argv))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(read_main(method)[1], {"args": args})
    except (AssertionError, TypeError, ArithmeticError) as error:  # `None > 0`, `1 // 0`
        raise FlagError(f"OpenRLHF refuses: {error}") from error
    return printed.getvalue()


def to_argv(config: dict[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Build the engine's argv of a config, nested or flat, without what equals its defaults.

    true → flag, null → nothing, list → values. Raises FlagError for what the parser refuses.
    """
    given = flatten(config)
    argv: list[str] = []
    for key, actions in group_actions(parser).items():
        value, default = given.pop(key, None), actions[0].default
        if value is None or value == (list(default) if isinstance(default, tuple) else default):
            continue
        if isinstance(value, bool):
            # --flag and --no-flag, where the engine has both
            wanted = [action for action in actions if action.const is value]
            if not wanted:
                shown = f"openrlhf.{key}={str(value).lower()}"
                raise FlagError(f"{shown} cannot be said on OpenRLHF's command line")
            argv.append(wanted[0].option_strings[0])
        else:
            values = value if isinstance(value, list) else [value]
            argv += [actions[0].option_strings[0], *map(str, values)]
    if given:
        listed = ", ".join(f"openrlhf.{key}" for key in sorted(given))
        raise FlagError(f"not flags of OpenRLHF: {listed}")
    # the engine's own parser checks types and choices
    parser.parse_args(argv)
    return argv


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten: {"actor": {"adam": {"lr": 1}}} → {"actor.adam.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def group_actions(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    """Group the parser's actions by destination: a store_true flag may have a negative twin."""
    groups: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        groups.setdefault(action.dest, []).append(action)
    return groups
