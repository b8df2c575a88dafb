"""Turn OpenRLHF's command line into configuration and back, by the engine's own parser.

The parser is the engine's: the lines that build it are taken from the installed OpenRLHF's source
and run alone, so that flags, types, choices and defaults are always the engine's, and torch is not
imported.

recipes/configs/openrlhf/{ppo,sft}.yaml have every flag with its default and help, written by
`python -m dev.engine_flags`. Hydra refuses any other key, and only what differs goes into argv.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
from datetime import datetime
from functools import cache
from pathlib import Path
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


@cache
def read_main(method: str) -> list[ast.stmt]:
    """Read the statements of the engine's CLI module under `__main__`, without importing it.

    Raises ModuleNotFoundError where OpenRLHF is not installed.
    """
    source = (find_engine() / "cli" / f"{CLI_MODULES[method]}.py").read_text(encoding="utf-8")
    return next(node for node in ast.parse(source).body if isinstance(node, ast.If)).body


def find_engine() -> Path:
    """Find OpenRLHF's folder. Raises ModuleNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("openrlhf is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0])


def build_parser(method: str) -> argparse.ArgumentParser:
    """Build OpenRLHF's own argument parser for `ppo` or `sft`, without importing OpenRLHF."""
    namespace: dict[str, Any] = {"argparse": argparse, "datetime": datetime, "parser": _Parser()}
    for statement in read_main(method)[1:]:  # the first is `parser = argparse.ArgumentParser()`
        if "parse_args" in ast.unparse(statement):
            break
        run_statement(statement, namespace)
    return namespace["parser"]


def validate(argv: list[str], method: str) -> str:
    """Run the engine's own validation on argv: the lines after `parse_args()` of its CLI.

    Returns what the engine prints meanwhile: it changes settings with no more than a warning.
    Raises FlagError with the engine's words where it refuses.
    """
    path = find_engine() / "utils" / "config.py"
    spec = importlib.util.spec_from_file_location("engine_config", path)
    assert spec and spec.loader
    config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config)  # stdlib only
    args = config.hierarchize(build_parser(method).parse_args(argv))
    statements = read_main(method)
    lines = [ast.unparse(node) for node in statements]
    start = lines.index("args = hierarchize(args)") + 1
    printed, namespace = io.StringIO(), {"args": args}
    try:
        with contextlib.redirect_stdout(printed):
            for statement in statements[start:-1]:  # the last is `train(args)`
                if "use_ms" not in ast.unparse(statement):  # ModelScope would be imported
                    run_statement(statement, namespace)
    except (AssertionError, TypeError) as error:  # `None > 0` where it forgets a default
        raise FlagError(f"OpenRLHF refuses: {error}") from error
    return printed.getvalue()


def run_statement(statement: ast.stmt, namespace: dict[str, Any]) -> None:
    """Run one of the engine's statements as it is."""
    exec(compile(ast.Module([statement], []), "openrlhf/cli", "exec"), namespace)


def to_argv(config: dict[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Build the engine's argv of a nested config: true → flag, null → nothing, list → values.

    Values equal to the engine's default are left out. Raises FlagError for a key or a value the
    parser refuses.
    """
    given = flatten(config)
    argv: list[str] = []
    for key, actions in group_actions(parser).items():
        value = given.pop(key, None)
        default = actions[0].default
        if value is None or value == (list(default) if isinstance(default, tuple) else default):
            continue
        if isinstance(value, bool):
            wanted = [action for action in actions if action.const is value]
            if not wanted:
                raise FlagError(
                    f"openrlhf.{key}={str(value).lower()} cannot be said on OpenRLHF's command line"
                )
            argv.append(wanted[0].option_strings[0])
        else:
            values = value if isinstance(value, list) else [value]
            argv += [actions[0].option_strings[0], *(str(item) for item in values)]
    if given:
        raise FlagError(
            "not flags of OpenRLHF: " + ", ".join(f"openrlhf.{key}" for key in sorted(given))
        )
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
