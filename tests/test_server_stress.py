"""OpenRLHF's own client on every reward path, a server that dies, malformed bodies by the thousand, slow clients.

python -m pytest tests/test_server_stress.py -m slow      # about three minutes
"""

import asyncio
import collections
import contextlib
import importlib.util
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import psutil
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
HOOK = ROOT / "reward_server" / "openrlhf_hook.py"
PROMPT = "Use <think> </think> and <answer> </answer> tags.\nUser: Which? é 发\nAssistant:\n"
RIGHT = "<think>Fever and a rash.</think><answer>C</answer><|endoftext|>"
SAMPLES = 1000
OPTIONS = ["Aspirin", "Glipizide", "Metformin", "Insulin"]


def load_test_module(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_malformed_bodies = load_test_module("test_server").make_malformed_bodies
build_tokenizer = load_test_module("test_hook").build_tokenizer
hostile_strings = load_test_module("test_verifier").hostile_strings


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(port, **environ):
    command = [sys.executable, "-m", "reward_server.server", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).read()
            return process
        except OSError:
            assert process.poll() is None, "the server ended at once"
            time.sleep(0.05)
    raise TimeoutError("the server does not answer")


@pytest.fixture
def servers():
    """Three running servers: their URLs."""
    ports = [find_port() for _ in range(3)]
    processes = [start_server(port) for port in ports]
    yield [f"http://127.0.0.1:{port}/get_reward" for port in ports]
    for process in processes:
        process.terminate()
        assert process.wait(timeout=10) == 0


@pytest.fixture
def executor_class():
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    return SingleTurnAgentExecutor


def make_agent(monkeypatch, **environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("agent_module", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AgentExecutor()


def make_samples(tokenizer, count):
    """(token ids of the response, label): hostile text, well-formed text, and ids at random."""
    draw = random.Random(7)
    texts = [
        text.encode("utf-8", "replace").decode() for text in hostile_strings(seed=7, count=count)
    ]
    samples = []
    for number, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if number % 10 == 0:
            ids = draw.choices(range(len(tokenizer)), k=50)  # invalid UTF-8 as well
        if number % 7 == 0:
            ids = tokenizer(
                RIGHT.replace("C<", draw.choice("ABCDE") + "<"), add_special_tokens=False
            )["input_ids"]
        split = draw.choice(["train", "train", "test"])
        label = {
            "id": f"bank/{split}/{number}",
            "split": split,
            "answer": draw.choice("ABCD"),
            "options": OPTIONS,
        }
        samples.append((ids, json.dumps(label)))
    return samples


def run_samples(executor, tokenizer, samples, at_once=64):
    """Drive `execute` as the engine does, `at_once` samples together: (reward, scores, extra_logs) of each."""
    parameters = SimpleNamespace(max_tokens=64, temperature=1.0, logprobs=None)

    async def run():
        gate = asyncio.Semaphore(at_once)

        async def run_one(ids, label):
            async def generate(prompt_token_ids, sampling_params, multi_modal_data=None):
                return SimpleNamespace(
                    outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)]
                )

            async with gate:
                engine = SimpleNamespace(generate=generate)
                return await executor.execute(PROMPT, label, parameters, 4096, tokenizer, engine)

        return await asyncio.gather(*(run_one(ids, label) for ids, label in samples))

    outputs = asyncio.run(run())
    return [
        (
            read_one(out["reward"]),
            read_one(out["scores"]),
            {k: read_one(v) for k, v in out["extra_logs"].items()},
        )
        for out in outputs
    ]


def read_one(value):
    """The engine makes a tensor of a number or of a list of one."""
    import torch

    return torch.tensor([value]).flatten().item()


def test_every_path_gives_the_same_rewards(servers, executor_class, monkeypatch, tmp_path):
    tokenizer = build_tokenizer()
    samples = make_samples(tokenizer, SAMPLES)
    results = {
        "function": run_samples(executor_class(str(HOOK)), tokenizer, samples),
        "server": run_samples(executor_class(servers[0]), tokenizer, samples),
        "three servers": run_samples(executor_class(servers), tokenizer, samples),
        "agent": run_samples(
            make_agent(monkeypatch, MEDRLVR_ROLLOUTS=str(tmp_path)), tokenizer, samples
        ),
        "agent, servers": run_samples(
            make_agent(monkeypatch, MEDRLVR_REWARD_URL=",".join(servers)), tokenizer, samples
        ),
    }
    for name, result in results.items():
        assert len(result) == SAMPLES, name
        assert result == results["function"], name
    rewards = collections.Counter(reward for reward, _, _ in results["function"])
    assert set(rewards) == {-1.0, 0.0, 1.0}
    assert min(rewards.values()) >= 20, rewards
    rows = [json.loads(line) for path in tmp_path.iterdir() for line in path.open(encoding="utf-8")]
    assert len(rows) == 2 * SAMPLES  # of both agents, which are in one process here
    by_id = {row["id"]: row["reward"] for row in rows}
    assert by_id == {
        json.loads(label)["id"]: result[0]
        for (_, label), result in zip(samples, results["agent"], strict=True)
    }
    counts = [
        urllib.request.urlopen(url.replace("get_reward", "metrics")).read().decode()
        for url in servers
    ]
    answered = [
        float(text.split('reward_requests_total{status="200"} ')[1].split()[0]) for text in counts
    ]
    assert sum(answered) == 3 * SAMPLES
    assert (
        answered[0] - SAMPLES
        == pytest.approx(answered[1], abs=2)
        == pytest.approx(answered[2], abs=2)
    ), "rotation"


def test_a_server_that_dies_and_returns_loses_no_sample(executor_class, monkeypatch):
    port, tokenizer = find_port(), build_tokenizer()
    samples = make_samples(tokenizer, 300)
    expected = run_samples(make_agent(monkeypatch), tokenizer, samples)
    agent = make_agent(monkeypatch, MEDRLVR_REWARD_URL=f"http://127.0.0.1:{port}/get_reward")
    first = start_server(port)
    before = run_samples(agent, tokenizer, samples[:100])
    first.send_signal(signal.SIGKILL)
    first.wait()
    code = f"import time, runpy, sys; time.sleep(8); sys.argv = ['server', '--port', '{port}'];"
    code += "runpy.run_module('reward_server.server', run_name='__main__')"
    second = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    start = time.monotonic()
    after = run_samples(agent, tokenizer, samples[100:])
    assert time.monotonic() - start > 5, "the server was not away"
    second.terminate()
    second.wait()
    assert before + after == expected


def test_a_server_that_stays_away_is_named(monkeypatch):
    url = f"http://127.0.0.1:{find_port()}/get_reward"
    agent = make_agent(
        monkeypatch,
        MEDRLVR_REWARD_URL=url,
        MEDRLVR_REWARD_TOKEN="a-secret",
        MEDRLVR_REWARD_PATIENCE="1",
    )
    tokenizer = build_tokenizer()
    with pytest.raises(
        ConnectionError, match=f"reward server {url}: ClientConnectorError.*reward_server.server"
    ) as caught:
        run_samples(agent, tokenizer, make_samples(tokenizer, 3))
    assert "a-secret" not in str(caught.value)


def test_a_refused_token_is_named_without_waiting(monkeypatch, caplog):
    port, tokenizer = find_port(), build_tokenizer()
    process = start_server(port, MEDRLVR_REWARD_TOKEN="a+&b#c%41d")
    url = f"http://127.0.0.1:{port}/get_reward"
    try:
        right = make_agent(monkeypatch, MEDRLVR_REWARD_URL=url, MEDRLVR_REWARD_TOKEN="a+&b#c%41d")
        assert len(run_samples(right, tokenizer, make_samples(tokenizer, 20))) == 20
        wrong = make_agent(
            monkeypatch, MEDRLVR_REWARD_TOKEN="a-mistyped-secret", MEDRLVR_REWARD_PATIENCE="600"
        )
        with pytest.raises(ConnectionError, match=r"HTTP 401.*wrong token") as caught:
            run_samples(wrong, tokenizer, make_samples(tokenizer, 3))
        assert "a-mistyped-secret" not in str(caught.value) + caplog.text
    finally:
        process.terminate()
        process.wait()


def test_ten_thousand_malformed_bodies(servers):
    """Also with wild headers; and the server answers right afterwards."""
    draw = random.Random(3)
    headers = [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "deflate"},
    ]

    async def run():
        statuses = collections.Counter()
        bodies = make_malformed_bodies(seed=11, count=10_000)
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def send():
                for body in bodies:
                    extra = draw.choice(headers) if draw.random() < 0.1 else {}
                    sent = JSON | extra
                    async with session.post(servers[0], data=body, headers=sent) as response:
                        statuses[response.status] += 1
                        text = await response.text()
                        assert response.status == 200 or text, body

            await asyncio.gather(*(send() for _ in range(16)))
        return statuses

    statuses = asyncio.run(run())
    assert sum(statuses.values()) == 10_000
    assert max(statuses) < 500, statuses
    assert statuses[400] > 1000, statuses
    assert statuses[422] > 500, statuses
    body = json.dumps(
        {"query": [PROMPT + RIGHT], "prompts": [PROMPT], "labels": [make_samples_label()]}
    ).encode()
    request = urllib.request.Request(servers[0], body, JSON)
    assert json.load(urllib.request.urlopen(request))["rewards"] == [1.0]


