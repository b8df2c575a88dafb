"""Rules that a machine can check: who imports whom and when, how large packages are, how docstrings begin."""

import ast
import functools
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


@functools.cache
def parse_file(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


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
    tree = parse_file(path)
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


# Lines of Python of each package. Raise one only in a commit that says what was bought with it.
BUDGET = {
    "data_prep": 3042,
    "reward_server": 1443,
    "recipes": 3849,
    "eval": 4663,
}
MOST_FILES = 91  # with seven empty __init__.py
WEB_BUDGET = 650  # of web files and templates, without the vendored chart library
SHARED_NAMES = {"run", "page", "card", "__init__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_keeps_its_budget(package):
    lines = sum(
        len((ROOT / path).read_text().splitlines()) for path in FILES if path.parts[0] == package
    )
    assert lines <= BUDGET[package], f"{package} has {lines} lines"


def test_there_are_few_files_and_little_web():
    assert len(FILES) <= MOST_FILES
    web = [
        path
        for package in PACKAGES
        for pattern in ("*.j2", "*.js", "*.css", "*.html")
        for path in (ROOT / package).rglob(pattern)
        if ".min." not in path.name
    ]
    assert web and sum(len(path.read_text().splitlines()) for path in web) <= WEB_BUDGET


def test_a_module_name_is_one_module():
    names = [path.stem for path in FILES if path.stem not in SHARED_NAMES]
    double = {name for name in names if names.count(name) > 1}
    assert not double
    assert not FORBIDDEN_NAMES & set(names)


NO_VERB = ("Whether", "What ", "How ", "The ", "A ", "An ", "One ", "Where ", "Which ", "When ")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_docstrings_of_functions_begin_with_a_verb(path):
    """Classes and modules may begin with the noun that they are."""
    for node in ast.walk(parse_file(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            text = ast.get_docstring(node) or ""
            named = getattr(node, "name", "the module")
            first = (
                NO_VERB
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                else NO_VERB[:3]
            )
            assert not text.startswith(first), f"{path}: {named}: {text.splitlines()[0]}"


def test_packages_win_over_those_of_wheels():
    """OpenRLHF's wheel installs `tests`, torchtune's `recipes`: an empty __init__.py makes ours win."""
    assert all((ROOT / package / "__init__.py").read_text() == "" for package in PACKAGES)
    assert not (ROOT / "tests" / "__init__.py").exists()


COMMANDS = [
    "recipes.rlvr",
    "recipes.sft",
    "data_prep.run",
    "eval.run",
    "eval.dynamics.report",
    "eval.card",
]
HELP = """
import runpy, sys
for module in {modules!r}:
    sys.argv = ["x", "--help"]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit:
        pass
    print("HEAVY", module, sorted({heavy!r} & set(sys.modules)))
"""


@pytest.mark.process
def test_help_imports_nothing_heavy():
    """In one process: what one command imports stays for those after it, and none may import any."""
    code = HELP.format(modules=COMMANDS, heavy=HEAVY)
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = [line for line in out.stdout.splitlines() if line.startswith("HEAVY")]
    assert said == [f"HEAVY {module} []" for module in COMMANDS], out.stderr[-300:]
    assert out.stdout.count("== Config ==") == len(COMMANDS), out.stderr[-300:]
