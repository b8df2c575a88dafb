"""The reward over HTTP: wire format, refusals, tokens, health, counts, stop. Under load: test_server_stress.py."""

import asyncio
import gzip
import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from data_prep.errors import UserError
from reward_server.client import RewardClient, read_reply, read_token
from reward_server.scoring import read_settings
from reward_server.server import (
    MAX_BATCH,
    MAX_BODY_BYTES,
    MAX_CHARACTERS,
    MAX_LABEL,
    RewardServer,
    is_local,
    is_our_fault,
    main,
)
from reward_server.signals import SIGNALS

ROOT = Path(__file__).parents[1]
PROMPT = "Which?\nAssistant:\n"
JSON = {"Content-Type": "application/json"}
RIGHT = "<think>Fever and a rash.</think><answer>C</answer><|endoftext|>"


def make_label(**changes):
    options = ["Aspirin", "Glipizide", "Metformin", "Insulin"]
    label = {"id": "medqa/train/7", "split": "train", "answer": "C", "options": options}
    return json.dumps(label | changes)


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
        await server.start_server(auto_decompress=False)  # as main does
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
        async with session.post(url + path, data=data, **{"headers": JSON, **options}) as response:
            return response.status, await response.json(), response.reason

    return talk(conversation, token)


def test_wire_format():
    status, reply, _ = post(make_request(RIGHT))
    assert status == 200
    assert reply == {
        "rewards": [1.0],
        "scores": [1.0],
        "extra_logs": {
            "accuracy": [1.0],
            "format": [1.0],
            "leak": [0.0],
            "pre_think": [0.0],
            "think_words": [4.0],
            "pre_think_words": [0.0],
            "repetition": [0.0],
        },
    }


def test_batches_keep_their_order_and_may_be_empty():
    _, reply, _ = post(make_request(RIGHT, "C", RIGHT.replace("C", "B")))
    assert reply["rewards"] == [1.0, -1.0, 0.0]
    status, reply, _ = post(make_request())
    assert (status, reply["rewards"], reply["scores"]) == (200, [], [])
    assert reply["extra_logs"] == {signal.name: [] for signal in SIGNALS}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe\x00", 400, "the body is not JSON"),
        (b"[" * 200_000, 400, "the body is not JSON"),
        ([], 400, "the body: Input should be a valid dictionary"),
        (None, 400, "the body: Input should be a valid dictionary"),
        ({}, 400, "query: Field required"),
        ({"query": "x", "prompts": ["x"], "labels": ["x"]}, 400, "query: Input should be"),
        ({"query": ["x"], "prompts": [None], "labels": ["x"]}, 400, "prompts.0: Input should be"),
        ({"query": ["x"], "prompts": ["x"], "labels": [{"answer": "C"}]}, 400, "labels.0: Input"),
        (
            {"query": ["x"], "prompts": ["x"], "labels": []},
            400,
            "query, prompts, labels have different lengths: [1, 1, 0]",
        ),
        (make_request("x" * (MAX_CHARACTERS + 1)), 413, f"{MAX_CHARACTERS} characters"),
        (make_request("x") | {"labels": ["x" * (MAX_LABEL + 1)]}, 413, f"{MAX_LABEL} a label"),
        (make_request(*["C"] * (MAX_BATCH + 1)), 413, f"the limit is {MAX_BATCH} samples"),
        (make_request(RIGHT, answer="E"), 422, "row 'medqa/train/7': answer 'E'"),
        (make_request(RIGHT, id="\ud800\r\nX: y"), 422, "label.id='\\ud800\\r\\nX: y': must be"),
        (
            {"query": ["other"], "prompts": ["x"], "labels": [make_label()]},
            422,
            "does not begin with its prompt",
        ),
        (b" " * (MAX_BODY_BYTES + 1), 413, f"body size {MAX_BODY_BYTES} exceeded"),
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


