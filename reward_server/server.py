"""Serve the reward over HTTP, in the wire format of OpenRLHF 0.11.2.

    python -m reward_server.server                          # http://127.0.0.1:5000/get_reward
    MEDRLVR_REWARD_TOKEN=… python -m reward_server.server --host 0.0.0.0

    POST /get_reward    {"query": [str], "prompts": [str], "labels": [str]}
                     -> {"rewards": [float], "scores": [float], "extra_logs": {str: [float]}}
    GET  /healthz       200 after a right and a wrong answer got their rewards; needs no token
    GET  /metrics       Prometheus text: requests by status, verdicts by reason, latency

Clients send the token as `Authorization: Bearer TOKEN`; in a URL it would end in logs. How to judge
comes from $MEDRLVR_REWARD, as for the hook. A client's fault is a 4xx with its reason in the status
line too, which is all that OpenRLHF's own client logs.
"""

import argparse
import asyncio
import hmac
import ipaddress
import json
import logging
import os
import socket
import sys
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ValidationError

from data_prep.errors import UserError
from reward_server.client import TOKEN, read_token
from reward_server.scoring import Settings, parse_label, read_settings, score_response, strip_prompt
from reward_server.signals import SIGNALS
from reward_server.verifier import REASONS

MAX_BODY_BYTES = 8 * 2**20
MAX_CHARACTERS = 4_000_000  # of all queries and labels of a batch
MAX_LABEL = 100_000  # characters; thousands of labels are kept read
MAX_BATCH = 1024
BACKLOG = 4096  # the engine opens a connection a sample, hundreds at once; the default drops some
READ_SECONDS = 30.0  # that a client has to send a body
PROBE = json.dumps({"id": "healthz", "split": "test", "answer": "A", "options": ["1", "2"]})


class Batch(BaseModel, strict=True):
    """The body of a request: query (prompt and response), prompts and labels, of one length."""

    query: list[str]
    prompts: list[str]
    labels: list[str]


class RewardServer:
    """The handlers and what they share: settings, token and counts."""

    def __init__(self, settings: Settings, token: str = "") -> None:
        self.settings = settings
        self.token = token.encode("utf-8", "surrogateescape")
        self.registry = CollectorRegistry()
        self.requests = Counter("reward_requests", "By status", ["status"], registry=self.registry)
        self.verdicts = Counter("reward_verdicts", "By reason", ["reason"], registry=self.registry)
        for reason in REASONS:
            self.verdicts.labels(reason)  # all of them from the start, at 0
        self.seconds = Histogram("reward_seconds", "To answer a request", registry=self.registry)

    def build_app(self) -> web.Application:
        """Build the application with its routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self.guard])
        app.router.add_post("/get_reward", self.answer)
        app.router.add_get("/healthz", self.probe)
        app.router.add_get("/metrics", self.show_metrics)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Check a request before its body is read; turn every failure into JSON."""
        try:
            self.check_headers(request)
            response = await handler(request)
        except (web.HTTPException, web.RequestPayloadError) as error:
            # a body that breaks off has neither status nor text
            status, text = getattr(error, "status", 400), getattr(error, "text", None) or str(error)
            # a status line carries only ASCII, and no line break
            reason = ascii(text)[1:-1][:300]
            response = web.json_response({"error": text}, status=status, reason=reason)
            response.force_close()  # what is left of the body, if anything, is not read
        if request.path != "/healthz":
            self.requests.labels(response.status).inc()
        return response

    def check_headers(self, request: web.Request) -> None:
        """Refuse a web page (403), a compressed body (415), a missing or wrong token (401)."""
        headers = request.headers
        # a page open in the user's browser reaches 127.0.0.1 too; only browsers send an Origin
        if "Origin" in headers:
            raise web.HTTPForbidden(text="a header `Origin`: web pages are not answered")
        if "Content-Encoding" in headers:
            raise web.HTTPUnsupportedMediaType(text="a compressed body: send it as it is")
        if not self.token or request.path == "/healthz":
            return
        # compared in constant time, so that its duration says nothing of the token
        given = headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, b"Bearer " + self.token):
            fault = "wrong" if given else "no"
            text = f"{fault} token: send the server's {TOKEN} as `Authorization: Bearer TOKEN`"
            raise web.HTTPUnauthorized(text=text)

    async def answer(self, request: web.Request) -> web.Response:
        """POST /get_reward: score a batch in its order. A bad label or a cut prompt is a 422."""
        # one bad sample refuses the batch: a reward of 0 in its place would be trained on
        samples = []
        with self.seconds.time():
            batch = await read_batch(request)
            for query, prompt, text in zip(batch.query, batch.prompts, batch.labels, strict=True):
                try:
                    label, response = parse_label(text, prompt), strip_prompt(query, prompt)
                except ValueError as error:
                    raise web.HTTPUnprocessableEntity(text=str(error)) from error
                verdict, scored = score_response(response, label, self.settings)
                self.verdicts.labels(verdict.reason).inc()
                samples.append(scored)
                await asyncio.sleep(0)  # others are answered between two samples
        logs = [scored["extra_logs"] for scored in samples]
        reply = {
            "rewards": [scored["rewards"] for scored in samples],
            "scores": [scored["scores"] for scored in samples],
            "extra_logs": {s.name: [log[s.name] for log in logs] for s in SIGNALS},
        }
        return web.json_response(reply)

    async def probe(self, request: web.Request) -> web.Response:
        """GET /healthz: check that a right and a wrong answer get 1 and 0."""
        label = parse_label(PROBE, "")
        texts = [f"<think>a</think><answer>{letter}</answer>" for letter in "AB"]
        rewards = [score_response(text, label, self.settings)[1]["rewards"] for text in texts]
        healthy = rewards == [1.0, 0.0]
        report = {"healthy": healthy, **self.settings.model_dump()}
        return web.json_response(report, status=200 if healthy else 503)

    async def show_metrics(self, request: web.Request) -> web.Response:
        """GET /metrics."""
        return web.Response(body=generate_latest(self.registry), content_type="text/plain")


