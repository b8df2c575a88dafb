"""A real HTTP server that misbehaves: what is retried, what is an error, what stops the run."""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.prepared import FORMAT
from data_prep.rows import Question, build_row
from eval.endpoint import ask_endpoint, build_body, find_fingerprints
from eval.run import evaluate
from eval.samples import Answer, Request

Handler = Callable[[web.Request, dict[str, Any], int], Awaitable[web.StreamResponse]]
SAMPLING = {"max_new_tokens": 9, "temperature": 0.5, "top_p": 1.0, "stop": ["\n\n"]}


class Server:
    """Answers completions with `handler(request, body, attempt of this prompt)` in a thread of its own."""

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: list[dict[str, Any]] = [{"id": "tiny"}]
        self.url = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body.get("prompt") or body["messages"][0]["content"]
        self.asked[prompt] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.handler is not None:
            return await self.handler(request, body, self.asked[prompt])
        return say("B")

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": self.models})


def say(text: str, **choice: Any) -> web.Response:
    return web.json_response(
        {
            "choices": [{"text": text, "finish_reason": "stop", **choice}],
            "usage": {"completion_tokens": 2},
        }
    )


@pytest.fixture
def server() -> Iterator[Server]:
    state, started, loop = Server(), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/completions", state.complete)
        app.router.add_post("/v1/chat/completions", state.complete)
        app.router.add_get("/v1/models", state.list_models)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        state.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        started.set()  # not before: a stop that comes during the start would be lost
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started.wait(30)
    yield state
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def cfg(compose_config: Callable[..., DictConfig], server: Server, tmp_path: Path) -> DictConfig:
    overrides = ["endpoint_options.backoff=0.01", "endpoint_options.retries=3", "models={m:tiny}"]
    return compose_config(
        "eval", f"endpoint={server.url}", f"results_dir={tmp_path}/results", *overrides
    )