def make_samples_label():
    label = {"id": "bank/train/1", "split": "train", "answer": "C", "options": OPTIONS}
    return json.dumps(label)


def test_raw_junk_on_the_socket(servers):
    """What is not HTTP at all gets a 4xx or a closed connection, and harms nobody."""
    draw = random.Random(5)
    host, port = servers[0].split("/")[2].split(":")
    for _ in range(300):
        junk = draw.choice(
            [
                b"",
                b"POST /get_reward HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            ]
        )
        junk += draw.randbytes(draw.randrange(200))
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(junk + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(100)
        assert reply == b"" or reply.startswith((b"HTTP/1.0 4", b"HTTP/1.1 4")), reply
    urllib.request.urlopen(servers[0].replace("get_reward", "healthz")).read()


def test_a_thousand_connections_and_slow_clients_starve_nobody(servers):
    """1,000 connections that send half a request and stop, while others ask: these are answered fast and rightly."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, port = servers[0].split("/")[2].split(":")
    request = {"query": [PROMPT + RIGHT], "prompts": [PROMPT], "labels": [make_samples_label()]}

    async def run():
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(1000)]
        for number, (_, writer) in enumerate(slow):
            head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            writer.write(head + (b'\r\n{"query": [' if number % 2 else b""))
        times = []
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                start = time.perf_counter()
                async with session.post(servers[0], json=request) as response:
                    assert (await response.json())["rewards"] == [1.0]
                times.append(time.perf_counter() - start)

            async def ask():
                async with (
                    aiohttp.ClientSession() as own,
                    own.post(servers[0], json=request) as response,
                ):
                    return (await response.json())["rewards"]

            answers = await asyncio.gather(*(ask() for _ in range(1000)))
        for _, writer in slow:
            writer.close()
        return sorted(times), answers

    times, answers = asyncio.run(run())
    assert answers == [[1.0]] * 1000
    assert times[int(0.95 * len(times))] < 0.25, (
        f"95 % within {times[int(0.95 * len(times))]:.3f} s"
    )


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    """Within READ_SECONDS (shortened here): 408."""
    from aiohttp.test_utils import TestServer

    from reward_server import server as module
    from reward_server.scoring import read_settings

    monkeypatch.setattr(module, "READ_SECONDS", 0.5)

    async def run():
        server = TestServer(module.RewardServer(read_settings({})).build_app())
        await server.start_server()
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 100\r\n\r\n{")
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await server.close()
        return line

    assert b" 408 " in asyncio.run(run())


def test_a_compressed_body_is_never_unpacked():
    """8 GB of zeros in 8 MB, sent without a token, costs the server no time."""
    packer = zlib.compressobj(1)
    block = packer.compress(bytes(10_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block + (block[2:] * 800)  # without the head, a block may be repeated
    process = start_server(port := find_port(), MEDRLVR_REWARD_TOKEN="sesame, open")
    try:
        watched = psutil.Process(process.pid)
        before = watched.cpu_times().user
        for path in ("get_reward", "healthz"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/{path}", packed, {"Content-Encoding": "deflate"}
            )
            with contextlib.suppress(urllib.error.HTTPError, OSError):
                urllib.request.urlopen(request, timeout=30)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).read()
        assert watched.cpu_times().user - before < 0.5
    finally:
        process.terminate()
        process.wait()
