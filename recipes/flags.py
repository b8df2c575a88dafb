"""OpenRLHF's command line as configuration: its own parser, its flags as YAML, and YAML as its argv.

The parser is the engine's: the lines that build it are taken from the installed OpenRLHF's source and run alone, so
that flags, types, choices and defaults are always the engine's, and torch is not imported.

`python -m recipes.flags` writes recipes/configs/openrlhf/{ppo,sft}.yaml, every flag with its default and help. A config
has therefore each of the engine's keys, Hydra refuses any other, and only what differs from a default goes into argv.
"""

import argparse
import ast
import importlib.util
import textwrap
from datetime import datetime
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


def build_parser(method: str) -> argparse.ArgumentParser:
    """OpenRLHF's own argument parser for `ppo` or `sft`, without importing OpenRLHF.

    Raises ModuleNotFoundError where OpenRLHF is not installed.
    """
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("openrlhf is not installed: run `make setup`")
    source = Path(spec.submodule_search_locations[0], "cli", f"{CLI_MODULES[method]}.py").read_text()
    main = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    namespace: dict[str, Any] = {"argparse": argparse, "datetime": datetime, "parser": _Parser()}
    for statement in main.body[1:]:  # the first is `parser = argparse.ArgumentParser()`
        if "parse_args" in ast.unparse(statement):
            break
        exec(compile(ast.Module([statement], []), source, "exec"), namespace)
    return namespace["parser"]


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
                raise FlagError(f"openrlhf.{key}={str(value).lower()} cannot be said on OpenRLHF's command line")
            argv.append(wanted[0].option_strings[0])
        else:
            values = value if isinstance(value, list) else [value]
            argv += [actions[0].option_strings[0], *(str(item) for item in values)]
    if given:
        raise FlagError("not flags of OpenRLHF: " + ", ".join(f"openrlhf.{key}" for key in sorted(given)))
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
            text = yaml.safe_dump(default, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
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
