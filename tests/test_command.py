"""The door of every command: what a user can get wrong on the command line is one line, never a traceback."""

import json
import os
import subprocess
import sys

import pytest

from data_prep import command
from data_prep.command import explain_overrides, run_command, show_quoting
from data_prep.errors import UserError


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("sed=3", ["sed is no key", "the nearest is seed"]),
        ("openrlhf.actor.adam.l=1", ["the nearest is openrlhf.actor.adam.lr"]),
        ("reward.options.leak_penalti=1", ["the nearest is reward.options.leak_penalty"]),
        ("rewad.mode=strict", ["the nearest is reward.mode"]),
        ("hardware=9x80gb", ["hardware=9x80gb is none of", "4x80gb", "do you mean 8x80gb?"]),
        ("data=foo", ["data=foo is none of bank, bank_5, bank_open, base"]),
        ("experiment=papr", ["do you mean paper?"]),
        ("name=a,b", ["name=a,b: Hydra cannot read this value", "'name=\"a,b\"'"]),
        ("data.source=/data/médecine/q (1).csv", ["'data.source=\"/data/médecine/q (1).csv\"'"]),
        ("name=a#b=c", ["'name=\"a#b=c\"'"]),
        ("select", ["select is no setting: KEY=VALUE"]),
        ("seed:3", ["seed:3 is no setting: KEY=VALUE"]),
        ("=x", ["=x is no setting: KEY=VALUE"]),
        ("data=null", ["data=None is none of bank"]),
        ("seed=" + "9" * 5000, ["Hydra cannot read this value"]),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_may_be(word, parts):
    (line,) = explain_overrides("rlvr", [word])
    assert all(part in line for part in parts) and "\n" not in line


def test_all_wrong_overrides_are_told_at_once():
    assert len(explain_overrides("rlvr", ["sed=3", "data=foo", "name=a(b", "seed=4"])) == 3
    assert explain_overrides("rlvr", ["seed=4", "+new=1", "hydra.verbose=true"]) == []


@pytest.mark.parametrize("value", ["a=b", "x(y", "a#b", "a,b", "é", 'a"b', "a\\b", "{", "[", " a"])
def test_what_is_said_to_be_typed_gives_the_value(value, compose_config):
    import shlex

    shown = show_quoting(f"name={value}").partition("quote it for Hydra too: ")[2]
    (word,) = shlex.split(shown)
    assert compose_config("rlvr", word).name == value


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("one", "two"), 2, "one\ntwo\n"),
        (
            OSError(28, "No space left on device", "/x"),
            1,
            "cannot use /x: No space left on device\n",
        ),
        (PermissionError(13, "Permission denied", "/x"), 1, "cannot use /x: Permission denied\n"),
        (IsADirectoryError(21, "Is a directory", "/x"), 1, "cannot use /x: Is a directory\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_the_work_raises_is_lines_and_an_exit_code(monkeypatch, capsys, error, code, said):
    def work(cfg):
        raise error

    monkeypatch.setattr(sys, "argv", ["rlvr"])
    monkeypatch.setattr(command.os, "environ", dict(command.os.environ))
    with pytest.raises(SystemExit) as ended:
        run_command(work, "report")
    assert ended.value.code == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("rlvr", "openrlhf.rollout.max_new_tokens=[1]"),
        ("rlvr", "openrlhf.data=x"),
        ("rlvr", "reward=1.5"),
        ("rlvr", "hardware.attention=1.5"),
        ("prep", "data.columns=null"),
        ("prep", "data_dir=null"),
        ("card", "run=null"),
    ],
)
def test_a_value_of_another_kind_is_named_where_the_work_fails_on_it(
    monkeypatch, capsys, name, word
):
    """No check knows every key and every kind: lists, mappings and nulls are what breaks the code after it."""

    def work(cfg):
        raise TypeError("what a list does to a sum")

    monkeypatch.setattr(sys, "argv", [name, word, "seed=3" if name != "card" else "name=x"])
    monkeypatch.setattr(command.os, "environ", dict(command.os.environ))
    with pytest.raises(SystemExit) as ended:
        run_command(work, name)
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(said) == 2
    assert said[0].startswith(f"{word}: the default is ")
    assert said[1] == "with this: TypeError: what a list does to a sum"


@pytest.mark.parametrize("word", ["-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"])
def test_a_command_is_one_run(monkeypatch, capsys, word):
    """Hydra would make one for each value, one after the other and in folders of its own."""
    monkeypatch.setattr(sys, "argv", ["report", word, "name=a,b"])
    with pytest.raises(SystemExit) as ended:
        run_command(lambda cfg: pytest.fail("it began"), "report")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"{word}: a command makes one run; start it once for each value\n"
    )


@pytest.mark.parametrize(
    "word",
    [
        "hydra.run.dir=x",
        "hydra.output_subdir=x",
        "hydra/job_logging=default",
        "+hydra.verbose=true",
    ],
)
def test_hydra_writes_nothing(monkeypatch, capsys, tmp_path, word):
    """Its folders and logs would be in the project's root, also of a dry run."""
    monkeypatch.setattr(sys, "argv", ["report", word])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda cfg: pytest.fail("it began"), "report")
    assert ended.value.code == 2 and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith(f"{word}: Hydra's own settings are the command's")


