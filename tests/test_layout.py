"""The house rules that a machine can check: who imports whom, what is imported when, how long files are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recipes", "reward_server", "data_prep", "eval")
EVERYONE = (
    "data_prep.prompt",
    "data_prep.prepared",
    "data_prep.files",
    "data_prep.errors",
    "data_prep.command",
)
ALLOWED = {
    "eval": (
        *EVERYONE,
        "reward_server.verifier",
        "reward_server.signals",
        "reward_server.lenient",
    ),
    "recipes": (*EVERYONE, "eval.dynamics.phases", "eval.dynamics.monitors"),
    "data_prep": (),
    "reward_server": EVERYONE,
}
HEAVY = {"torch", "ray", "vllm", "deepspeed", "openrlhf", "transformers"}
FORBIDDEN_NAMES = {"datasets", "evaluate", "types", "ray", "hydra", "utils", "common", "helpers"}
FILES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)


def list_imports(tree: ast.AST) -> list[str]:
    """Every module that a tree imports, `from a import b` as both a and a.b."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_there_are_files_to_check():
    assert len(FILES) > 20 and {path.parts[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_keep_the_rules(path):
    package = path.parts[0]
    tree = ast.parse((ROOT / path).read_text())
    for name in list_imports(tree):
        top = name.split(".")[0]
        if top in PACKAGES and top != package:
            assert name.startswith(ALLOWED[package]) and ALLOWED[package], f"{path} imports {name}"
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            tops = {name.split(".")[0] for name in list_imports(ast.Module([node], []))}
            assert not tops & HEAVY, f"{path} imports {tops & HEAVY} at module level"
        assert not (
            isinstance(node, ast.Import)
            and any(alias.name.split(".")[0] == "eval" for alias in node.names)
        )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_are_small_and_well_named(path):
    assert len((ROOT / path).read_text().splitlines()) <= 300
    assert path.stem not in FORBIDDEN_NAMES


def test_packages_win_over_those_of_wheels():
    """OpenRLHF's wheel installs `tests`, torchtune's `recipes`: an empty __init__.py makes ours win."""
    assert all((ROOT / package / "__init__.py").read_text() == "" for package in PACKAGES)
    assert not (ROOT / "tests" / "__init__.py").exists()


@pytest.mark.parametrize(
    "module",
    [
        "recipes.rlvr",
        "recipes.sft",
        "data_prep.run",
        "eval.run",
        "eval.dynamics.report",
        "eval.card",
    ],
)
def test_help_imports_nothing_heavy(module):
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        f"except SystemExit: pass\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip().endswith("HEAVY []"), out.stdout[-300:] + out.stderr[-300:]
