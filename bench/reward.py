"""Time a verdict and count the requests of a reward server, each next to what people use instead.

    python bench/reward.py                  # a minute; what is not installed shows as n/a
    .venv/bin/python -m pip install --no-deps --target /tmp/peers trl math-verify latex2sympy2_extended
    PYTHONPATH=/tmp/peers python bench/reward.py

The others are kept out of .venv, and so out of the locks. All are timed in turn on the same strings, the best of many
rounds counts. The gold answer is the bare letter, which is the fastest case of `accuracy_reward`: it cannot read it and
skips. The floor is one compiled `findall` over the four tags; the servers' floor is an aiohttp handler that reads the
request and returns a constant, without looking into it.
"""

import argparse
import asyncio
import json
import logging
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import timeit
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts the folder of this file there, not the root
CHARACTERS_PER_TOKEN = 4.3  # English prose, Qwen2.5's tokenizer
TOKENS = (100, 1000, 8000)
ANSWERS = ("C", "C. Metformin")
FLOOR, OURS = "findall (floor)", "verify"
CONNECTIONS = 256
OPTIONS = ["Aspirin", "Glipizide", "Metformin", "Insulin"]
LABEL = json.dumps({"id": "medqa/train/1", "split": "train", "answer": "C", "options": OPTIONS})
PROMPT = "A 45-year-old man comes to the physician. " * 20 + "\nAssistant:\n"


