"""OpenRLHF's command line as configuration: its own parser, its flags as YAML, and YAML as its argv.

The parser is the engine's: the lines that build it are taken from the installed OpenRLHF's source and run alone, so
that flags, types, choices and defaults are always the engine's, and torch is not imported.

`python -m recipes.flags` writes recipes/configs/openrlhf/{ppo,sft}.yaml, every flag with its default and help. A config
has therefore each of the engine's keys, Hydra refuses any other, and only what differs from a default goes into argv.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import textwrap
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

CLI_MODULES = {"ppo": "train_ppo_ray", "sft": "train_sft"}
CONFIG_FOLDER = Path(__file__).parent / "configs" / "openrlhf"
# Defaults that change with the clock or stand for "not given".
UNSTABLE_DEFAULTS = ("logger.wandb.run_name",)


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
    """The statements under `if __name__ == "__main__":` of the engine's CLI module, which is not imported.

    Raises ModuleNotFoundError where OpenRLHF is not installed.
    """
    source = (find_engine() / "cli" / f"{CLI_MODULES[method]}.py").read_text(encoding="utf-8")
    return next(node for node in ast.parse(source).body if isinstance(node, ast.If)).body


def find_engine() -> Path:
    """OpenRLHF's folder. Raises ModuleNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("openrlhf is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0])


def build_parser(method: str) -> argparse.ArgumentParser:
    """OpenRLHF's own argument parser for `ppo` or `sft`, without importing OpenRLHF."""
    namespace: dict[str, Any] = {"argparse": argparse, "datetime": datetime, "parser": _Parser()}
    for statement in read_main(method)[1:]:  # the first is `parser = argparse.ArgumentParser()`
        if "parse_args" in ast.unparse(statement):
            break
        run_statement(statement, namespace)
    return namespace["parser"]


def validate(argv: list[str], method: str) -> str:
    """Run the engine's own validation on argv: what stands between `parse_args()` and `train(args)` in its CLI.

    Returns what the engine prints meanwhile: it changes settings with no more than a warning. Raises FlagError with
    the engine's words where it refuses.
    """
    spec = importlib.util.spec_from_file_location(
        "engine_config", find_engine() / "utils" / "config.py"
    )
    assert spec and spec.loader
    config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config)  # stdlib only
    args = config.hierarchize(build_parser(method).parse_args(argv))
    statements = read_main(method)
    start = (
        next(
            i
            for i, node in enumerate(statements)
            if ast.unparse(node) == "args = hierarchize(args)"
        )
        + 1
    )
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
    """Run one of the engine's statements as it stands."""
    exec(compile(ast.Module([statement], []), "openrlhf/cli", "exec"), namespace)


def to_argv(config: dict[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """The engine's argv for a nested config: true → flag, null → nothing, list → several values.

    Values equal to the engine's default are left out. Raises FlagError for a key or a value the parser refuses.
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
    """{"actor": {"adam": {"lr": 1}}} → {"actor.adam.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def group_actions(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    """The parser's actions by destination: one each, two where a store_true flag has a negative twin."""
    groups: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        groups.setdefault(action.dest, []).append(action)
    return groups


def render_yaml(method: str) -> str:
    """The YAML file of one method: all flags, nested, in the engine's order, with default and help."""
    tree: dict[str, Any] = {}
    for key, actions in group_actions(build_parser(method)).items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = actions[0]
    head = f"# Every flag of OpenRLHF's {CLI_MODULES[method]} with its default, written by `python -m recipes.flags`.\n"
    return head + "\n".join(_render_node(tree, "")) + "\n"


def _render_node(node: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in node.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_render_node(value, indent + "  ")]
            continue
        default = None if value.dest in UNSTABLE_DEFAULTS else value.default
        default = list(default) if isinstance(default, tuple) else default
        if isinstance(default, float) and abs(default) < 1e-3 and default:
            text = f"{default:.1e}"  # YAML 1.1 reads 1e-06 as a string
        else:
            text = (
                yaml.safe_dump(default, default_flow_style=True)
                .removesuffix("\n")
                .removesuffix("\n...")
            )
        help_text = " ".join((value.help or "").split())
        notes = [help_text] if help_text else []
        if value.choices:
            notes.append("one of " + ", ".join(map(str, value.choices)))
        comment = f"  # {textwrap.shorten('; '.join(notes), 90)}" if notes else ""
        lines.append(f"{indent}{key}: {text}{comment}")
    return lines


if __name__ == "__main__":
    CONFIG_FOLDER.mkdir(exist_ok=True)
    for name in CLI_MODULES:
        (CONFIG_FOLDER / f"{name}.yaml").write_text(render_yaml(name))
        print(CONFIG_FOLDER / f"{name}.yaml")
