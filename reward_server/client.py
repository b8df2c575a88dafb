"""Ask a reward server over HTTP, for the agent.

OpenRLHF's own client logs the token in a URL and gives up silently. Here it is in a header.
"""

import asyncio
import json
import math
import time
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import aiohttp

from data_prep.errors import UserError

TOKEN = "MEDRLVR_REWARD_TOKEN"
TIMEOUT = aiohttp.ClientTimeout(total=180)


class RewardClient:
    """Ask one of several servers in turn. patience: seconds to wait for one that is silent."""

    def __init__(self, urls: list[str], token: str, patience: float) -> None:
        self.urls = cycle(urls)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.patience = patience

    async def ask(self, query: str, prompt: str, label: str) -> dict[str, Any]:
        """Score one sample. Raises ConnectionError: at once for a 4xx, else after `patience`."""
        body = {"query": [query], "prompts": [prompt], "labels": [label]}
        deadline = time.monotonic() + self.patience
        while True:
            url = next(self.urls)
            try:
                # a session a request: the engine may call from several event loops
                async with (
                    aiohttp.ClientSession(timeout=TIMEOUT, headers=self.headers) as session,
                    session.post(url, json=body) as response,
                ):
                    if response.ok:
                        return read_reply(await response.text("utf-8", "replace"))
                    reason = f"HTTP {response.status}: {(await response.text())[:300]}"
                    final = response.status < 500
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                reason, final = f"{type(error).__name__}: {error}", False
            if final or time.monotonic() > deadline:
                raise ConnectionError(
                    f"reward server {url}: {reason}. Start it (`python -m reward_server.server`) "
                    "and resume the run."
                )
            await asyncio.sleep(1)


def read_token(environ: Mapping[str, str]) -> str:
    """Read $MEDRLVR_REWARD_TOKEN, "" without. Raises UserError for one that no header can carry."""
    token = environ.get(TOKEN, "")
    if token != token.strip() or not all(char.isprintable() for char in token):
        raise UserError(
            f"{TOKEN} has white space at an end or a character that cannot be printed, which no "
            f"HTTP header carries: export {TOKEN}=$(openssl rand -hex 16)"
        )
    return token


def read_reply(text: str) -> dict[str, Any]:
    """Read the one sample of a reply. Raises ValueError where its values are no lists of one."""
    try:
        reply = json.loads(text)
        (reward,), (score,) = map(float, reply["rewards"]), map(float, reply["scores"])
        logs = {key: float(value) for key, (value,) in reply["extra_logs"].items()}
        if all(map(math.isfinite, [reward, score, *logs.values()])):
            return {"rewards": reward, "scores": score, "extra_logs": logs}
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        pass  # refused below, like a number that is not finite
    raise ValueError(f"the reward server's reply is not rewards, scores, extra_logs: {text!r:.300}")
