"""The real engine (vLLM) on a tiny random model: killed and resumed, letters' probabilities against transformers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prepared import FORMAT
from data_prep.rows import Question, build_row
from eval.worker import run_engine

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with the tests' tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tests" / "tokenizer")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # head size 32, the least that vLLM's CPU attention takes
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.4,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 questions with 4 to 26 options; the last one is longer than the model can read."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "toy").mkdir()
    rows = []
    for i in range(64):
        options = [f"option {(i * 7 + n) % 31}" for n in range(4 + i % 23)]
        stem = "very " * 2000 if i == 63 else f"Case {i}: what helps?"
        rows.append(
            build_row(
                Question(f"toy/test/{i}", stem, options, "ABCD"[i % 4], {"cluster": str(i)}),
                "test",
                "<e>",
            )
        )
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "toy" / "test.jsonl").write_text(content)
    facts = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "rows": 64}
    manifest = {"format": FORMAT, "files": {"test.jsonl": facts}}
    (folder / "toy" / "manifest.json").write_text(json.dumps(manifest))
    return folder


def start(model: Path, data: Path, results: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "eval.run",
        f"models={{tiny:{model}}}",
        "benchmarks=[toy/test]",
    ]
    command += [
        f"data_dir={data}",
        f"results_dir={results}",
        "max_new_tokens=48",
        "chunk=8",
        "max_len=1024",
        *overrides,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> str:
    with process:
        try:
            out, err = process.communicate(
                timeout=540
            )  # seconds of work, minutes on a machine that is busy
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, err
    return out


def read_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def test_killed_in_the_middle_and_resumed(model: Path, data: Path, tmp_path: Path) -> None:
    """kill -9, then the same command: nothing asked twice, nothing missing, the same summary byte for byte."""
    table = finish(start(model, data, tmp_path / "whole", "modes=[think]"))
    assert "tiny" in table and "toy/test" in table and "INFO" not in table
    process = start(model, data, tmp_path / "killed", "modes=[think]")
    samples = tmp_path / "killed" / "laptop" / "samples" / "tiny.toy-test.think.jsonl"
    deadline = time.monotonic() + 200
    while len(read_lines(samples)) < 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    before = read_lines(samples)
    assert 16 <= len(before) < 64, "killed too early or too late to test anything"
    finish(start(model, data, tmp_path / "killed", "modes=[think]"))
    after = read_lines(samples)
    assert after[: len(before)] == before and len(after) == 64
    assert len({json.loads(line)["id"] for line in after}) == 64
    assert after == read_lines(tmp_path / "whole" / "laptop" / "samples" / samples.name)
    whole, killed = (tmp_path / name / "laptop" / "summary.json" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    result = json.loads(whole.read_text())["results"][0]
    assert result["errors"] == 1 and "prompt_too_long" in json.loads(after[-1])["error"]


def test_letters_probabilities_are_those_of_transformers(
    model: Path, data: Path, tmp_path: Path
) -> None:
    """Every letter's log-probability after the prompt, up to 26 options, one prompt at a time in transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    finish(start(model, data, tmp_path, "modes=[loglikelihood]", "vllm.dtype=float32"))
    lines = read_lines(tmp_path / "laptop" / "samples" / "tiny.toy-test.loglikelihood.jsonl")
    rows = {row["id"]: row for row in map(json.loads, read_lines(data / "toy" / "test.jsonl"))}
    tokenizer = AutoTokenizer.from_pretrained(model)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    compared = 0
    for sample in map(json.loads, lines):
        if sample["error"]:
            continue
        ids = tokenizer.encode(rows[sample["id"]]["direct_prompt"], add_special_tokens=False)
        with torch.no_grad():
            found = reference(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        for letter, score in sample["scores"].items():
            (token,) = tokenizer.encode(letter, add_special_tokens=False)
            assert score == pytest.approx(float(found[token]), abs=2e-3)
        assert sample["choice"] == max(sample["scores"], key=sample["scores"].get)
        assert len(sample["scores"]) == len(rows[sample["id"]]["options"])
        compared += 1
    assert compared == 63


def test_a_broken_model_is_told_in_one_line(model: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(
            file.read_bytes()[: 3000 if file.suffix == ".safetensors" else None]
        )
    process = start(broken, data, tmp_path, "modes=[think]")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "Traceback" not in err
    assert "the engine stopped" in err and "engine.log" in err


def test_every_prompt_is_answered_with_its_own_seed(model: Path, tmp_path: Path) -> None:
    prompts = [{"text": f"Case {i}\nAssistant:\n", "seed": i, "num_options": 4} for i in range(300)]
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4, "stop": []}
    task = {
        "letters": False,
        "keep_special_tokens": True,
        "sampling": sampling,
        "chunks": [prompts[:280], prompts[280:]],
    }
    job = {"model": str(model), "engine": {"dtype": "float32"}, "max_len": 64, "tasks": [task]}
    events = list(run_engine(job, tmp_path / "engine.log"))
    answers = [
        answer for event in events if event["event"] == "answers" for answer in event["answers"]
    ]
    assert len(answers) == 300 and len({answer["response"] for answer in answers}) > 100, (
        "a seed for each"
    )


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    job: dict[str, Any] = {
        "model": str(tmp_path / "none"),
        "engine": {},
        "max_len": 10,
        "tasks": [],
    }
    with pytest.raises(UserError, match="engine stopped"):
        list(run_engine(job, tmp_path / "engine.log"))
