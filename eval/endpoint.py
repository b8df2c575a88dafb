"""Asks an OpenAI-compatible server: many requests at a time, retried with back-off, then counted as errors.

The key, where one is needed, is read from the environment (OPENAI_API_KEY) and written nowhere.
"""

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import aiohttp
from omegaconf import DictConfig, OmegaConf

from data_prep.errors import UserError
from eval.samples import Answer, Request

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
FATAL = {
    401: "set OPENAI_API_KEY",
    403: "set OPENAI_API_KEY",
    404: "check endpoint and the served name in models",
}
MAX_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""


class RetryableError(Exception):
    """An attempt that failed in a way that may pass. `wait`: seconds the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def ask_endpoint(
    cfg: DictConfig,
    served_name: str,
    requests: list[tuple[Request, dict[str, Any]]],
    receive: Callable[[int, Answer], None],
) -> None:
    """Asks for every request with its sampling settings and calls `receive(index, answer)` as each answer comes.

    Raises UserError where no request can succeed (wrong key, unknown model); every other failure is an answer with
    its error, after `endpoint_options.retries` further attempts.
    """
    asyncio.run(_ask_all(cfg, served_name, requests, receive))


async def _ask_all(
    cfg: DictConfig,
    served_name: str,
    requests: list[tuple[Request, dict[str, Any]]],
    receive: Callable[[int, Answer], None],
) -> None:
    options = cfg.endpoint_options
    key = os.environ.get("OPENAI_API_KEY")
    url = f"{cfg.endpoint.rstrip('/')}/{'chat/completions' if options.api == 'chat' else 'completions'}"
    queue = iter(enumerate(requests))
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=aiohttp.ClientTimeout(total=options.timeout),
        connector=aiohttp.TCPConnector(limit=options.concurrency),
        trust_env=True,
    ) as session:

        async def work() -> None:
            for index, (request, sampling) in queue:  # shared: each request is taken once
                body = build_body(served_name, request, sampling, options)
                receive(index, await _ask_one(session, url, body, options))

        workers = [
            asyncio.create_task(work()) for _ in range(min(options.concurrency, len(requests)))
        ]
        try:
            await asyncio.gather(*workers)  # not a TaskGroup: Python 3.10 has none
        finally:
            for worker in workers:
                worker.cancel()


def build_body(
    served_name: str, request: Request, sampling: dict[str, Any], options: DictConfig
) -> dict[str, Any]:
    """The JSON of one request; `endpoint_options.extra` adds fields that only some servers know."""
    chat = options.api == "chat"
    body: dict[str, Any] = {
        "model": served_name,
        **(
            {"messages": [{"role": "user", "content": request.prompt}]}
            if chat
            else {"prompt": request.prompt}
        ),
        "max_tokens": sampling["max_new_tokens"],
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "seed": request.seed,
    }
    if sampling["stop"]:
        body["stop"] = sampling["stop"]
    extra: Any = OmegaConf.to_container(options, resolve=True)
    return {**body, **(extra["extra"] or {})}


async def _ask_one(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], options: DictConfig
) -> Answer:
    reason = ""
    for attempt in range(options.retries + 1):
        try:
            return await _attempt(session, url, body)
        except RetryableError as error:
            reason, wait = str(error), error.wait
        except asyncio.TimeoutError:
            reason, wait = f"timeout: no answer within {options.timeout} s", 0.0
        except aiohttp.ClientError as error:
            reason, wait = f"connection: {type(error).__name__} {error}"[:200], 0.0
        except PermanentError as error:
            return Answer(error=str(error))
        if attempt < options.retries:
            back_off = (
                options.backoff * 2**attempt * random.uniform(0.5, 1.5)
            )  # spread, or all would come back at once
            await asyncio.sleep(min(MAX_WAIT, max(wait, back_off)))
    return Answer(error=f"{reason} ({options.retries + 1} attempts)")


class PermanentError(Exception):
    """The server refuses this request and would refuse it again."""


async def _attempt(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    async with session.post(url, json=body) as response:
        if response.status in FATAL:
            raise UserError(
                f"{url} answers {response.status}: {FATAL[response.status]} (model {body['model']!r})"
            )
        if response.status in RETRIED:
            wait = response.headers.get("Retry-After", "")
            raise RetryableError(
                f"http_{response.status}",
                float(wait) if wait.replace(".", "", 1).isdigit() else 0.0,
            )
        if response.status != 200:
            raise PermanentError(f"http_{response.status}: {(await response.text())[:200]}")
        try:
            content = await response.json(content_type=None)
            return read_content(content)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RetryableError(f"malformed: {type(error).__name__} {error}"[:200]) from error


def read_content(content: Any) -> Answer:
    """The answer in a completion's JSON. Raises KeyError, IndexError or TypeError where it is no completion."""
    choice = content["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if not isinstance(text, str):
        raise TypeError(f"the text is {type(text).__name__}")
    tokens = (content.get("usage") or {}).get("completion_tokens")
    return Answer(text, int(tokens or 0), choice.get("finish_reason") == "length")


def find_endpoint_problems(cfg: DictConfig, served: list[str]) -> list[str]:
    """Whether the server answers at all and serves these names (where it lists what it serves)."""

    async def list_models() -> Any:
        timeout = aiohttp.ClientTimeout(total=min(30, cfg.endpoint_options.timeout))
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session,
            session.get(f"{cfg.endpoint.rstrip('/')}/models") as response,
        ):
            return await response.json(content_type=None) if response.status == 200 else None

    try:
        listed = asyncio.run(list_models())
        known = {model["id"] for model in listed["data"]} if listed else set(served)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        if isinstance(
            error, aiohttp.ClientConnectorError | aiohttp.InvalidURL | asyncio.TimeoutError
        ):
            return [
                f"endpoint={cfg.endpoint} does not answer ({type(error).__name__} {error}): start the server first"
            ]
        return []  # it answers, though not with a list of models: each request will tell
    except (KeyError, TypeError):
        return []
    return [
        f"endpoint={cfg.endpoint} serves no {name!r}: it has {', '.join(sorted(known))}"
        for name in served
        if name not in known
    ]
