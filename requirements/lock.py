"""Resolve requirements/*.in into complete locks for Python 3.10 to 3.12: `make lock`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OPTIONS = [
    "--universal",
    "--python-version",
    "3.10",
    "--no-annotate",
    "--no-header",
    "--quiet",
    "--generate-hashes",
]

for machine in ("cpu", "gpu"):
    sources = [str(HERE / f"{machine}.in"), str(HERE / "ours.in")]
    overrides = [
        "--override",
        str(HERE / f"{machine}-overrides.txt"),
        "-o",
        str(HERE / f"{machine}.lock"),
    ]
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *sources, *overrides], check=True
    )
    print(HERE / f"{machine}.lock")
