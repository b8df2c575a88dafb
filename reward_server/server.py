"""The reward over HTTP, in the wire format of OpenRLHF 0.11.2: for `--reward.remote_url http://127.0.0.1:5000/get_reward`.

    python -m reward_server.server                                  # 127.0.0.1:5000
    MEDRLVR_REWARD_TOKEN=… python -m reward_server.server --host 0.0.0.0

    POST /get_reward    {"query": [str], "prompts": [str], "labels": [str]}
                     -> {"rewards": [float], "scores": [float], "extra_logs": {str: [float]}}
    GET  /healthz       200 after a right and a wrong answer got their rewards; open, for whoever waits for the start
    GET  /metrics       Prometheus text: requests by status, verdicts by reason, latency

With a token (required for any address but this machine's own), clients send `Authorization: Bearer TOKEN`, or the URL
ends in `?token=TOKEN`, which is all that the engine's client can do. How to judge comes from the environment, as for
the hook: MEDRLVR_REWARD_MODE, MEDRLVR_REWARD_OPTIONS. What the client got wrong is a 4xx with a reason, in the status
line too, since that is the part which the engine logs.
"""

import argparse
import asyncio
import gc
import hmac
import ipaddress
import json
import os
import resource
import sys
import time
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from reward_server.scoring import Settings, parse_label, read_settings, score_response, strip_prompt
from reward_server.verifier import REASONS

MAX_BODY_BYTES = 8 * 2**20
MAX_BATCH = 1024
READ_SECONDS = 30.0
"""Time that a client has to send a body."""
LOGGED = ("accuracy", "format", "leak", "pre_think", "think_words", "pre_think_words", "repetition")
KEYS = ("query", "prompts", "labels")
PROBE_LABEL = json.dumps({"id": "healthz", "answer": "A", "num_options": 2, "split": "test"})


