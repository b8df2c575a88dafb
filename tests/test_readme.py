"""Each command that README, docs and YAML headers name exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES += sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
TARGET = re.compile(r"(?:^|[`#] *|&& )make ([a-z][a-z0-9-]*)", re.MULTILINE)
MODULE = re.compile(r"python -m ((?:recipes|eval|data_prep|reward_server)\.[\w.]+)")


def find_commands(pattern: re.Pattern) -> list[tuple[str, str]]:
    found = {(path.name, match) for path in SOURCES for match in pattern.findall(path.read_text())}
    return sorted(found)


def test_there_are_commands_to_check():
    assert len(find_commands(TARGET)) > 10 and len(find_commands(MODULE)) > 2


@pytest.mark.parametrize(("source", "target"), find_commands(TARGET))
def test_the_make_target_exists(source, target):
    text = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", text, re.MULTILINE), f"{source} says `make {target}`"
    assert re.search(rf"^\.PHONY:.*\b{target}\b", text, re.MULTILINE)


@pytest.mark.parametrize(("source", "module"), find_commands(MODULE))
def test_the_module_exists(source, module):
    path = ROOT / Path(*module.rstrip(".").split("."))
    assert path.with_suffix(".py").is_file(), f"{source} says `python -m {module}`"


def test_the_makefile_forwards_overrides_to_hydra():
    command = [
        "make",
        "-n",
        "rlvr",
        "openrlhf.actor.adam.lr=1e-6",
        "+x=[1,2]",
        "PYTHON=python3",
        "EXPERIMENT=laptop",
    ]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    (line,) = [line for line in out.splitlines() if "recipes.rlvr" in line]
    assert "openrlhf.actor.adam.lr=1e-6" in line and "+x=[1,2]" in line
    assert "PYTHON=" not in line and "EXPERIMENT=" not in line


def test_every_folder_of_the_tree_in_the_readme_exists():
    tree = (ROOT / "README.md").read_text().split("## Layout")[1].split("```")[1]
    names = [line.split()[0] for line in tree.strip().splitlines()]
    assert len(names) >= 8 and all((ROOT / name).exists() for name in names)
    assert all((ROOT / doc).exists() for doc in re.findall(r"docs/\w+\.md", tree))


def test_the_numbers_of_the_readme_are_those_of_the_ledger():
    table = (ROOT / "README.md").read_text().split("![")[1].split("```")[0]
    page = (ROOT / "docs" / "RESULTS.md").read_text()
    cells = re.findall(r"\|\s*\**([\d.]+) \(([\d.]+)–([\d.]+)\)", table)
    assert len(cells) == 36  # nine recipes, four measures
    for value, low, high in cells:
        assert f"| {value} | {low} to {high} |" in page, f"{value} ({low}–{high})"
