"""Ask an OpenAI-compatible server: many requests at a time, retried with back-off, then errors.

Whatever a server sends becomes an answer or an error; only a wrong key or name ends the run.
The key, where one is needed, is read from the environment (OPENAI_API_KEY) and written nowhere.
"""

import asyncio
import json
import os
import random
import re
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
MAX_BODY = 16 << 20
"""Bytes of one response at most."""
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")  # Retry-After: 1.5; a date is not waited for


class PassingError(Exception):
    """A failed attempt that may succeed next time: its reason, and seconds the server asks for."""


def ask_endpoint(
    cfg: DictConfig,
    served_name: str,
    requests: list[tuple[Request, dict[str, Any]]],
    has_markup: bool,
    receive: Callable[[int, Answer], None],
) -> None:
    """Ask for every request with its sampling settings; call `receive(index, answer)` for each.

    has_markup: prompts bring their special tokens. Raises UserError where no request can succeed
    (wrong key, unknown model); every other failure is an answer with its error.
    """
    options = cfg.endpoint_options
    path = "chat/completions" if options.api == "chat" else "completions"
    url = f"{cfg.endpoint.rstrip('/')}/{path}"
    queue = iter(enumerate(requests))

    async def work(session: aiohttp.ClientSession) -> None:
        # the workers share one queue, so that each request is taken once
        for index, (request, sampling) in queue:
            body = build_body(served_name, request, sampling, has_markup, options)
            receive(index, await ask_one(session, url, body, options))

    async def ask_all() -> None:
        async with open_session(options.timeout, options.concurrency) as session:
            workers = [asyncio.create_task(work(session)) for _ in range(options.concurrency)]
            try:
                await asyncio.gather(*workers)  # Python 3.10 has no TaskGroup
            finally:
                for worker in workers:
                    worker.cancel()

    asyncio.run(ask_all())


def open_session(timeout: float, connections: int = 1) -> aiohttp.ClientSession:
    """Open a session with the user's key that takes no compressed bodies (8 MB can be 8 GB)."""
    key = os.environ.get("OPENAI_API_KEY")
    return aiohttp.ClientSession(
        headers={"Accept-Encoding": "identity"}
        | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=aiohttp.ClientTimeout(total=timeout),
        connector=aiohttp.TCPConnector(limit=connections),
        auto_decompress=False,
        trust_env=True,
    )


def build_body(
    served_name: str,
    request: Request,
    sampling: dict[str, Any],
    has_markup: bool,
    options: DictConfig,
) -> dict[str, Any]:
    """Build the JSON of one request; `endpoint_options.extra` adds fields, null removes one."""
    chat = options.api == "chat"
    body: dict[str, Any] = {
        "model": served_name,
        "max_tokens": sampling["max_new_tokens"],
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "seed": request.seed,
        "prompt": None if chat else request.prompt,
        "messages": [{"role": "user", "content": request.prompt}] if chat else None,
        # the chat template has written BOS already; vLLM's server would add another one
        "add_special_tokens": False if has_markup else None,
        "stop": sampling["stop"] or None,
    }
    extra: Any = OmegaConf.to_container(options.extra, resolve=True) if options.extra else {}
    return {key: value for key, value in (body | extra).items() if value is not None}


async def ask_one(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], options: DictConfig
) -> Answer:
    """Ask until there is an answer, a refusal, or no attempt left."""
    reason, wait = "", 0.0
    for attempt in range(options.retries + 1):
        if attempt:
            # spread, or all requests would come back at once
            back_off = options.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            await asyncio.sleep(min(MAX_WAIT, max(wait, back_off)))
        wait = 0.0
        try:
            return await send(session, url, body)
        except PassingError as error:
            reason, wait = error.args
        except UserError:
            raise
        except asyncio.TimeoutError:
            reason = f"timeout: no answer within {options.timeout} s"
        except Exception as error:  # of any kind, and the other answers still count
            reason = f"connection: {type(error).__name__} {error}"[:200]
    return Answer(error=f"{reason} ({options.retries + 1} attempts)")