@pytest.mark.parametrize("word", ["data=null", "experiment=null", "seed=" + "9" * 5000])
def test_what_hydra_stumbles_over_is_a_line(monkeypatch, capsys, word):
    monkeypatch.setattr(sys, "argv", ["rlvr", word])
    monkeypatch.setattr(command.os, "environ", dict(command.os.environ))
    with pytest.raises(SystemExit) as ended:
        run_command(lambda cfg: pytest.fail("it began"), "rlvr")
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith(word.partition("=")[0])


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def work(cfg):
        raise KeyError("ours")

    monkeypatch.setattr(sys, "argv", ["rlvr"])
    monkeypatch.setattr(command.os, "environ", dict(command.os.environ))
    with pytest.raises(KeyError, match="ours"):
        run_command(work, "report")


@pytest.mark.process
@pytest.mark.parametrize(
    "mode", [pytest.param({}, marks=pytest.mark.slow), {"PYTHONUTF8": "0"}], ids=["utf8", "none"]
)
def test_an_ascii_terminal_gets_question_marks(root, tmp_path, mode):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"} | mode
    run = [sys.executable, "-m", "recipes.rlvr", "dry_run=true", f"data_dir={tmp_path}"]
    done = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


HOSTILE = [
    "name=a;id>pwned",
    "name=`id>pwned`",
    "name=$(id>pwned)",
    "name=$$HOME ${HOME}",
    "name=$(shell id>pwned)",
    "name=a&id>pwned",
    "name=a|id>pwned",
    "name=a>pwned",
    "name=a'b",
    'name=a"b',
    "name=(a)",
    "name=a b  c",
    "name=a\\b\\ c",
    "models={a: FOLDER, b: [x, y]}",
    "name=%d*?~!",
]


TARGETS = ["prep", "plan", "sft", "eval", "report", "card"]


@pytest.mark.parametrize(
    ("target", "word"),
    [*(("rlvr", word) for word in HOSTILE), *((target, HOSTILE[0]) for target in TARGETS)],
)
def test_make_hands_values_over_as_they_are(root, tmp_path, target, word):
    """Through a shell that never sees them: nothing is run, nothing is split or expanded."""
    script = tmp_path / "show.py"
    script.write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    old = ["-o", ".venv/ready", "-o", "setup", "-o", "data/bank/manifest.json"]
    run = [
        "make",
        "-s",
        "-f",
        str(root / "Makefile"),
        *old,
        target,
        f"PY={sys.executable} {script}",
    ]
    done = subprocess.run(
        [*run, "EXPERIMENT=x", word], cwd=tmp_path, capture_output=True, text=True
    )
    words = json.loads(done.stdout)
    assert words[-1] == word, done.stderr
    assert "experiment=x" in words and not list(tmp_path.glob("pwned*"))


@pytest.mark.parametrize("word", ["$(shell id>pwned)", "a;id>pwned", "$(id>pwned)", "a b"])
def test_make_runs_nothing_of_what_chooses_an_experiment(root, tmp_path, word):
    script = tmp_path / "show.py"
    script.write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    old = ["-o", ".venv/ready", "-o", "setup", "-o", "data/bank/manifest.json"]
    run = ["make", "-s", "-f", str(root / "Makefile"), *old, "rlvr"]
    run += [f"PY={sys.executable} {script}", f"EXPERIMENT={word}"]
    # a variable of the environment is one of make's too
    done = subprocess.run(
        run, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "HARDWARE": word}
    )
    assert json.loads(done.stdout)[2:] == [f"hardware={word}", f"experiment={word}"], done.stderr
    assert not list(tmp_path.glob("pwned*"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\x00\x08\x7f\x9b2J", "a\\rb\\x00\\x08\\x7f\\x9b2J"),
        ("gpj\u202etxt \u2066x\u2069\u200f\ufeff", "gpj\\u202etxt \\u2066x\\u2069\\u200f\\ufeff"),
        ("half \ud83d \u2028", "half \\ud83d \\u2028"),
        ("étude 心 😀\ttab\nline", "étude 心 😀\ttab\nline"),
    ],
)
def test_control_characters_are_shown(monkeypatch, capsys, text, shown):
    """In each line of an error, which may hold a file's name, a server's words or a row of data."""
    assert command.show_text(text) == shown

    def work(cfg):
        raise UserError(text)

    monkeypatch.setattr(sys, "argv", ["report"])
    monkeypatch.setattr(command.os, "environ", dict(command.os.environ))
    with pytest.raises(SystemExit):
        run_command(work, "report")
    assert capsys.readouterr().err == shown + "\n"


@pytest.mark.process
def test_a_safe_path_does_not_hide_the_packages(root, tmp_path):
    """With PYTHONSAFEPATH=1 Python does not look in this folder: make takes it away, `python -m` says one line."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1"}
    old = ["-o", ".venv/ready", "-o", "setup", "-o", "data/bank/manifest.json"]
    words = [f"PY={sys.executable}", f"run={tmp_path}/none"]
    make = ["make", "-s", *old, "report", *words]
    done = subprocess.run(make, cwd=root, env=environment, capture_output=True, text=True)
    assert f"{tmp_path}/none is no folder" in done.stderr and "Traceback" not in done.stderr
    alone = [sys.executable, "-m", "eval.dynamics.report"]
    done = subprocess.run(alone, cwd=root, env=environment, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "No module named 'eval'" in line