class Refused(Exception):
    """A request that is not answered: its HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RewardServer:
    """The handlers and what they share: settings, token and counts."""

    def __init__(self, settings: Settings, token: str = "") -> None:
        self.settings = settings
        self.token = token.encode()
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "reward_requests", "Requests by HTTP status", ["status"], registry=self.registry
        )
        self.answered = self.requests.labels(200)
        verdicts = Counter(
            "reward_verdicts", "Verdicts by reason", ["reason"], registry=self.registry
        )
        self.verdicts = {
            reason: verdicts.labels(reason) for reason in REASONS
        }  # all of them from the start, at 0
        self.seconds = Histogram(
            "reward_seconds",
            "Seconds from the end of a request's head to its answer",
            buckets=(
                0.0001,
                0.00025,
                0.0005,
                0.001,
                0.0025,
                0.005,
                0.01,
                0.025,
                0.05,
                0.1,
                0.25,
                1.0,
                5.0,
                30.0,
            ),
            registry=self.registry,
        )

    def build_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/get_reward", self.answer),
                web.get("/healthz", self.probe),
                web.get("/metrics", self.show_metrics),
            ]
        )
        return app

    async def answer(self, request: web.Request) -> web.Response:
        """POST /get_reward."""
        start = time.perf_counter()
        try:
            self.check_token(request)
            reply = self.score_batch(*parse_body(await read_body(request)))
            self.answered.inc()
            return web.Response(body=json.dumps(reply).encode(), content_type="application/json")
        except Refused as error:
            self.requests.labels(error.status).inc()
            reason = ascii(str(error))[1:-1]
            response = web.json_response(
                {"error": str(error)}, status=error.status, reason=reason[:300]
            )
            response.force_close()  # what is left of the body, if anything, is not read
            return response
        finally:
            self.seconds.observe(time.perf_counter() - start)

    def score_batch(
        self, queries: list[str], prompts: list[str], labels: list[str]
    ) -> dict[str, Any]:
        """The engine's reply for a batch, in its order. Raises Refused (422) for a bad label or a cut prompt."""
        rewards: list[float] = []
        scores: list[float] = []
        logs: dict[str, list[float]] = {key: [] for key in LOGGED}
        for query, prompt, text in zip(queries, prompts, labels, strict=True):
            try:
                label = parse_label(text, prompt)
                verdict, scored = score_response(strip_prompt(query, prompt), label, self.settings)
            except ValueError as error:
                raise Refused(422, str(error)) from error
            self.verdicts[verdict.reason].inc()
            rewards.append(scored["rewards"])
            scores.append(scored["scores"])
            for key, value in scored["extra_logs"].items():
                logs[key].append(value)
        return {"rewards": rewards, "scores": scores, "extra_logs": logs}

    async def probe(self, request: web.Request) -> web.Response:
        """GET /healthz: whether a right and a wrong answer get 1 and 0."""
        label = parse_label(PROBE_LABEL, "")
        answers = ("<think>a</think><answer>A</answer>", "<think>a</think><answer>B</answer>")
        right, wrong = (
            score_response(answer, label, self.settings)[1]["rewards"] for answer in answers
        )
        healthy = (right, wrong) == (1.0, 0.0)
        report = {
            "healthy": healthy,
            "mode": self.settings.mode,
            "options": self.settings.options._asdict(),
        }
        return web.json_response(report, status=200 if healthy else 503)

    async def show_metrics(self, request: web.Request) -> web.Response:
        """GET /metrics."""
        try:
            self.check_token(request)
        except Refused as error:
            return web.json_response({"error": str(error)}, status=error.status)
        return web.Response(
            body=generate_latest(self.registry),
            headers={"Content-Type": "text/plain; version=0.0.4"},
        )

    def check_token(self, request: web.Request) -> None:
        """Raises Refused (401) for a missing or wrong token."""
        if not self.token:
            return
        header = request.headers.get("Authorization", "")
        given = (
            header.removeprefix("Bearer ")
            if header.startswith("Bearer ")
            else request.query.get("token", "")
        )
        if not given:
            raise Refused(
                401,
                "this reward server wants a token: `Authorization: Bearer TOKEN`, or ?token=TOKEN in the URL",
            )
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token):
            raise Refused(401, "wrong token: it must equal the server's MEDRLVR_REWARD_TOKEN")


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises Refused: 413 too large, 408 too slow, 400 not in its declared encoding or cut off."""
    try:
        if (
            request.content.is_eof()
        ):  # here already, as nearly always; a timer would cost as much as the verdict
            return await request.read()
        return await asyncio.wait_for(request.read(), READ_SECONDS)
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused(
            413, f"body of more than {MAX_BODY_BYTES} bytes: send smaller batches"
        ) from error
    except asyncio.TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {READ_SECONDS:.0f} s") from error
    except web.RequestPayloadError as error:
        raise Refused(400, f"the body cannot be read: {error}") from error


def parse_body(body: bytes) -> tuple[list[str], list[str], list[str]]:
    """query, prompts and labels: lists of text, of one length. Raises Refused (400, or 413 for too large a batch)."""
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refused(
            400,
            f"the body must be a JSON object with {', '.join(KEYS)}, not a {type(fields).__name__}",
        )
    for key in KEYS:
        values = fields.get(key)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise Refused(400, f"{key} must be a list of strings")
    queries, prompts, labels = (fields[key] for key in KEYS)
    if not len(queries) == len(prompts) == len(labels):
        raise Refused(
            400,
            f"lists of different lengths: {len(queries)}, {len(prompts)}, {len(labels)} for {', '.join(KEYS)}",
        )
    if len(queries) > MAX_BATCH:
        raise Refused(
            413,
            f"{len(queries)} samples in one request, the limit is {MAX_BATCH}: send smaller batches",
        )
    return queries, prompts, labels


def is_local(host: str) -> bool:
    """Whether `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reward_server.server", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but this machine's needs a token",
    )
    parser.add_argument("--port", type=int, default=5000)
    args = parser.parse_args()
    token = os.environ.get("MEDRLVR_REWARD_TOKEN", "")
    if not is_local(args.host):
        if not token:
            sys.exit(
                f"--host {args.host} lets other machines in: set a token, "
                "`export MEDRLVR_REWARD_TOKEN=$(openssl rand -hex 16)`, and put ?token=… at the end of the URL."
            )
        print(
            f"WARNING: listening on {args.host}, which other machines can reach. Requests and the token travel "
            "unencrypted: use it on a private network only.",
            file=sys.stderr,
        )
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        sys.exit(str(error))
    gc.freeze()  # requests leave no cycles behind: looking for them at the default rate costs a tenth of the throughput
    gc.set_threshold(10_000, 50, 50)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard, hard)
    )  # one a connection; often 1,024 unless asked for
    ready = f"reward server: http://{args.host}:{args.port}/get_reward, mode {settings.mode}, {settings.options}"
    app = RewardServer(settings, token).build_app()
    try:
        web.run_app(
            app,
            host=args.host,
            port=args.port,
            shutdown_timeout=5,
            backlog=4096,  # the engine opens a connection a sample, hundreds at once; the default 128 drops some
            access_log=None,
            print=lambda *_: print(ready, flush=True),  # called once it listens
        )
    except OSError as error:
        sys.exit(
            f"cannot listen on {args.host}:{args.port}, {error.strerror}. Choose another --port."
        )
    print("reward server: stopped", flush=True)


if __name__ == "__main__":
    main()
