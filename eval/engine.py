"""Runs vLLM for one model in a process of its own and yields what it answers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the process holds one engine: no second one
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CAUSE = re.compile(r"(?:\[rank\d+\]: )?[\w.]*(?:Error|Exception|Interrupt)\b")


def run_engine(job: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """Yields the events of `python -m eval.generate` for one job. Raises UserError where the process fails."""
    reader, writer = os.pipe()
    with log.open("a") as output:
        output.write(f"\n=== {job['model']}\n")
        output.flush()
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "eval.generate", str(writer)],
            cwd=ROOT,
            env={**ENVIRONMENT, **os.environ},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            text=True,
        )
    os.close(writer)
    assert process.stdin is not None
    finished = False
    try:
        with suppress(BrokenPipeError):  # it died at once: its exit and its log say why
            json.dump(job, process.stdin)
            process.stdin.close()
        with os.fdopen(reader) as events:
            for line in events:
                event = json.loads(line)
                finished = event["event"] == "done"
                yield event
    except BaseException:
        process.terminate()
        raise
    finally:
        code = process.wait()
    if not finished:
        cause = find_cause(log, begin)
        raise UserError(
            f"the engine stopped (exit status {code}) with {job['model']}: {cause}; its log is {log}"
        )


def find_cause(log: Path, begin: int) -> str:
    """The last line of a log, from byte `begin`, that names an exception, with two more; else the last line."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [
            line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()
        ]
    causes = [index for index, line in enumerate(lines) if CAUSE.match(line)]
    found = lines[causes[-1] : causes[-1] + 3] if causes else lines[-1:] or ["it wrote nothing"]
    return " ".join(line.strip() for line in found)[:400]
