"""The reward over HTTP: wire format, refusals, tokens, health, counts, stop. Under load: test_server_stress.py."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from reward_server.scoring import read_settings
from reward_server.server import LOGGED, MAX_BATCH, MAX_BODY_BYTES, RewardServer, is_local

ROOT = Path(__file__).parents[1]
PROMPT = "Which?\nAssistant:\n"
RIGHT = "<think>Fever and a rash.</think><answer>C</answer><|endoftext|>"


def make_label(**changes):
    return json.dumps(
        {"id": "medqa/train/7", "answer": "C", "num_options": 4, "split": "train", **changes}
    )


def make_request(*responses, **changes):
    labels = [make_label(**changes)] * len(responses)
    return {
        "query": [PROMPT + r for r in responses],
        "prompts": [PROMPT] * len(responses),
        "labels": labels,
    }


def talk(conversation, token=""):
    """Run `conversation(session, url)` against a server in this process."""

    async def run():
        server = TestServer(RewardServer(read_settings({}), token).build_app())
        await server.start_server()
        try:
            async with ClientSession() as session:
                return await conversation(session, str(server.make_url("")).rstrip("/"))
        finally:
            await server.close()

    return asyncio.run(run())


def post(body, token="", path="/get_reward", **options):
    """(status, reply, reason phrase) for one body: bytes, or anything that is sent as JSON."""

    async def conversation(session, url):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with session.post(url + path, data=data, **options) as response:
            return response.status, await response.json(), response.reason

    return talk(conversation, token)


def test_wire_format():
    status, reply, _ = post(make_request(RIGHT))
    assert status == 200
    assert reply == {
        "rewards": [1.0],
        "scores": [1.0],
        "extra_logs": {
            **{
                "accuracy": [1.0],
                "format": [1.0],
                "leak": [0.0],
                "pre_think": [0.0],
                "think_words": [4.0],
            },
            **{"pre_think_words": [0.0], "repetition": [0.0]},
        },
    }


def test_batches_keep_their_order_and_may_be_empty():
    _, reply, _ = post(make_request(RIGHT, "C", RIGHT.replace("C", "B")))
    assert reply["rewards"] == [1.0, -1.0, 0.0]
    status, reply, _ = post(make_request())
    assert (status, reply["rewards"], reply["scores"]) == (200, [], [])
    assert reply["extra_logs"] == {key: [] for key in LOGGED}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe\x00", 400, "the body is not JSON"),
        (b"[" * 200_000, 400, "the body is not JSON"),
        ([], 400, "the body must be a JSON object with query, prompts, labels, not a list"),
        (None, 400, "not a NoneType"),
        ({}, 400, "query must be a list of strings"),
        ({"query": "x", "prompts": ["x"], "labels": ["x"]}, 400, "query must be a list of strings"),
        (
            {"query": ["x"], "prompts": [None], "labels": ["x"]},
            400,
            "prompts must be a list of strings",
        ),
        (
            {"query": ["x"], "prompts": ["x"], "labels": [{"answer": "C"}]},
            400,
            "labels must be a list of strings",
        ),
        (
            {"query": ["x"], "prompts": ["x"], "labels": []},
            400,
            "lists of different lengths: 1, 1, 0",
        ),
        (make_request(*["C"] * (MAX_BATCH + 1)), 413, f"the limit is {MAX_BATCH}"),
        (make_request(RIGHT, answer="E"), 422, "row 'medqa/train/7': answer 'E'"),
        (make_request(RIGHT, id="\ud800\r\nX: y", answer="E"), 422, "answer 'E'"),
        (
            {"query": ["other"], "prompts": ["x"], "labels": [make_label()]},
            422,
            "does not begin with its prompt",
        ),
        (b" " * (MAX_BODY_BYTES + 1), 413, f"more than {MAX_BODY_BYTES} bytes"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_refusals(body, status, reason):
    got_status, reply, phrase = post(body)
    assert got_status == status
    assert reason in reply["error"]
    assert reason[:40] in phrase.replace("\\\\", "\\"), "the engine logs the status line alone"


def test_other_paths_and_methods():
    async def conversation(session, url):
        async with (
            session.get(url + "/get_reward") as first,
            session.post(url + "/other", data=b"") as second,
        ):
            return first.status, second.status

    assert talk(conversation) == (405, 404)


def test_an_unreadable_encoding_is_refused():
    status, reply, _ = post(b"not gzip", headers={"Content-Encoding": "gzip"})
    assert 400 <= status < 500
    assert reply["error"]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/get_reward", {}, 401),
        ("/get_reward", {"Authorization": "Bearer wrong"}, 401),
        ("/get_reward", {"Authorization": "sésame"}, 401),
        ("/get_reward", {"Authorization": "sesame"}, 401),
        ("/get_reward", {"Authorization": "Bearer sesame"}, 200),
        ("/get_reward?token=wrong", {}, 401),
        ("/get_reward?token=", {}, 401),
        ("/get_reward?token=%ff%00", {}, 401),
        ("/get_reward?token=sesame", {}, 200),
    ],
)
def test_tokens(path, headers, status):
    assert post(make_request(RIGHT), token="sesame", path=path, headers=headers)[0] == status


def test_metrics_want_the_token_and_health_does_not():
    async def conversation(session, url):
        paths = ("/metrics", "/metrics?token=sesame", "/healthz")
        return [(await session.get(url + path)).status for path in paths]

    assert talk(conversation, token="sesame") == [401, 200, 200]


def test_metrics_count():
    async def conversation(session, url):
        await session.post(url + "/get_reward", json=make_request(RIGHT, "C"))
        await session.post(url + "/get_reward", data=b"{")
        return await (await session.get(url + "/metrics")).text()

    lines = talk(conversation).splitlines()
    for line in (
        'reward_requests_total{status="200"} 1.0',
        'reward_requests_total{status="400"} 1.0',
        'reward_verdicts_total{reason="correct"} 1.0',
        'reward_verdicts_total{reason="no_tags"} 1.0',
        'reward_verdicts_total{reason="wrong"} 0.0',
        "reward_seconds_count 2.0",
    ):
        assert line in lines


def test_health_notices_a_broken_verdict(monkeypatch):
    async def conversation(session, url):
        first = await session.get(url + "/healthz")
        monkeypatch.setattr(
            "reward_server.server.score_response", lambda *_: (None, {"rewards": 1.0})
        )
        second = await session.get(url + "/healthz")
        return (
            first.status,
            (await first.json())["healthy"],
            second.status,
            (await second.json())["healthy"],
        )

    assert talk(conversation) == (200, True, 503, False)


def test_malformed_bodies():
    """A short run of the fuzzer in tests/test_server_stress.py."""

    async def conversation(session, url):
        statuses = []
        for body in make_malformed_bodies(seed=0, count=200):
            async with session.post(url + "/get_reward", data=body) as response:
                statuses.append(response.status)
                assert response.status == 200 or (await response.json())["error"], body
        return statuses

    statuses = talk(conversation)
    assert max(statuses) < 500
    assert sum(400 <= status < 500 for status in statuses) > 100


def make_malformed_bodies(seed, count):
    """Requests broken at random: bytes flipped, cut or doubled; values of other types; other labels."""
    draw = random.Random(seed)
    values = [
        None,
        True,
        0,
        -1,
        1e308,
        "",
        "C",
        "\ud800",
        [],
        [[]],
        {},
        {"a": 1},
        ["x"],
        [1],
        make_label(),
        "9" * 5000,
    ]
    for number in range(count):
        request = make_request(
            *draw.choices([RIGHT, "C", "\ud800", "<think>" * 50], k=draw.randrange(4))
        )
        if number % 3 == 0:
            request[draw.choice(list(request))] = draw.choice(values)
        elif number % 3 == 1 and request["labels"]:
            label = json.loads(request["labels"][0])
            label[draw.choice(list(label))] = draw.choice(values)
            request["labels"][0] = (
                json.dumps(label)
                if draw.random() < 0.8
                else json.dumps(label)[draw.randrange(20) :]
            )
        body = bytearray(json.dumps(request).encode())
        if number % 3 == 2:
            for _ in range(draw.randrange(1, 6)):
                start = draw.randrange(len(body))
                body[start : start + draw.randrange(8)] = draw.choice(
                    [b"", b"\xff", b"\0", b'"', b"]", b"{", body[start:]]
                )
        yield bytes(body)


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(*arguments, port, **environ):
    """The real process; returned once /healthz answers."""
    command = [sys.executable, "-m", "reward_server.server", "--port", str(port), *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    )
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).read()
            return process
        except OSError:
            assert process.poll() is None, "the server ended at once"
            time.sleep(0.05)
    process.kill()
    raise TimeoutError("the server does not answer")


def test_the_process_starts_and_stops():
    port = find_port()
    process = start_server(port=port, MEDRLVR_REWARD_MODE="strict")
    body = json.dumps(make_request("First. " + RIGHT)).encode()
    reply = json.load(
        urllib.request.urlopen(f"http://127.0.0.1:{port}/get_reward", data=body, timeout=5)
    )
    assert reply["rewards"] == [-1.0]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"http://127.0.0.1:{port}/get_reward, mode strict" in output
    assert "reward server: stopped" in output


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--host", "0.0.0.0"], {}, "lets other machines in: set a token"),
        ([], {"MEDRLVR_REWARD_MODE": "loose"}, "MEDRLVR_REWARD_MODE='loose'"),
    ],
)
def test_the_process_refuses(arguments, environ, message):
    command = [sys.executable, "-m", "reward_server.server", "--port", str(find_port()), *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "reward_server.server", "--port", port]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_local_addresses():
    assert [is_local(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "::", "10.0.0.1", "reward.example")] == [
        False
    ] * 4
