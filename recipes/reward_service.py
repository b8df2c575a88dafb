"""Which way the reward comes (`reward.hook`), and the reward server that a run with `reward.hook=server` uses."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOOK_FILE = "reward_server/openrlhf_hook.py"
HOOKS = ("agent", "function", "server")
START_SECONDS = 30.0


class RewardServerError(RuntimeError):
    """The reward server that this run should have does not answer."""


def choose_hook(cfg: Any) -> None:
    """Set the engine's flags for `reward.hook`, where they still have their default.

    agent and server load the agent, which writes the rollouts; function goes through the engine's own reward call,
    which knows neither tokens nor truncation and writes none.
    """
    if cfg.reward.hook == "function" and cfg.openrlhf.train.agent_func_path == HOOK_FILE:
        cfg.openrlhf.train.agent_func_path = None
        cfg.openrlhf.reward.remote_url = str(ROOT / HOOK_FILE)


def check_hook(cfg: Any) -> Iterator[str]:
    """Problems of `reward.hook` and `reward.url`; asks a server that runs elsewhere whether it is there."""
    if cfg.reward.hook not in HOOKS:
        yield f"reward.hook={cfg.reward.hook} is none of {', '.join(HOOKS)}"
        return
    if cfg.reward.url and cfg.reward.hook != "server":
        yield f"reward.url={cfg.reward.url} is used by reward.hook=server only, not by reward.hook={cfg.reward.hook}"
        return
    for url in list_urls(cfg):
        if "?" in url:
            yield "reward.url: leave the token out, it would be written to config.yaml; export MEDRLVR_REWARD_TOKEN=…"
        elif reason := probe(url):
            yield (
                f"reward.url: {url} {reason}. Start it there with `python -m reward_server.server`, or "
                "leave reward.url null to have one started here"
            )


def list_urls(cfg: Any) -> list[str]:
    """The servers of `reward.url`: one, or several separated by commas, over which requests rotate."""
    return [url.strip() for url in str(cfg.reward.url or "").split(",") if url.strip()]


def probe(url: str) -> str:
    """Why the server behind `url` (…/get_reward) cannot be used; empty where it is healthy."""
    if not re.fullmatch(r"https?://[^/]+/get_reward", url):
        return "is not of the form http://HOST:PORT/get_reward"
    try:
        with urllib.request.urlopen(url.removesuffix("get_reward") + "healthz", timeout=5):
            return ""
    except (OSError, urllib.error.URLError) as error:
        return f"does not answer ({error})"


@contextmanager
def serve(cfg: Any, environment: dict[str, str], log: Path) -> Iterator[str]:
    """The URLs of the run's reward server for the length of the `with`: `reward.url`, or one started here.

    environment: how to judge, as for the engine; log: where the server's output goes. Raises RewardServerError.
    """
    if cfg.reward.url:
        yield ",".join(list_urls(cfg))
        return
    with (
        socket.socket() as probe_socket
    ):  # a free port; the server says so if another took it since
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    command = [sys.executable, "-m", "reward_server.server", "--port", str(port)]
    with log.open("ab") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=ROOT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}/get_reward"
    try:
        await_server(server, url, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def await_server(server: subprocess.Popen, url: str, log: Path) -> None:
    """Wait until the server is healthy. Raises RewardServerError where it ends, or takes more than 30 s."""
    deadline = time.monotonic() + START_SECONDS
    while reason := probe(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RewardServerError(f"the reward server {url} {reason}: see {log}")
        time.sleep(0.1)