async def read_batch(request: web.Request) -> Batch:
    """Read a body. Raises an HTTPException that names what is wrong with it."""
    if request.content_type != "application/json":  # a page may send others without an Origin
        text = f"content type {request.content_type}: send application/json"
        raise web.HTTPUnsupportedMediaType(text=text)
    try:
        body = await asyncio.wait_for(request.read(), READ_SECONDS)
        # json's parser, since pydantic's refuses the lone surrogates that JSON may hold
        batch = Batch.model_validate(json.loads(body.decode()))
        lengths = [len(batch.query), len(batch.prompts), len(batch.labels)]
        if len(set(lengths)) > 1:
            raise ValueError(f"query, prompts, labels have different lengths: {lengths}")
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the body"
        raise web.HTTPBadRequest(text=f"{place}: {fault['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON of a batch: {error}") from error
    except asyncio.TimeoutError:
        text = f"no whole body within {READ_SECONDS:.0f} s"
        raise web.HTTPRequestTimeout(text=text) from None
    except asyncio.CancelledError:  # SIGTERM, and `shutdown_timeout` is over
        text = "the server stops and the body is not whole: ask again"
        raise web.HTTPServiceUnavailable(text=text) from None
    count, characters = lengths[0], sum(map(len, batch.query + batch.labels))
    longest = max(map(len, batch.labels), default=0)
    if count > MAX_BATCH or characters > MAX_CHARACTERS or longest > MAX_LABEL:
        text = f"{count} samples, {characters} characters, {longest} in a label: the limit is "
        text += f"{MAX_BATCH} samples, {MAX_CHARACTERS} characters, {MAX_LABEL} a label"
        raise web.HTTPRequestEntityTooLarge(MAX_CHARACTERS, characters, text=text)
    return batch


def open_socket(host: str, port: int, token: str) -> socket.socket:
    """Listen on host and port (0: any free one). Raises UserError where it cannot or must not."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port} must be 0 (any free one) to 65535")
    if not is_local(host) and len(token) < 8:
        raise UserError(
            f"--host {host} lets other machines in: set a token of 8 characters or more, "
            f"`export {TOKEN}=$(openssl rand -hex 16)`, here and where the run starts."
        )
    try:
        # the host decides between IPv4 and IPv6
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot listen on {host}:{port}, {error}: choose another --port") from None


def is_local(host: str) -> bool:
    """Find out if `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_our_fault(record: logging.LogRecord) -> bool:
    """Keep tracebacks of clients' bad HTTP out of the log, which they would fill."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m reward_server.server")
    parser.add_argument("--host", default="127.0.0.1", help="any but this machine's needs a token")
    parser.add_argument("--port", type=int, default=5000, help="0: any free one")
    args = parser.parse_args()
    try:
        settings, token = read_settings(os.environ), read_token(os.environ)
        listener = open_socket(args.host, args.port, token)
    except UserError as error:
        sys.exit(str(error))
    # an IPv6 address is written in brackets; the port is the one found for --port 0
    host = f"[{args.host}]" if ":" in args.host else args.host
    ready = f"reward server: http://{host}:{listener.getsockname()[1]}/get_reward, {settings}"
    if not is_local(args.host):
        ready += "\nWARNING: requests and token are sent unencrypted: use a private network only"
    logging.getLogger("aiohttp.server").addFilter(is_our_fault)
    web.run_app(
        RewardServer(settings, token).build_app(),
        sock=listener,
        backlog=BACKLOG,
        shutdown_timeout=5,
        access_log=None,
        auto_decompress=False,  # a compressed body is refused, so it must not be unpacked first
        print=lambda *_: print(ready, flush=True),  # called once it listens
    )
    print("reward server: stopped", flush=True)


if __name__ == "__main__":
    main()