async def send(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    """Send one request, read its answer. Raises PassingError, UserError, or what aiohttp raises."""
    async with session.post(url, json=body) as response:
        content, status = await read_body(response), response.status
        text = " ".join(content[:800].decode("utf-8", "replace").split())[:200]
        if status in FATAL:
            raise UserError(f"{url} answers {status}: {FATAL[status]} ({body['model']!r})")
        if status in RETRIED:
            wait = SECONDS.fullmatch(response.headers.get("Retry-After", ""))
            raise PassingError(f"http_{status}", float(wait[0]) if wait else 0.0)
        if status != 200:
            return Answer(error=f"http_{status}: {text}")
        try:
            return read_content(json.loads(content))
        except Exception as error:
            # a 200 whose body says what is wrong needs no word of ours
            kind = "error" if '"error"' in text else f"malformed: {type(error).__name__}"
            raise PassingError(f"{kind} in {text}", 0.0) from error


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body of at most MAX_BODY bytes. Raises PassingError where it is larger."""
    content = bytearray()
    async for part in response.content.iter_chunked(1 << 16):
        content += part
        if len(content) > MAX_BODY:
            raise PassingError(f"malformed: more than {MAX_BODY:,} bytes", 0.0)
    return bytes(content)


def read_content(content: Any) -> Answer:
    """Read a completion's JSON. Raises KeyError, TypeError or the like for anything else."""
    choice = content["choices"][0]
    message = choice.get("message", choice)
    text = message["content"] if "message" in choice else choice["text"]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    ended = choice.get("finish_reason")
    if ended == "content_filter":
        return Answer(error="content_filter: the server withheld the answer")
    if ended in ("abort", "error"):  # half an answer: vLLM's words where its engine stopped
        raise ValueError(ended)
    if isinstance(reasoning, str) and reasoning:
        # a reasoning parser took the tags away: put them back, as the engine would have answered
        text = f"<think>{reasoning}" + ("" if text is None else f"</think>{text}")
    elif text is None and ended in ("length", "stop"):
        text = ""
    if not isinstance(text, str):
        raise TypeError(f"the text is {type(text).__name__}")
    usage = content.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or not 0 <= tokens < 10**9:  # true is an int to isinstance
        tokens = 0
    return Answer(text, tokens, ended == "length")


def find_fingerprints(cfg: DictConfig, served: list[str]) -> dict[str, Any]:
    """Find what `/models` says of the weights behind each served name; None: nothing.

    Raises UserError where the server does not answer, or lists models without one of these names.
    """

    async def list_models() -> Any:
        async with (
            open_session(min(30, cfg.endpoint_options.timeout)) as session,
            session.get(f"{cfg.endpoint.rstrip('/')}/models") as response,
        ):
            return json.loads(await read_body(response)) if response.status == 200 else None

    try:
        models = {str(model["id"]): model for model in asyncio.run(list_models())["data"]}
    except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, asyncio.TimeoutError) as error:
        problem = f"endpoint={cfg.endpoint} does not answer ({type(error).__name__} {error})"
        raise UserError(f"{problem}: start the server first") from error
    except Exception:  # it answers, though not with a list of models: each request will show
        return dict.fromkeys(served)
    if missing := [repr(name) for name in served if name not in models]:
        has = ", ".join(sorted(models))[:500] or "none"
        raise UserError(f"endpoint={cfg.endpoint} serves no {', '.join(missing)}: it has {has}")
    prints: dict[str, Any] = {}
    for name in served:
        # vLLM's `root` is the model's path; `created` is the time of the question
        found = {key: models[name].get(key) for key in ("root", "parent", "max_model_len")}
        # NaN and nested values are no facts, and NaN could not be written
        facts = {key: fact if isinstance(fact, str | int) else None for key, fact in found.items()}
        prints[name] = facts if facts["root"] not in (None, name) else None
    return prints
