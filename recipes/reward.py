"""Connect a run with its reward: the hook's variables and flags, and a trial of both."""

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omegaconf import OmegaConf

from data_prep.errors import UserError

HOOK_FILE = "reward_server/openrlhf_hook.py"
URL = re.compile(r"https?://[^/?]+/get_reward")  # http://node7:5000/get_reward


def build_reward_environment(reward: Any, seed: int) -> dict[str, str]:
    """Build the variables of reward_server/openrlhf_hook.py: how to judge, and whom to ask."""
    plain: Any = OmegaConf.to_container(reward, resolve=True)
    settings = {key: plain[key] for key in ("mode", "kind", "options", "control")}
    environment = {
        "MEDRLVR_REWARD": json.dumps(settings | {"seed": seed}),
        "MEDRLVR_REWARD_PATIENCE": str(reward.patience),
    }
    if reward.hook == "server":
        environment["MEDRLVR_REWARD_URL"] = ",".join(list_urls(reward))
    return environment


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
    else:
        for url in urls:
            if reason := probe_server(url):
                yield f"reward.url: {url} {reason}"


def probe_server(url: str) -> str:
    """Ask a server to judge nothing, with our token; returns why it cannot be used, or nothing."""
    import httpx

    if not URL.fullmatch(url):
        return "is not of the form http://HOST:PORT/get_reward"
    token = os.environ.get("MEDRLVR_REWARD_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    nothing: dict[str, list] = {"query": [], "prompts": [], "labels": []}
    try:
        answer = httpx.post(url, json=nothing, headers=headers, timeout=5)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"does not answer ({error}): start it there with `python -m reward_server.server`"
    if answer.status_code in (401, 403):
        return "does not take our token: export MEDRLVR_REWARD_TOKEN as its server has it"
    is_ours = answer.is_success or answer.status_code in (400, 422)
    return "" if is_ours else f"answers {answer.status_code} {answer.reason_phrase}"


def check_hook(file: str, rows: list[dict[str, Any]], reward: Any, seed: int) -> Iterator[str]:
    """Check that the hook takes the rows, and rewards right answers more than wrong ones.

    Our own hook is tried on each training row, another on the first. Under a control
    (reward.control) the reward is not to follow the answer. A likelihood needs the engine, so the
    verdict is tried in its place.
    """
    if reward.kind != "verdict":
        yield from check_likelihood(rows, reward)
        reward = OmegaConf.merge(reward, {"kind": "verdict"})
    spec = importlib.util.spec_from_file_location("reward_probe", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        yield f"openrlhf.train.agent_func_path={file} is no Python file"
        return
    # the hook reads its variables when it is loaded; afterwards they are as they were
    with patch.dict(os.environ, build_reward_environment(reward, seed)):
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for row in rows if file == HOOK_FILE else rows[:1]:
                rewards = []
                for letter in (row["answer"], "B" if row["answer"] == "A" else "A"):
                    text = f"{row['prompt']}<think> x </think>\n<answer> {letter} </answer>"
                    judged = module.reward_func([text], [row["prompt"]], [row["label"]])
                    rewards += [judged["rewards"]]
                if reward.control is None and rewards[0] <= rewards[1]:
                    yield (
                        f"the reward hook {file} gives {rewards[0]} to a right response and "
                        f"{rewards[1]} to a wrong one, for row {row['id']}"
                    )
                    return
        except UserError as error:  # of reward.options
            yield from error.problems
        except Exception as error:  # a user's own hook may raise anything
            yield f"the reward hook {file} fails on the training rows: {error!r:.300}"


def check_likelihood(rows: list[dict[str, Any]], reward: Any) -> Iterator[str]:
    """Check that the rows have a reference, and that nothing else is to make the reward."""
    wanted = f"reward.kind={reward.kind}"
    if any(json.loads(row["label"]).get("kind") != "text" for row in rows):
        yield f"{wanted} needs rows with references: data=bank_open, or data.openly=true"
    if reward.hook != "agent":
        yield f"{wanted} asks the engine, which reward.hook={reward.hook} cannot: reward.hook=agent"
    if reward.control is not None:
        yield f"{wanted} goes with no control: reward.control=null"
