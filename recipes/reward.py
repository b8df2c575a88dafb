"""Connect a run with its reward: the hook's variables and flags, and a trial of both."""

import importlib.util
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
HOOK_FILE = "reward_server/openrlhf_hook.py"
URL = re.compile(r"https?://[^/?]+/get_reward")  # http://node7:5000/get_reward


def build_reward_environment(reward: Any, seed: int) -> dict[str, str]:
    """Build the variables of reward_server/openrlhf_hook.py: how to judge, and whom to ask."""
    settings = {
        "mode": reward.mode,
        "options": OmegaConf.to_container(reward.options, resolve=True),
        "control": reward.control,
        "seed": seed,
    }
    environment = {
        "MEDRLVR_REWARD": json.dumps(settings),
        "MEDRLVR_REWARD_PATIENCE": str(reward.patience),
    }
    if reward.hook == "server":
        environment["MEDRLVR_REWARD_URL"] = ",".join(list_urls(reward))
    return environment


def choose_hook(hook: str, agent: str | None, url: str | None) -> tuple[str | None, str | None]:
    """Choose the engine's train.agent_func_path and reward.remote_url for `reward.hook`.

    agent and server load the agent, which writes the rollouts. function goes through the engine's
    own reward call, which knows no tokens and writes none. A path that the user gave stays.
    """
    if hook == "function" and agent == HOOK_FILE:
        return None, str(ROOT / HOOK_FILE)
    return agent, url


def list_urls(reward: Any) -> list[str]:
    """List the servers of `reward.url`: one, or several with commas, over which requests rotate."""
    return [url.strip() for url in str(reward.url or "").split(",") if url.strip()]


def check_servers(reward: Any) -> Iterator[str]:
    """Check that the servers of reward.hook=server are named, answer, and take our token."""
    urls = list_urls(reward)
    if urls and reward.hook != "server":
        yield f"reward.url is for reward.hook=server, not for reward.hook={reward.hook}"
    elif reward.hook == "server" and not urls:
        yield (
            "reward.hook=server needs reward.url=http://HOST:PORT/get_reward: start one with "
            "`python -m reward_server.server`"
        )
    elif any("?" in url for url in urls):
        yield (
            "reward.url: leave the token out, it would be written to config.yaml; "
            "export MEDRLVR_REWARD_TOKEN=…"
        )
    else:
        for url in urls:
            if reason := probe_server(url):
                yield f"reward.url: {url} {reason}"


def probe_server(url: str) -> str:
    """Ask a server to judge nothing, with our token; returns why it cannot be used, or nothing."""
    if not URL.fullmatch(url):
        return "is not of the form http://HOST:PORT/get_reward"
    body = json.dumps({"query": [], "prompts": [], "labels": []}).encode()
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("MEDRLVR_REWARD_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return "does not take our token: export MEDRLVR_REWARD_TOKEN as its server has it"
        return "" if error.code in (400, 422) else f"answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"does not answer ({error}): start it there with `python -m reward_server.server`"


def check_hook(file: str, rows: list[dict[str, Any]], reward: Any, seed: int) -> Iterator[str]:
    """Check that the hook takes the rows, and rewards right answers more than wrong ones.

    Our own hook is tried on each training row, another on the first. Under a control
    (reward.control) the reward is not to follow the answer.
    """
    spec = importlib.util.spec_from_file_location("reward_probe", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        yield f"openrlhf.train.agent_func_path={file} is no Python file"
        return
    # the hook reads its variables when it is loaded
    with lend_environment(build_reward_environment(reward, seed)):
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for row in rows if file == HOOK_FILE else rows[:1]:
                letters = (row["answer"], "B" if row["answer"] == "A" else "A")
                think = f"{row['prompt']}<think> x </think>\n<answer>"
                texts = [f"{think} {letter} </answer>" for letter in letters]
                right, wrong = (
                    module.reward_func([text], [row["prompt"]], [row["label"]])["rewards"]
                    for text in texts
                )
                if reward.control is None and right <= wrong:
                    yield (
                        f"the reward hook {file} gives {right} to a right response and {wrong} to "
                        f"a wrong one, for row {row['id']}"
                    )
                    return
        except Exception as error:  # a user's own hook may raise anything
            yield f"the reward hook {file} fails on the training rows: {error!r:.300}"


@contextmanager
def lend_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the block lasts, then put back those that were there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