@pytest.mark.parametrize("path", ["/get_reward", "/healthz", "/metrics"])
@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"0" * 200_000_000, 1)])
def test_a_compressed_body_is_refused_before_it_is_read(path, body):
    """Nothing is unpacked: 200 MB of zeros would take a second."""
    start = time.process_time()
    method = "POST" if path == "/get_reward" else "GET"

    async def conversation(session, url):
        headers = {"Content-Encoding": "gzip"}
        async with session.request(method, url + path, data=body, headers=headers) as response:
            return response.status, await response.json()

    status, reply = talk(conversation)
    assert status == 415
    assert "compressed" in reply["error"]
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("path", ["/get_reward", "/healthz", "/metrics", "/other"])
def test_a_web_page_in_the_users_browser_is_refused(path):
    """A page may send a request to 127.0.0.1; the browser then adds where the page comes from."""
    for origin in ("https://example.org", "null", ""):
        headers = JSON | {"Origin": origin}
        method = "POST" if path == "/get_reward" else "GET"

        async def conversation(session, url, method=method, headers=headers):
            body = json.dumps(make_request(RIGHT)).encode() if method == "POST" else None
            async with session.request(method, url + path, data=body, headers=headers) as response:
                return response.status, await response.json()

        status, reply = talk(conversation)
        assert status == 403 and "Origin" in reply["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_of_another_content_type_is_refused(kind):
    """The types that a web page may send to another site without asking it first."""
    headers = {"Content-Type": kind} if kind else {}
    status, reply, phrase = post(make_request(RIGHT), headers=headers)
    assert status == 415
    assert "send application/json" in reply["error"] and "send application/json" in phrase
    assert (
        post(make_request(RIGHT), headers={"Content-Type": "application/json; charset=utf-8"})[0]
        == 200
    )


def test_others_are_answered_while_a_large_batch_is_judged():
    request = make_request(*["Measles is one thought. " * 150 + RIGHT] * 300)

    async def conversation(session, url):
        waits = []

        async def post():
            async with session.post(url + "/get_reward", json=request) as response:
                return response.status

        batch = asyncio.create_task(post())
        await asyncio.sleep(0.05)
        while not batch.done():
            start = time.perf_counter()
            await (await session.get(url + "/healthz")).read()
            waits.append(time.perf_counter() - start)
        return await batch, waits

    status, waits = talk(conversation)
    assert status == 200
    assert len(waits) > 10, "the batch was judged in one piece"
    assert sorted(waits)[len(waits) // 2] < 0.1


ODD_TOKEN = "+a&b#c%41 d/=?\"'é发😀"


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/get_reward", None, 401),
        ("/get_reward", "Bearer wrong", 401),
        ("/get_reward", "sésame", 401),
        ("/get_reward", ODD_TOKEN, 401),
        ("/get_reward", f"Bearer {ODD_TOKEN}", 200),
        ("/get_reward", f"bearer {ODD_TOKEN}", 401),
        ("/get_reward?token=sesame", None, 401),
        ("/get_reward?token=sesame", f"Bearer {ODD_TOKEN}", 200),
        ("/metrics", None, 401),
        ("/metrics", f"Bearer {ODD_TOKEN}", 200),
        ("/healthz", None, 200),
    ],
)
def test_tokens_travel_in_the_header_only(path, header, status):
    headers = JSON | ({"Authorization": header} if header else {})
    method = "POST" if path.startswith("/get_reward") else "GET"

    async def conversation(session, url):
        body = json.dumps(make_request(RIGHT)).encode() if method == "POST" else None
        async with session.request(method, url + path, data=body, headers=headers) as response:
            return response.status

    assert talk(conversation, token=ODD_TOKEN) == status


def test_a_token_in_the_url_is_no_token():
    assert post(make_request(RIGHT), token="sesame", path="/get_reward?token=sesame")[0] == 401


@pytest.mark.parametrize("token", [" sesame", "sesame\n", "ses\name", "ses\x7fame", "\u200b"])
def test_a_token_that_no_header_carries_is_refused(token):
    with pytest.raises(UserError, match="MEDRLVR_REWARD_TOKEN has white space at an end or a char"):
        read_token({"MEDRLVR_REWARD_TOKEN": token})


def ask_through_client(statuses, token="", patience=0.0, urls=1, body=None):
    """Let our own client ask servers that answer with `statuses` in turn: its reply and what they saw."""
    seen = []

    async def answer(request):
        seen.append((request.path_qs, request.headers.get("Authorization")))
        status = statuses[min(len(seen), len(statuses)) - 1]
        reply = {"rewards": [1.0], "scores": [1.0], "extra_logs": {"leak": [0.0]}}
        if body is not None:
            return web.Response(body=body, content_type="application/json")
        return web.json_response(reply if status == 200 else {"error": "no"}, status=status)

    async def run():
        app = web.Application()
        app.router.add_post("/{name}", answer)
        server = TestServer(app)
        await server.start_server()
        try:
            names = [str(server.make_url(f"/{number}")) for number in range(urls)]
            client = RewardClient(names, token, patience)
            return [await client.ask("a query", "a ", "{}") for _ in range(urls)]
        finally:
            await server.close()

    return asyncio.run(run()), seen


def test_our_client_sends_the_token_in_the_header_and_takes_turns():
    replies, seen = ask_through_client([200], token=ODD_TOKEN, urls=3)
    assert replies == [{"rewards": 1.0, "scores": 1.0, "extra_logs": {"leak": 0.0}}] * 3
    assert [path for path, _ in seen] == ["/0", "/1", "/2"]
    sent = {header.encode("utf-8", "surrogateescape") for _, header in seen}
    assert sent == {f"Bearer {ODD_TOKEN}".encode()}


@pytest.mark.process
def test_our_client_waits_for_a_server_that_comes_back():
    replies, seen = ask_through_client([503, 200], patience=30)
    assert replies[0]["rewards"] == 1.0 and len(seen) == 2


