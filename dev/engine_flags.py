"""Write recipes/configs/openrlhf/{ppo,sft}.yaml: every flag of the installed OpenRLHF, with default and help.

python -m dev.engine_flags      after the engine's version has changed
"""

import textwrap
from pathlib import Path
from typing import Any

import yaml

from recipes.flags import CLI_MODULES, build_parser, group_actions

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "configs" / "openrlhf"
# Defaults that change with the clock, or that mean "not given".
UNSTABLE_DEFAULTS = ("logger.wandb.run_name",)


def render_yaml(method: str) -> str:
    """Render one method's YAML file: all flags in the engine's order, default and help."""
    tree: dict[str, Any] = {}
    for key, actions in group_actions(build_parser(method)).items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = actions[0]
    head = (
        f"# Every flag of OpenRLHF's {CLI_MODULES[method]} with its default, "
        "written by `python -m dev.engine_flags`.\n"
    )
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
            text = yaml.safe_dump(default, default_flow_style=True).removesuffix("\n")
            text = text.removesuffix("\n...")
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
