"""Whether a part of the engine has died while the rest waits for it.

OpenRLHF sets up and runs its weight sync in collective calls. Where the other side of one is gone (a vLLM that was
killed, or ran out of memory while it started), the call waits for half an hour or more, and the exception that says so
is read by nobody. So the launcher looks at the processes themselves: those of this machine, not of a cluster that was
there before.
"""

import re
import time
from collections.abc import Iterable

import psutil

PART = re.compile(r"ray::(?:\w+Actor|PPOTrainer)\b|VLLM::\w+")
"""What Ray and vLLM name the processes that live as long as the run; `ray::IDLE` and its like come and go."""
PATIENCE = 60.0
"""Seconds that the engine has to end by itself, with its own message, after a part has died."""


class PartsWatch:
    """Looked at again and again. names: of all parts seen, by process id; gone: when each was first missed."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.gone: dict[int, float] = {}

    def look(self, family: Iterable[psutil.Process]) -> str | None:
        """What has been gone for longer than PATIENCE, as a person would call it; None where nothing has.

        family: the engine's process and all that descend from it.
        """
        alive = set()
        for member in family:
            try:
                if member.status() == psutil.STATUS_ZOMBIE:
                    continue
                if member.pid not in self.names and (
                    found := PART.match(" ".join(member.cmdline()))
                ):
                    self.names[member.pid] = found[0]
            except psutil.NoSuchProcess:
                continue
            alive.add(member.pid)
        now = time.monotonic()
        for pid in self.names:
            if pid in alive:
                self.gone.pop(pid, None)
            else:
                self.gone.setdefault(pid, now)
        for pid, since in self.gone.items():
            if now - since > PATIENCE:
                return f"{self.names[pid]} (process {pid})"
        return None
