"""Every `key=value` that README, docs, YAML headers and the program's own advice name is one that Hydra takes."""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.errors import HydraException

from recipes.machine import complete_words
from tests.conftest import CONFIGS, ROOT, compose_words, is_group

ROOTS = ("rlvr", "sft", "prep", "eval", "report", "card")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
YAMLS = sorted(CONFIGS.rglob("*.yaml"))
CODE = [
    path
    for package in ("recipes", "eval", "data_prep", "reward_server")
    for path in sorted((ROOT / package).rglob("*.py"))
]
MODULES = {
    "recipes.rlvr": "rlvr",
    "recipes.sft": "sft",
    "recipes.plan": "rlvr",
    "data_prep.run": "prep",
    "eval.run": "eval",
    "eval.dynamics.report": "report",
    "eval.card": "card",
}
TARGETS = {"rlvr": "rlvr", "sft": "sft", "plan": "rlvr"} | {
    name: name for name in ("prep", "eval", "report", "card")
}
COMMAND = re.compile(r"(?:\bmake |python -m )([\w.-]+)((?: +[^`#&|]*)?)")
# a word of ours in running text: reward.mode=strict, hardware=8x80gb
WORD = re.compile(r"(?<![\w./=-])([a-z]\w*(?:\.\w+)*)=(?![=\s])([^\s`,;)\"']+)")
GAP = "\0"  # where the program puts a value
LOG = "LOG.md"  # what was run at the time, under the names of the time


def list_texts(path: Path) -> list[str]:
    """The texts of a file that a user reads: a document whole, a YAML's comments, the strings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [text.replace("\\\n", " ")]
    if path.suffix == ".yaml":
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
        return ["\n".join(line.lstrip("# ") for line in lines).replace("\\\n", " ")]
    found, inner = [], set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
            found.append("".join(map(str, parts)))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
        ):
            found.append(node.value)
    return found


def list_commands() -> Iterator[tuple[str, str, list[str]]]:
    """(file, root, words) of each command line in documents and YAML headers."""
    for path in [*DOCS, *YAMLS]:
        for text in list_texts(path) if path.name != LOG else []:
            for target, rest in COMMAND.findall(text):
                root_name = TARGETS.get(target) or MODULES.get(target.rstrip("."))
                line = rest.split("\n")[0].split("  ")  # what follows two blanks is a remark
                try:
                    words = shlex.split(" ".join(part for part in line[:1]))
                except ValueError:
                    words = []
                given = [word for word in words if "=" in word and not word[0].isupper()]
                if root_name and given:
                    yield path.name, root_name, given


def list_words(path: Path) -> Iterator[str]:
    """Each override in a file's running text, comments or strings; values that are not written out are `x`."""
    for text in list_texts(path):
        for key, value in WORD.findall(text):
            value = value.rstrip(".:…")
            if value.count("[") != value.count("]") or value.count("{") != value.count("}"):
                value = ""  # cut off by the text round it
            if not value or GAP in value or value[0] == "<" or "\\" in value:
                value = "x"
            if key.split(".")[0] in KNOWN:
                yield f"{key}={value}"


KNOWN = {
    *(path.name for path in CONFIGS.iterdir() if path.is_dir()),
    *(str(key) for root_name in ROOTS for key in compose_words(root_name, [])),
}
COMMANDS = sorted(
    {(name, root, " ".join(map(shlex.quote, w))) for name, root, w in list_commands()}
)
WORDS = {path: sorted(set(list_words(path))) for path in [*DOCS, *YAMLS, *CODE] if path.name != LOG}
USERS_OWN = ("x", "auto", "mine", "NAME")  # of a group: a file that the user writes, or any


def test_there_is_something_to_compose():
    words = {word.split("=")[0] for words in WORDS.values() for word in words}
    assert len(COMMANDS) > 40 and len(words) > 60
    assert {"reward.mode", "hardware.gpu_memory_gb", "openrlhf.data.max_len"} <= words


@pytest.mark.parametrize(("name", "root_name", "line"), COMMANDS)
def test_a_documented_command_composes(name, root_name, line):
    words = [word for word in shlex.split(line) if not word.startswith("method=")]
    if "method=sft" in line:
        root_name = "sft"
    if root_name in ("rlvr", "sft"):
        words = complete_words(words, sft=root_name == "sft")
    # as data_prep.run makes the mixture's own words
    mixed = [word for word in words if word.startswith("data=[")]
    words = [f"data.parts_of_mixture={word[5:]}" if word in mixed else word for word in words]
    compose_words(root_name, [*words, *(["data=mix"] if mixed else [])])


@pytest.mark.parametrize(
    "path", [path for path in WORDS if WORDS[path]], ids=lambda path: str(path.relative_to(ROOT))
)
def test_each_override_that_a_file_names_composes(path):
    """With one of the commands at least, since running text does not say which."""
    refused = [word for word in WORDS[path] if not is_taken(word)]
    assert not refused, f"{path.name} names {refused}"


@functools.cache  # many files name the same ones
def is_taken(word: str) -> bool:
    key, _, value = word.partition("=")
    if is_group(key):
        if key == "experiment":
            (word,) = complete_words([word, "hardware=cpu"], sft=value.startswith("sft"))[:1]
            value = word.partition("=")[2]
        exists = (CONFIGS / key / f"{value}.yaml").is_file()
        return exists or value in USERS_OWN or value.startswith("[")
    for root_name in ROOTS:
        for groups in ([], ["data=custom"]):
            try:
                compose_words(root_name, [*groups, word])
                return True
            except (HydraException, AssertionError):
                continue
    return False
