"""The likelihood of the reference: where it is read, what gates it, and the engine's own value."""

import asyncio
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data_prep.prepared import open_prepared
from recipes.reward import check_likelihood
from reward_server.likelihood import measure_likelihood
from reward_server.scoring import Settings, parse_label, score_response

LABEL = json.dumps(
    {
        "id": "bank_open/train/1",
        "split": "train",
        "kind": "text",
        "references": ["Pulmonary fibrosis"],
    }
)
PROMPT = "Question: Which harm is typical of amiodarone?\nAssistant:"


@pytest.fixture(scope="module")
def tokenizer(root):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(root / "recipes" / "laptop_model")


class Engine:
    """Give every token of `known` that probability, and others a hundredth; keep what was asked."""

    def __init__(self, tokenizer, known, probability=0.5):
        self.tokenizer, self.known, self.probability = tokenizer, known, probability
        self.asked = []

    async def generate(self, ids, params):
        assert (params.max_tokens, params.prompt_logprobs) == (1, 0)
        text = self.tokenizer.decode(ids)
        self.asked.append(text)
        given = [self.probability if self.known in text else 0.01] * len(ids)
        entries = [None] + [
            {token: SimpleNamespace(logprob=math.log(p))}
            for token, p in zip(ids[1:], given[1:], strict=True)
        ]
        return SimpleNamespace(prompt_logprobs=entries)


def make_label(reference):
    return SimpleNamespace(references=[reference, "another form"])


def measure(engine, response, reference="Pulmonary fibrosis", kind="likelihood", most=4096):
    coroutine = measure_likelihood(
        engine, engine.tokenizer, PROMPT, response, make_label(reference), kind, most
    )
    return asyncio.run(coroutine)


def test_the_reference_stands_where_the_answer_stood(tokenizer):
    engine = Engine(tokenizer, "lungs")
    response = "<think> It harms the lungs. </think>\n<answer> Deafness </answer><|endoftext|>"
    assert measure(engine, response) == pytest.approx(0.5)
    asked = "<think> It harms the lungs. </think>\n<answer> Pulmonary fibrosis </answer>"
    assert engine.asked == [PROMPT + asked]


def test_gain_is_over_an_empty_reasoning(tokenizer):
    engine = Engine(tokenizer, "lungs")
    response = "The lungs. <think>lungs</think><answer>\nX\n</answer>"
    assert measure(engine, response, kind="likelihood_gain") == pytest.approx(0.49)
    without = "<think> </think><answer>\nPulmonary fibrosis\n</answer>"
    assert engine.asked[1] == PROMPT + without
    # a reasoning that changes nothing, and one that makes the reference less probable
    assert measure(engine, "<think>x</think><answer>X</answer>", kind="likelihood_gain") == 0.0
    worse = Engine(tokenizer, "<think> </think>")
    assert measure(worse, "<think>x</think><answer>X</answer>", kind="likelihood_gain") == 0.0


def test_joint_is_the_probability_of_the_whole_reference(tokenizer):
    engine = Engine(tokenizer, "lungs")
    count = len(tokenizer(" Pulmonary fibrosis", add_special_tokens=False)["input_ids"])
    response = "<think> It harms the lungs. </think>\n<answer> Deafness </answer>"
    assert count > 2
    assert measure(engine, response, kind="likelihood_joint") == pytest.approx(0.5**count)


def test_only_the_tokens_of_the_reference_count(tokenizer):
    class Marked(Engine):
        async def generate(self, ids, params):
            entries = [None]
            for place in range(1, len(ids)):
                inside = "fibrosis" in self.tokenizer.decode(ids[: place + 1]) and (
                    "</" not in self.tokenizer.decode(ids[: place + 1]).rpartition("fibrosis")[2]
                )
                p = 1.0 if inside else 0.0
                entries.append({ids[place]: SimpleNamespace(logprob=math.log(p) if p else -1e9)})
            return SimpleNamespace(prompt_logprobs=entries)

    ids = tokenizer(" fibrosis", add_special_tokens=False)["input_ids"]
    found = measure(Marked(tokenizer, ""), "<think>x</think><answer> y </answer>", "fibrosis")
    assert found == pytest.approx(1 / len(ids))  # the last of its tokens completes the word


def test_a_reference_that_does_not_fit_counts_nothing(tokenizer):
    engine = Engine(tokenizer, "x")
    response = "<think>x</think><answer>y</answer>"
    assert measure(engine, response, most=10) == 0.0
    assert engine.asked == []