def make_response(tokens: int, answer: str) -> str:
    """A well-formed response of about `tokens` tokens, as the engine hands it over."""
    frame = "<think>\n{}\n</think>\n<answer>{}</answer><|endoftext|>"
    sentence = "The patient has fever and a rash that suggests measles. "
    length = round(tokens * CHARACTERS_PER_TOKEN) - len(frame.format("", answer))
    return frame.format((sentence * (length // len(sentence) + 1))[:length], answer)


def list_judges() -> dict[str, Callable[[str], object] | None]:
    """What is timed, by name; None for what is not installed."""
    from reward_server.verifier import verify

    tags = re.compile(r"<think>|</think>|<answer>|</answer>")

    judges: dict[str, Callable[[str], object] | None] = {
        FLOOR: lambda response: tags.findall(response),  # in a lambda, as the next
        OURS: lambda response: verify(response, "C", OPTIONS),
        "TRL format + accuracy": None,
        "math-verify": None,
    }
    try:
        from trl.rewards import accuracy_reward, think_format_reward

        def judge_by_trl(response: str) -> object:
            completion = [[{"content": response}]]
            return think_format_reward(completion), accuracy_reward(completion, ["C"])

        judges["TRL format + accuracy"] = judge_by_trl
    except ImportError:
        pass
    try:
        import math_verify

        logging.getLogger("math_verify").setLevel(
            logging.CRITICAL
        )  # it logs every response that it cannot parse
        gold = math_verify.parse("$C$")
        judges["math-verify"] = lambda response: math_verify.verify(
            gold, math_verify.parse(response)
        )
    except ImportError:
        pass
    return judges


def time_judges(
    judges: dict[str, Callable[[str], object] | None], response: str
) -> dict[str, float]:
    """Microseconds a call, by name: the best of 40 rounds, in which all take turns."""
    best: dict[str, float] = {}
    for judge in judges.values():
        if judge is not None:
            judge(response)  # caches and lazy imports
    for number in range(40):
        for name, judge in judges.items():
            if judge is not None and (number < 3 or best[name] < 2000):
                calls = 500 if best.get(name, 1e3) < 100 else 3
                seconds = timeit.timeit(lambda judge=judge: judge(response), number=calls) / calls  # type: ignore[misc]
                best[name] = min(best.get(name, 9e9), seconds * 1e6)
    return best


def show_verdicts(console: Console) -> None:
    judges = list_judges()
    table = Table(title="Microseconds a verdict, and times the floor")
    for column in ("tokens", "answer", *judges, "verify / floor", "fastest other / verify"):
        table.add_column(column, justify="right")
    for tokens in TOKENS:
        for answer in ANSWERS:
            best = time_judges(judges, make_response(tokens, answer))
            others = [best[name] for name in judges if name in best and name not in (FLOOR, OURS)]
            table.add_row(
                f"{tokens:,}",
                answer,
                *(f"{best[name]:.2f}" if name in best else "n/a" for name in judges),
                f"{best[OURS] / best[FLOOR]:.2f}",
                f"{min(others) / best[OURS]:.0f}" if others else "n/a",
            )
    console.print(table)


async def run_clients(url: str, body: bytes, requests: int, keep: bool) -> tuple[float, float]:
    """(requests a second, p99 in ms) of CONNECTIONS clients. keep: connections are kept; else one a request."""
    seconds: list[float] = []
    turns: Iterator[int] = iter(range(requests))
    headers = {"Content-Type": "application/json"}

    async def ask(session: aiohttp.ClientSession) -> None:
        start = time.perf_counter()
        async with session.post(url, data=body, headers=headers) as response:
            assert (await response.json())["rewards"] == [1.0]
        seconds.append(time.perf_counter() - start)

    async def run_kept() -> None:
        async with aiohttp.ClientSession() as session:
            for _ in turns:
                await ask(session)

    async def run_fresh() -> None:
        for _ in turns:
            async with aiohttp.ClientSession() as session:
                await ask(session)

    start = time.perf_counter()
    await asyncio.gather(*(run_kept() if keep else run_fresh() for _ in range(CONNECTIONS)))
    return requests / (time.perf_counter() - start), statistics.quantiles(seconds, n=100)[98] * 1000


def serve_constant(port: int) -> None:
    from reward_server.signals import SIGNALS

    logs = {signal.name: [1.0] for signal in SIGNALS}
    reply = json.dumps({"rewards": [1.0], "scores": [1.0], "extra_logs": logs}).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=reply, content_type="application/json")

    app = web.Application(client_max_size=2**23)
    app.add_routes([web.post("/get_reward", answer), web.get("/healthz", answer)])
    web.run_app(app, host="127.0.0.1", port=port, backlog=4096, access_log=None, print=None)


def start(command: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server on a free port; returned once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *command, str(port)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).read()
            return process, f"http://127.0.0.1:{port}/get_reward"
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"{command} does not answer")


def show_servers(console: Console, requests: int, rounds: int) -> None:
    servers = {
        "a constant": start([str(Path(__file__)), "--constant"]),
        "reward server": start(["-m", "reward_server.server", "--port"]),
    }
    table = Table(
        title=f"Requests a second and p99 at {CONNECTIONS} connections, median of {rounds} rounds in turn"
    )
    for column in ("connections", "tokens", *servers, "share"):
        table.add_column(column, justify="right")
    try:
        for keep in (False, True):
            for tokens in TOKENS[:2]:
                request = {
                    "query": [PROMPT + make_response(tokens, "C")],
                    "prompts": [PROMPT],
                    "labels": [LABEL],
                }
                body = json.dumps(request).encode()
                results: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
                for _ in range(rounds):
                    for name, (_, url) in servers.items():
                        results[name].append(asyncio.run(run_clients(url, body, requests, keep)))
                rates = {
                    name: statistics.median(rate for rate, _ in result)
                    for name, result in results.items()
                }
                tails = {
                    name: statistics.median(tail for _, tail in result)
                    for name, result in results.items()
                }
                share = statistics.median(
                    ours[0] / floor[0]
                    for floor, ours in zip(
                        results["a constant"], results["reward server"], strict=True
                    )
                )
                table.add_row(
                    "kept" if keep else "one a request, as the engine's client",
                    f"{tokens:,}",
                    *(f"{rates[name]:,.0f}/s, {tails[name]:.0f} ms" for name in servers),
                    f"{share:.0%}",
                )
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait()
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=2000, help="requests a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a server")
    parser.add_argument(
        "--constant", type=int, metavar="PORT", help="only serve the constant, for the comparison"
    )
    args = parser.parse_args()
    if args.constant is not None:
        serve_constant(args.constant)
        return
    console = Console(width=140)
    show_verdicts(console)
    show_servers(console, args.requests, args.rounds)


if __name__ == "__main__":
    main()
