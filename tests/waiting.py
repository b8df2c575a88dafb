"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Return once `holds()`, asked twice a second; AssertionError that names `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.5)