def write_toy_data(folder: Path) -> None:
    """Ten questions, gold letters in turn, with their manifest."""
    folder.mkdir(parents=True)
    options = ["one", "two", "three", "four"]
    questions = [
        Question(f"toy/test/{i}", f"Question {i}?", options, "ABCD"[i % 4], {"cluster": str(i)})
        for i in range(10)
    ]
    content = "".join(
        json.dumps(build_row(question, "test", "<e>")) + "\n" for question in questions
    )
    (folder / "test.jsonl").write_text(content)
    facts = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "rows": 10}
    manifest = {"format": FORMAT, "files": {"test.jsonl": facts}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def ask(cfg: DictConfig, count: int = 1) -> list[Answer]:
    answers: dict[int, Answer] = {}
    requests = [(Request({}, 0, 7, f"prompt {i}"), SAMPLING) for i in range(count)]
    ask_endpoint(cfg, "tiny", requests, False, answers.__setitem__)
    return [answers[i] for i in range(count)]


def test_every_prompt_is_asked_once(cfg: DictConfig, server: Server) -> None:
    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return say(body["prompt"][-1], finish_reason="length")

    server.handler = answer
    answers = ask(cfg, 40)
    assert [a.response for a in answers] == [str(i)[-1] for i in range(40)]
    assert all(a.truncated and a.tokens == 2 and a.error is None for a in answers)
    assert set(server.asked.values()) == {1} and len(server.asked) == 40


def test_request_says_all_that_matters(
    cfg: DictConfig, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    ask(cfg)
    expected = {
        "model": "tiny",
        "prompt": "prompt 0",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 7,
    }
    assert server.bodies == [{**expected, "stop": ["\n\n"]}]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    cfg.endpoint_options.api, cfg.endpoint_options.extra = "chat", {"skip_special_tokens": False}
    body = build_body(
        "tiny", Request({}, 0, 7, "p"), {**SAMPLING, "stop": []}, False, cfg.endpoint_options
    )
    assert (
        body["messages"] == [{"role": "user", "content": "p"}]
        and "prompt" not in body
        and "stop" not in body
    )
    assert body["skip_special_tokens"] is False


@pytest.mark.parametrize(
    "fault", ["429", "500", "503", "malformed", "no choices", "null text", "closed", "html"]
)
def test_faults_that_pass_are_retried(cfg: DictConfig, server: Server, fault: str) -> None:
    async def answer(
        request: web.Request, body: dict[str, Any], attempt: int
    ) -> web.StreamResponse:
        if attempt > 2:
            return say("C")
        return fail(request, fault)

    server.handler = answer
    (found,) = ask(cfg)
    assert (found.response, found.error, server.asked["prompt 0"]) == ("C", None, 3)


@pytest.mark.parametrize("fault", ["429", "500", "malformed", "closed", "said with 200"])
def test_faults_that_stay_become_errors(cfg: DictConfig, server: Server, fault: str) -> None:
    async def answer(
        request: web.Request, body: dict[str, Any], attempt: int
    ) -> web.StreamResponse:
        return fail(request, fault) if body["prompt"] == "prompt 1" else say("C")

    server.handler = answer
    answers = ask(cfg, 3)
    assert [a.response for a in answers] == ["C", "", "C"] and server.asked["prompt 1"] == 4
    assert answers[1].error is not None and "4 attempts" in answers[1].error
    said = {
        "429": "http_429",
        "500": "http_500",
        "malformed": 'malformed: JSONDecodeError in {"choices": [{"te',
        "closed": "connection",
        "said with 200": 'error in {"error": {"message": "no credits left"}}',
    }
    assert said[fault] in answers[1].error


def fail(request: web.Request, fault: str) -> web.StreamResponse:
    match fault:
        case "malformed":
            return web.Response(text='{"choices": [{"te', content_type="application/json")
        case "said with 200":
            return web.json_response({"error": {"message": "no credits left"}})
        case "no choices":
            return web.json_response({"choices": []})
        case "null text":
            return web.json_response({"choices": [{"text": None}]})
        case "html":
            return web.Response(text="<html>busy</html>", content_type="text/html")
        case "closed":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        case _:
            return web.Response(status=int(fault), text="busy", headers={"Retry-After": "0.01"})


def test_slow_answers_time_out(cfg: DictConfig, server: Server) -> None:
    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        if body["prompt"] == "prompt 0":
            await asyncio.sleep(5)
        return say("C")

    server.handler = answer
    cfg.endpoint_options.timeout, cfg.endpoint_options.retries = 0.2, 1
    slow, quick = ask(cfg, 2)
    assert slow.error is not None and slow.error.startswith("timeout") and quick.response == "C"
    assert server.asked["prompt 0"] == 2


def test_waits_as_long_as_the_server_asks(cfg: DictConfig, server: Server) -> None:
    times: list[float] = []

    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        return (
            say("C") if attempt == 2 else web.Response(status=429, headers={"Retry-After": "0.4"})
        )

    server.handler = answer
    ask(cfg)
    assert times[1] - times[0] >= 0.4


def test_what_never_passes_is_not_retried(cfg: DictConfig, server: Server) -> None:
    async def refuse(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return web.Response(status=400, text="prompt too long")

    server.handler = refuse
    (found,) = ask(cfg)
    assert found.error == "http_400: prompt too long" and server.asked["prompt 0"] == 1


@pytest.mark.parametrize(("status", "mend"), [(401, "OPENAI_API_KEY"), (404, "check endpoint")])
def test_what_fails_for_all_stops_the_run(
    cfg: DictConfig, server: Server, status: int, mend: str
) -> None:
    async def refuse(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return web.Response(status=status)

    server.handler = refuse
    with pytest.raises(UserError, match=mend):
        ask(cfg, 200)
    assert len(server.asked) <= 2 * cfg.endpoint_options.concurrency


def test_problems_before_the_start(cfg: DictConfig, server: Server) -> None:
    assert find_fingerprints(cfg, ["tiny"]) == {"tiny": None}
    with pytest.raises(UserError, match="serves no 'large': it has tiny"):
        find_fingerprints(cfg, ["large"])
    cfg.endpoint = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="start the server first"):
        find_fingerprints(cfg, ["tiny"])


def test_whole_evaluation_over_an_endpoint(
    compose_config: Callable[..., DictConfig], server: Server, tmp_path: Path
) -> None:
    """Errors are in the summary and count as wrong; the same command asks for nothing more."""

    async def answer(
        request: web.Request, body: dict[str, Any], attempt: int
    ) -> web.StreamResponse:
        if "Question 3?" in body["prompt"]:
            return web.Response(status=500)
        return say("<think>x</think><answer>B</answer>" if "<think>" in body["prompt"] else "B")

    server.handler = answer
    write_toy_data(tmp_path / "data" / "toy")
    options = [
        "endpoint_options.backoff=0.01",
        "endpoint_options.retries=2",
        "modes={rlvr:[think],sft:[direct]}",
    ]
    claims = ["claims.level=[toy/test]", "claims.ahead=[]"]
    places = [
        f"endpoint={server.url}",
        f"results_dir={tmp_path}/results",
        f"data_dir={tmp_path}/data",
    ]
    names = ["benchmarks=[toy/test]", "models={rlvr:tiny,sft:tiny}"]
    cfg = compose_config("eval", *places, *names, *options, *claims)
    summary = evaluate(cfg)
    assert [(r["n"], r["errors"], r["accuracy"]["value"]) for r in summary["results"]] == [
        (10, 1, 0.3),
        (10, 1, 0.3),
    ]
    assert (
        len(summary["comparisons"]) == 1 and summary["comparisons"][0]["difference"]["value"] == 0
    )
    (claim,) = summary["claims"]
    assert (
        claim["verdict"] == "cannot be judged"
        and "1 answers of rlvr.think are errors" in (claim["sentence"])
    )
    asked, folder = sum(server.asked.values()), tmp_path / "results" / "laptop"
    before = (folder / "summary.json").read_bytes()
    evaluate(cfg)
    assert sum(server.asked.values()) == asked and (folder / "summary.json").read_bytes() == before
    assert "errors" in (folder / "report.md").read_text()
    assert json.loads((folder / "run.json").read_text())[0]["answers_asked"] == 20