@given(st.text(max_size=60), st.text(min_size=1, max_size=30).filter(str.strip))
def test_any_text_has_a_likelihood(tokenizer, think, reference):
    think = think.replace("<", "")
    engine = Engine(tokenizer, "nowhere to be found", 0.5)
    found = measure(engine, f"<think>x{think}</think><answer>y</answer>", reference)
    assert found == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("response", "likelihood", "reward"),
    [
        ("<think>lungs</think><answer>Deafness</answer>", 0.25, 0.25),
        ("<think>lungs</think><answer>Pulmonary fibrosis</answer>", 0.75, 0.75),
        ("Pulmonary fibrosis", 1.0, -1.0),
        ("<think> </think><answer>Pulmonary fibrosis</answer>", 1.0, -1.0),
    ],
)
def test_the_format_gates_the_likelihood(response, likelihood, reward):
    settings = Settings(kind="likelihood")
    verdict, scored = score_response(response, parse_label(LABEL, ""), settings, likelihood)
    assert scored["rewards"] == reward
    assert scored["scores"] == float(verdict.correct)  # accuracy stays the verdict's
    assert scored["extra_logs"]["likelihood"] == likelihood


def test_evaluation_and_other_hooks():
    settings, response = Settings(kind="likelihood"), "<think>x</think><answer>Deafness</answer>"
    dev = parse_label(LABEL.replace('"train", "kind"', '"dev", "kind"'), "")
    assert score_response(response, dev, settings)[1]["rewards"] == 0.0
    with pytest.raises(ValueError, match=r"needs reward\.hook=agent"):
        score_response(response, parse_label(LABEL, ""), settings)


def test_preflight_refuses_what_cannot_be_asked():
    choice = {"label": '{"id": "a", "split": "train", "answer": "A", "options": ["x", "y"]}'}
    reward = OmegaConf.create({"kind": "likelihood_gain", "hook": "function", "control": "coin"})
    problems = list(check_likelihood([{"label": LABEL}, choice], reward))
    assert [problem.rpartition(": ")[2] for problem in problems] == [
        "data=bank_open, or data.openly=true",
        "reward.hook=agent",
        "reward.control=null",
    ]
    fine = OmegaConf.create({"kind": "likelihood", "hook": "agent", "control": None})
    assert list(check_likelihood([{"label": LABEL}], fine)) == []


SCRIPT = """
import asyncio, json, sys
import torch
from types import SimpleNamespace
from openrlhf.models import Actor
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from reward_server.likelihood import measure_likelihood
from transformers import AutoTokenizer
model, rows = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(model)
made = RolloutRayActor.__ray_metadata__.modified_class
engine = made.__new__(made)
engine._configure_device_env = engine._configure_vllm_env = lambda *_, **__: None
settings = dict(
    model=model, dtype="bfloat16", enforce_eager=True, max_model_len=512, enable_prefix_caching=True,
    gpu_memory_utilization=0.1, distributed_executor_backend="uni", num_gpus=1,
)

class Recorder:
    asked = []
    async def generate(self, ids, params):
        self.asked.append(ids)
        return await engine.generate(ids, params)

async def start():
    await engine.__init__(remote_rm_url=[""], **settings)
    # all at once, twice, as rollouts come: the second time their prompts are in the cache
    for _ in range(2):
        Recorder.asked.clear()
        found = await asyncio.gather(*[
            measure_likelihood(
                Recorder(), tokenizer, row["prompt"], row["response"],
                SimpleNamespace(references=[row["reference"]]), "likelihood", 512)
            for row in rows
        ])
    engine.llm.shutdown()
    return found

if __name__ == "__main__":
    found = asyncio.run(start())
    actor = Actor(model, attn_implementation="eager", bf16=True)
    own = []
    for row, ids in zip(rows, Recorder.asked):
        tokens = torch.tensor([ids])
        mask = torch.ones_like(tokens)
        with torch.no_grad():
            logs = actor(tokens, mask[:, 1:].bool(), mask)[0].float()
        text = tokenizer.decode(ids)
        start = text.rindex("<answer> ") + len("<answer> ")
        offsets = tokenizer(text, return_offsets_mapping=True)
        assert offsets["input_ids"] == ids
        places = [n for n, (a, b) in enumerate(offsets["offset_mapping"]) if a < start + len(row["reference"]) and b > start]
        own.append(logs[[n - 1 for n in places]].exp().mean().item())
    print("FOUND", json.dumps([found, own]))
"""


@pytest.mark.e2e
def test_the_engine_gives_the_trainers_own_likelihood(root, tmp_path):
    rows = [
        {
            "prompt": row["prompt"],
            "response": f"<think> {row['question']} {row['options'][0]}. </think>\n<answer> {row['answer']} </answer>",
            "reference": row["options"][number % 4],
        }
        for number, row in enumerate(open_prepared(root / "data" / "bank").read_rows("test")[:16])
    ]
    script = tmp_path / "likelihood.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), str(root / "recipes" / "laptop_model"), json.dumps(rows)],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": f"{root / 'recipes' / 'engine' / 'startup'}{os.pathsep}{root}",
            "MEDRLVR_RUN": str(tmp_path),
            "MEDRLVR_CPU_ENGINE": "1",
            "MEDRLVR_START_STEP": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
        check=False,
    )
    assert "FOUND" in run.stdout, run.stdout[-2000:] + run.stderr[-4000:]
    found, own = json.loads(run.stdout.rpartition("FOUND ")[2].splitlines()[0])
    assert max(own) > 0.05  # values to compare, not all zero
    assert found == pytest.approx(own, rel=0.01)  # bf16; 0.003 was seen
