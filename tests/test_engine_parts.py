"""A part of the engine that died while the rest waits for it."""

import subprocess
import sys
import time

import psutil
import pytest

from recipes import process
from recipes.process import EngineWatch


@pytest.fixture
def parts():
    """Processes under the names that Ray and vLLM give theirs."""
    names = ["ray::RolloutRayActor", "VLLM::EngineCore", "ray::IDLE"]
    started = [subprocess.Popen(["bash", "-c", f"exec -a '{name}' sleep 60"]) for name in names]
    for part, name in zip(started, names, strict=True):
        while psutil.Process(part.pid).cmdline()[:1] != [name]:
            time.sleep(0.01)
    yield started
    for part in started:
        part.kill()
        part.wait()


def find_family(parts):
    return [psutil.Process(part.pid) for part in parts if psutil.pid_exists(part.pid)]


@pytest.mark.parametrize(
    ("killed", "said"), [(0, "ray::RolloutRayActor"), (1, "VLLM::EngineCore"), (2, None)]
)
def test_a_part_that_is_gone_is_named_after_a_while(parts, tmp_path, monkeypatch, killed, said):
    watch = EngineWatch(None, tmp_path)
    family = find_family(parts)
    assert watch.find_dead(family) is None
    parts[killed].kill()
    time.sleep(0.1)  # a zombie as yet, which counts as gone
    assert watch.find_dead(family) is None
    monkeypatch.setattr(process, "PATIENCE", 0.05)
    time.sleep(0.1)
    found = watch.find_dead(family)
    assert found == (f"{said} (process {parts[killed].pid})" if said else None)


def test_parts_that_live_are_left_alone(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0.0)
    watch = EngineWatch(None, tmp_path)
    assert [watch.find_dead(find_family(parts)) for _ in range(3)] == [None] * 3


def test_a_fork_that_runs_another_program_next_is_no_part(tmp_path, monkeypatch):
    """Between fork and exec it has the name of its parent; a busy machine makes that long."""
    monkeypatch.setattr(process, "PATIENCE", 0.05)
    code = "import os, time; os.fork() or time.sleep(0.5) or os._exit(0); time.sleep(60)"
    part = subprocess.Popen(["VLLM::EngineCore", "-c", code], executable=sys.executable)
    try:
        parent, watch = psutil.Process(part.pid), EngineWatch(None, tmp_path)
        while not parent.children():
            time.sleep(0.01)
        (fork,) = parent.children()
        assert fork.cmdline() == parent.cmdline()
        assert watch.find_dead([parent, fork]) is None
        while fork.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        time.sleep(0.1)
        assert watch.find_dead([parent, fork]) is None
        part.kill()
        time.sleep(0.2)
        assert watch.find_dead([parent, fork]) == f"VLLM::EngineCore (process {part.pid})"
    finally:
        part.kill()
        part.wait()
