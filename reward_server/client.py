"""Ask a reward server over HTTP for the agent: the engine's own client, without its silence.

The engine's client tries five times, a second apart, and then gives up; the engine swallows that and crashes later,
elsewhere. Here a server that comes back in time costs nothing but the wait, and one that does not is named.
"""

import asyncio
import math
import time
from typing import Any

import aiohttp


async def ask_server(
    executor: Any, query: str, prompt: str, label: str, patience: float
) -> dict[str, Any]:
    """Score one sample. executor: the engine's SingleTurnAgentExecutor, made with the server's URLs.

    Keeps trying for `patience` seconds; every round goes through the engine's rotation over the URLs.
    Returns rewards, scores (floats) and extra_logs ({str: float}).
    Raises ConnectionError that names the server and its reason, at once where it refuses the request (4xx).
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            (reply,) = await executor._fetch_rewards_via_http([query], [prompt], [label])
            return read_reply(reply)
        except RuntimeError:
            reasons = {
                url: await _find_reason(url, query, prompt, label)
                for url in executor.reward_endpoints
            }
            refused = any(reason.startswith("HTTP 4") for reason in reasons.values())
            if refused or time.monotonic() > deadline:
                raise ConnectionError(
                    "; ".join(
                        f"reward server {url.split('?')[0]}: {reason}"
                        for url, reason in reasons.items()
                    )
                    + f". Waited {patience:.0f} s. Start it (`python -m reward_server.server`) and resume the run."
                ) from None  # the engine's own error says only that there was one


def read_reply(reply: Any) -> dict[str, Any]:
    """The one sample of a server's reply, whose values are lists of one.

    Raises ValueError for a reply of any other form.
    """
    try:
        (reward,), (score,), logs = reply["rewards"], reply["scores"], reply["extra_logs"]
        reward, score, logs = (
            float(reward),
            float(score),
            {key: float(value) for key, (value,) in logs.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the reward server's reply is not rewards, scores, extra_logs: {reply!r:.300}"
        ) from error
    if not math.isfinite(reward):
        raise ValueError(
            f"the reward server's reply has a reward that is not finite: {reply!r:.300}"
        )
    return {"rewards": reward, "scores": score, "extra_logs": logs}


async def _find_reason(url: str, query: str, prompt: str, label: str) -> str:
    """Why the server does not answer: its status and text, or the connection's error; `answers again` where it does."""
    payload = {"query": [query], "prompts": [prompt], "labels": [label]}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.post(url, json=payload) as response,
        ):
            return (
                "answers again"
                if response.ok
                else f"HTTP {response.status}: {(await response.text())[:300]}"
            )
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