def test_our_client_names_a_refusal_at_once_and_no_token(caplog):
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(ConnectionError, match=r"reward server http://\S+/0: HTTP 401: ") as caught,
    ):
        ask_through_client([401], token="a-secret", patience=600)
    assert "a-secret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        {},
        {"rewards": [1.0, 0.0], "scores": [1.0], "extra_logs": {}},
        {"rewards": [float("nan")], "scores": [1.0], "extra_logs": {}},
        {"rewards": ["x"], "scores": [1.0], "extra_logs": {}},
        {"rewards": [1.0], "scores": [1.0], "extra_logs": []},
        {"rewards": [1.0], "scores": [1.0], "extra_logs": {"leak": 0.0}},
        {"rewards": [10**400], "scores": [1.0], "extra_logs": {}},
        {"rewards": [1.0], "scores": [float("nan")], "extra_logs": {}},
        {"rewards": [1.0], "scores": [1.0], "extra_logs": {"leak": [float("inf")]}},
    ],
)
def test_our_client_refuses_other_replies(reply):
    with pytest.raises(ValueError, match="the reward server's reply is not"):
        read_reply(json.dumps(reply))


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"[" * 100_000, b"\xff", b"NaN"])
def test_our_client_says_what_is_no_reply(body):
    with pytest.raises(ValueError, match="the reward server's reply is not"):
        ask_through_client([200], body=body)


def test_metrics_count():
    async def conversation(session, url):
        await session.post(url + "/get_reward", json=make_request(RIGHT, "C"))
        await session.post(url + "/get_reward", data=b"{", headers=JSON)
        return await (await session.get(url + "/metrics")).text()

    lines = talk(conversation).splitlines()
    for line in (
        'reward_requests_total{status="200"} 1.0',
        'reward_requests_total{status="400"} 1.0',
        'reward_verdicts_total{reason="correct"} 1.0',
        'reward_verdicts_total{reason="no_tags"} 1.0',
        'reward_verdicts_total{reason="wrong"} 0.0',
        'reward_verdicts_total{reason="ambiguous"} 0.0',
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
            async with session.post(url + "/get_reward", data=body, headers=JSON) as response:
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


@pytest.mark.process
def test_the_process_starts_and_stops():
    port = find_port()
    process = start_server(port=port, MEDRLVR_REWARD='{"mode": "strict"}')
    body = json.dumps(make_request("First. " + RIGHT)).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/get_reward", body, JSON)
    reply = json.load(urllib.request.urlopen(request, timeout=5))
    assert reply["rewards"] == [-1.0]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"http://127.0.0.1:{port}/get_reward, mode='strict'" in output
    assert "reward server: stopped" in output


@pytest.mark.process
def test_a_half_sent_body_gets_a_reply_when_the_server_stops():
    port = find_port()
    process = start_server(port=port)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 99\r\n\r\n{")
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 the server stops")
    assert "ask again" in json.loads(body)["error"]
    assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--host", "0.0.0.0"], {}, "lets other machines in: set a token"),
        (["--host", "0.0.0.0"], {"MEDRLVR_REWARD_TOKEN": "x"}, "a token of 8 characters or more"),
        (["--host", "no.such.host.invalid"], {"MEDRLVR_REWARD_TOKEN": "x" * 8}, "cannot listen on"),
        (["--port", "65536"], {}, "--port 65536 must be 0 (any free one) to 65535"),
        (["--port", "-1"], {}, "--port -1 must be"),
        ([], {"MEDRLVR_REWARD": '{"mode": "loose"}'}, "reward.mode=loose: must be 'paper' or"),
        ([], {"MEDRLVR_REWARD_TOKEN": " a token "}, "no HTTP header carries"),
    ],
)
def test_the_process_refuses(arguments, environ, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["server", "--port", str(find_port()), *arguments])
    for name in ("MEDRLVR_REWARD", "MEDRLVR_REWARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main()
    assert message in caught.value.code
    assert "\n" not in caught.value.code and capsys.readouterr().err == ""


@pytest.mark.process
@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_any_free_port_and_ipv6_are_shown_as_they_are(host, shown):
    command = [sys.executable, "-m", "reward_server.server", "--port", "0", "--host", host]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(
            rf"reward server: (http://{re.escape(shown)}:([1-9]\d*))/get_reward, ", line
        )
        assert found, line
        urllib.request.urlopen(f"{found[1]}/healthz", timeout=5).read()
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.process
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


def test_a_client_s_bad_http_fills_no_log(caplog):
    """A request line of 20 kB used to leave 30 kB of traceback."""

    async def run():
        server = TestServer(RewardServer(read_settings({})).build_app())
        await server.start_server()
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")
        line = await reader.readline()
        writer.close()
        await server.close()
        return line

    logger = logging.getLogger("aiohttp.server")
    logger.addFilter(is_our_fault)
    try:
        assert b" 400 " in asyncio.run(run())
    finally:
        logger.removeFilter(is_our_fault)
    assert "Traceback" not in caplog.text and len(caplog.text) < 1000
