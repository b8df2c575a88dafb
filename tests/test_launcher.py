"""The launcher round an engine of one line: two starts of one name, exchanged data, signals, an engine that hangs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_prep.errors import UserError
from data_prep.files import read_jsonl, write_jsonl
from recipes import launcher, process, run_folder
from recipes.process import EngineWatch, dump_stacks
from tests.waiting import wait_until


@pytest.fixture
def laptop(compose_config, bank, tmp_path, monkeypatch):
    """laptop(*overrides) → its configuration; the engine's command is one that writes a step and ends."""
    step = {"kind": "train", "step": 1, "time": 1.0}
    code = f"import os; open(os.environ['MEDRLVR_RUN'] + '/metrics.jsonl', 'a').write({json.dumps(step)!r} + chr(10))"
    monkeypatch.setattr(process, "build_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(sys, "argv", ["rlvr"])
    yield lambda *words: compose_config(
        "rlvr", f"data_dir={bank}", f"run_dir={tmp_path / 'run'}", *words
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as before the launcher's own
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(cfg) -> int:
    with pytest.raises(SystemExit) as ended:
        launcher.run_recipe(cfg, "ppo")
    return ended.value.code


def test_a_second_start_that_passed_preflight_too_loses_nothing(laptop, tmp_path, monkeypatch):
    lock = run_folder.lock_run

    def lock_late(folder):
        if not (folder / "run.json").exists():  # while we waited, another run began and ended here
            (folder / "run.json").write_text('{"seed": 1}')
            (folder / "metrics.jsonl").write_text("another's\n")
        return lock(folder)

    monkeypatch.setattr(run_folder, "lock_run", lock_late)
    with pytest.raises(UserError, match="holds a run"):
        launcher.run_recipe(laptop(), "ppo")
    assert (tmp_path / "run" / "run.json").read_text() == '{"seed": 1}'
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "another's\n"


def test_data_exchanged_between_preflight_and_start_is_not_trained_on(
    laptop, bank, tmp_path, monkeypatch
):
    copy = shutil.copytree(bank, tmp_path / "data")
    lock = run_folder.lock_run

    def lock_late(folder):
        rows = read_jsonl(copy / "bank" / "train.jsonl")
        write_jsonl(copy / "bank" / "train.jsonl", rows[::-1])
        return lock(folder)

    monkeypatch.setattr(run_folder, "lock_run", lock_late)
    with pytest.raises(UserError, match="is not what its manifest says"):
        launcher.run_recipe(laptop(f"data_dir={copy}"), "ppo")
    assert not (tmp_path / "run" / "run.json").exists()
    # nothing of a run is there, so that resume=auto may start
    assert not run_folder.is_begun(tmp_path / "run")


@pytest.mark.process
def test_resume_auto_starts_then_continues_then_has_nothing_to_do(laptop, tmp_path, capsys):
    assert start(laptop("resume=auto")) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["exit"] == 0 and record["model"]["id"] == "recipes/laptop_model"
    launcher.run_recipe(laptop("resume=auto"), "ppo")
    assert "is finished: nothing to continue" in capsys.readouterr().out
    record["exit"] = None  # as a kill leaves it
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert start(laptop("resume=auto")) == 0
    assert "no checkpoint was finished: from the beginning" in capsys.readouterr().out
    again = json.loads((tmp_path / "run" / "run.json").read_text())
    assert again["wandb_id"] == record["wandb_id"]
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 1


@pytest.mark.process
def test_temporary_folders_go_with_the_run(laptop, tmp_path, monkeypatch):
    code = "import os, tempfile; open(os.environ['MEDRLVR_RUN'] + '/where', 'w').write(tempfile.mkdtemp())"
    monkeypatch.setattr(process, "build_command", lambda *_: [sys.executable, "-c", code])
    assert start(laptop()) == 0
    folder = Path((tmp_path / "run" / "where").read_text())
    assert folder.parent.name.startswith("rl-") and not folder.parent.exists()
    assert "TMPDIR" not in (tmp_path / "run" / "command.txt").read_text()


LAUNCH = """
import sys
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from recipes import launcher, process
process.build_command = lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"]
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    cfg = compose("rlvr", sys.argv[2:])
launcher.run_recipe(cfg, "ppo")
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "name",
    [
        "SIGTERM",
        "SIGTERM twice",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("SIGHUP", "SIGINT")),
    ],
)
def test_a_signal_ends_the_run_and_all_its_processes(root, bank, tmp_path, list_processes, name):
    words = [f"data_dir={bank}", f"run_dir={tmp_path / 'run'}"]
    run = [sys.executable, "-c", LAUNCH, str(root / "recipes" / "configs"), *words]
    started = subprocess.Popen(
        run,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_until(lambda: list_processes(tmp_path / "run"), 60, "the engine")
    for number in [getattr(signal, name.split()[0])] * (1 + name.endswith("twice")):
        started.send_signal(number)
        time.sleep(0.1)  # the engine is being ended
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130 and "resume=true" in said, said
    assert not list_processes(tmp_path / "run")


@pytest.mark.process
def test_an_engine_that_hangs_is_noticed_once_until_it_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STALL_SECONDS", 0.2)
    watch = EngineWatch(None, tmp_path)
    assert watch.measure_stall() == 0
    time.sleep(0.3)
    assert watch.measure_stall() > 0.2 and watch.measure_stall() == 0
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "1.jsonl").write_text("{}\n")
    assert watch.measure_stall() == 0
    # five times the longest pause so far, which was 0.3 s
    time.sleep(0.4)
    assert watch.measure_stall() == 0
    time.sleep(1.5)
    assert watch.measure_stall() > 1.5


@pytest.mark.process
def test_stacks_are_asked_of_those_that_know_the_signal():
    """SIGUSR1 kills what does not catch it, such as Ray's daemons."""
    catches = "import faulthandler, signal, sys, time; faulthandler.register(signal.SIGUSR1, file=sys.stdout); print('up', flush=True); time.sleep(60)"
    code = {"catches": catches, "does not": "import time; print('up', flush=True); time.sleep(60)"}
    parts = {
        name: subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        for name, text in code.items()
    }
    for part in parts.values():
        assert part.stdout.readline() == "up\n"
    dump_stacks([psutil.Process(part.pid) for part in parts.values()])
    assert "most recent call first" in parts["catches"].stdout.readline()
    time.sleep(0.2)
    assert all(part.poll() is None for part in parts.values())
    for part in parts.values():
        part.kill()
        part.wait()
