"""The hook that OpenRLHF loads by path, and the options for research.

python -m pytest tests/test_hook.py            # without OpenRLHF
python -m pytest tests/test_hook.py -m slow    # the engine's own executor drives the agent
"""

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reward_server.scoring import parse_label, read_settings, score_response
from reward_server.shaping import RewardOptions, parse_options, shape_reward
from reward_server.verifier import verify

HOOK = Path(__file__).parents[1] / "reward_server" / "openrlhf_hook.py"
PROMPT = "Use <think> </think> and <answer> </answer> tags.\nUser: Which?\nAssistant:\n"
RIGHT = "<think>Fever and a rash.</think><answer>C</answer><|endoftext|>"
WRONG = "<think>Fever and a rash.</think><answer>B</answer><|endoftext|>"
RESPONSES = (
    RIGHT,
    WRONG,
    "I think so",
    "",
    "First. " + RIGHT,
    "<think>The answer is C.</think><answer>C</answer>",
)
LOGGED = {"accuracy", "format", "leak", "pre_think", "think_words", "pre_think_words", "repetition"}


def load_hook():
    """The way the engine loads it."""
    spec = importlib.util.spec_from_file_location("reward_func", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_label(**changes):
    return json.dumps(
        {"id": "medqa/train/7", "answer": "C", "num_options": 4, "split": "train", **changes}
    )


def score(hook, response, **changes):
    return hook.reward_func([PROMPT + response], [PROMPT], [make_label(**changes)])


@pytest.fixture
def hook(monkeypatch):
    for name in (
        "MEDRLVR_REWARD_MODE",
        "MEDRLVR_REWARD_OPTIONS",
        "MEDRLVR_ROLLOUTS",
        "MEDRLVR_REWARD_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    return load_hook()


def test_reward_func(hook):
    assert score(hook, RIGHT) == {
        "rewards": 1.0,
        "scores": 1.0,
        "extra_logs": {
            **{"accuracy": 1.0, "format": 1.0, "leak": 0.0, "pre_think": 0.0, "think_words": 4.0},
            **{"pre_think_words": 0.0, "repetition": 0.0},
        },
    }
    assert score(hook, WRONG)["rewards"] == 0.0
    assert score(hook, "C")["rewards"] == -1.0


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_reply_has_the_same_keys_and_floats_for_every_response(hook, response, split):
    reply = score(hook, response, split=split)
    assert set(reply) == {"rewards", "scores", "extra_logs"}
    assert set(reply["extra_logs"]) == LOGGED
    assert all(
        type(value) is float
        for value in (reply["rewards"], reply["scores"], *reply["extra_logs"].values())
    )


def test_logged_values(hook):
    assert score(hook, "First. " + RIGHT)["extra_logs"]["pre_think"] == 1.0
    assert score(hook, "\n\u200b" + RIGHT)["extra_logs"]["pre_think"] == 0.0
    assert score(hook, RESPONSES[-1])["extra_logs"]["leak"] == 1.0


def test_rows_for_evaluation_get_accuracy(hook, monkeypatch):
    monkeypatch.setenv("MEDRLVR_REWARD_OPTIONS", '{"correct": 5, "wrong": 2, "format_failed": -3}')
    shaped = load_hook()
    for split in ("dev", "test", "ood"):
        assert [
            score(shaped, response, split=split)["rewards"] for response in (RIGHT, WRONG, "C")
        ] == [1.0, 0.0, 0.0]
    assert [score(shaped, response)["rewards"] for response in (RIGHT, WRONG, "C")] == [
        5.0,
        2.0,
        -3.0,
    ]


def test_mode_comes_from_the_environment(hook, monkeypatch):
    assert score(hook, "First. " + RIGHT)["rewards"] == 1.0
    monkeypatch.setenv("MEDRLVR_REWARD_MODE", "strict")
    assert score(load_hook(), "First. " + RIGHT)["rewards"] == -1.0


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("C", "label 'C' is not a JSON object"),
        ("", "label '' is not a JSON object"),
        ('["C"]', "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ({"answer": "C"}, "is not a JSON object"),
        (None, "label None is not a JSON object"),
        (
            make_label(answer="E"),
            "row 'medqa/train/7': answer 'E' is not one capital letter from A to D",
        ),
        (make_label(answer="c"), "row 'medqa/train/7': answer 'c'"),
        (make_label(answer=2), "row 'medqa/train/7': label has answer=2"),
        (make_label(num_options=1), "row 'medqa/train/7': num_options 1"),
        (make_label(num_options="4"), "row 'medqa/train/7': label has num_options='4'"),
        (make_label(num_options=True), "row 'medqa/train/7': label has num_options=True"),
        (make_label(split=None), "row 'medqa/train/7': label has split=None"),
        (make_label(step=-1), "row 'medqa/train/7': label has step=-1"),
        (make_label(id=""), "User: Which"),
    ],
)
def test_a_bad_label_is_named_at_once(hook, label, message):
    """The engine swallows every Exception from a reward function, so the fault must be none."""
    with pytest.raises(BaseException) as caught:  # the point is that it is not an Exception
        hook.reward_func([PROMPT + RIGHT], [PROMPT], [label])
    assert not isinstance(caught.value, Exception)
    assert type(caught.value).__name__ == "RewardFailure"
    assert message in str(caught.value)
    assert "make prep" in str(caught.value)


def test_a_cut_prompt_is_named(hook):
    with pytest.raises(hook.RewardFailure, match=r"does not begin with its prompt.*data\.max_len"):
        hook.reward_func([(PROMPT + RIGHT)[20:]], [PROMPT], [make_label()])


def test_batches_are_refused(hook):
    with pytest.raises(hook.RewardFailure):
        hook.reward_func([PROMPT + RIGHT] * 2, [PROMPT] * 2, [make_label()] * 2)


def test_root_missing_from_the_path(tmp_path):
    code = f"import runpy; runpy.run_path({str(HOOK)!r})"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"Set PYTHONPATH={HOOK.parents[1]}" in done.stderr


def test_the_hook_needs_no_engine():
    code = (
        f"import runpy, sys; runpy.run_path({str(HOOK)!r});"
        "print([name for name in ('torch', 'openrlhf', 'ray', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOOK.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MEDRLVR_REWARD_MODE", "loose", "MEDRLVR_REWARD_MODE='loose' is not one of paper, strict"),
        ("MEDRLVR_REWARD_OPTIONS", "{", "MEDRLVR_REWARD_OPTIONS: reward options are not JSON"),
        ("MEDRLVR_REWARD_OPTIONS", "[1]", "must be one JSON object"),
        (
            "MEDRLVR_REWARD_OPTIONS",
            '{"corect": 1}',
            r"unknown reward options \['corect'\]: known are \['correct'",
        ),
        ("MEDRLVR_REWARD_OPTIONS", '{"correct": "1"}', "correct='1' must be a finite number"),
        ("MEDRLVR_REWARD_OPTIONS", '{"correct": NaN}', "correct=nan must be a finite number"),
        ("MEDRLVR_REWARD_OPTIONS", '{"correct": true}', "correct=True must be a finite number"),
        ("MEDRLVR_REWARD_OPTIONS", '{"correct": 0}', "need correct > wrong >= format_failed"),
        ("MEDRLVR_REWARD_OPTIONS", '{"wrong": -2}', "need correct > wrong >= format_failed"),
        (
            "MEDRLVR_REWARD_OPTIONS",
            '{"leak_penalty": -0.5}',
            "leak_penalty=-0.5 must not be negative",
        ),
        ("MEDRLVR_REWARD_OPTIONS", '{"max_words": 2.5}', "max_words=2.5 must be a whole number"),
        (
            "MEDRLVR_REWARD_OPTIONS",
            '{"min_words": 9, "max_words": 9}',
            "max_words=9 is not above min_words=9",
        ),
        (
            "MEDRLVR_REWARD_OPTIONS",
            '{"length_penalty": 1}',
            "length_penalty needs min_words or max_words",
        ),
    ],
)
def test_bad_settings_are_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        read_settings({name: value})


def shaped_reward(options, response, split="train"):
    label = parse_label(make_label(split=split), PROMPT)
    settings = read_settings({"MEDRLVR_REWARD_OPTIONS": json.dumps(options)})
    return score_response(response, label, settings)[1]["rewards"]


def test_no_options_change_nothing():
    assert parse_options("") == parse_options("{}") == RewardOptions()
    for response in RESPONSES:
        assert shaped_reward({}, response) == verify(response, "C").reward


def test_reward_values():
    options = {"correct": 2.0, "wrong": 0.25, "format_failed": -0.5}
    assert [shaped_reward(options, response) for response in (RIGHT, WRONG, "C")] == [
        2.0,
        0.25,
        -0.5,
    ]


def test_leak_penalty():
    leaked = "<think>The answer is C.</think><answer>C</answer>"
    assert shaped_reward({"leak_penalty": 0.5}, leaked) == 0.5
    assert shaped_reward({"leak_penalty": 0.5}, RIGHT) == 1.0


def test_pre_think_penalty():
    assert shaped_reward({"pre_think_penalty": 0.5}, "First. " + RIGHT) == 0.5
    assert shaped_reward({"pre_think_penalty": 0.5}, " \n" + RIGHT) == 1.0


def test_length_shaping():
    options = RewardOptions(length_penalty=1.0, min_words=10, max_words=100)
    lengths = (0, 5, 10, 50, 100, 150, 200, 1000)
    rewards = [shape_reward(True, True, False, False, words, options) for words in lengths]
    assert rewards == [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert shaped_reward({"length_penalty": 1.0, "min_words": 8}, RIGHT) == 0.5  # four words


def test_penalties_never_make_the_format_a_loss():
    options = {"leak_penalty": 9, "pre_think_penalty": 9}
    assert (
        shaped_reward(options, "The answer is C. <think>The answer is C.</think><answer>C</answer>")
        == -1.0
    )
    assert shaped_reward(options, "C") == -1.0


def make_output(tokens=12, prompt_tokens=5, **changes):
    return {
        "action_ranges": [(prompt_tokens, tokens)],
        "truncated": False,
        "reward": 1.0,
        **changes,
    }


def test_rollout_rows(hook, tmp_path):
    rollouts = hook.open_rollouts(str(tmp_path / "deep" / "rollouts"))
    label = parse_label(make_label(step=3, episode=1), PROMPT)
    response = "Fièvre 发热 \ud800 \u2028 <answer>"
    hook.write_rollout(rollouts, label, verify(response, "C"), make_output(), response, 0.7)
    hook.write_rollout(rollouts, label, verify(RIGHT, "C"), make_output(truncated=True), RIGHT, 0.7)
    (path,) = (tmp_path / "deep" / "rollouts").iterdir()  # flushed: readable while still open
    first, second = (
        json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line
    )
    assert "Fièvre 发热" in path.read_text(encoding="utf-8")
    assert first.pop("time") > 1.7e9
    assert first == {
        "id": "medqa/train/7",
        "split": "train",
        "step": 3,
        "episode": 1,
        "prompt_tokens": 5,
        "response_tokens": 7,
        "truncated": False,
        "temperature": 0.7,
        "response": response,
        "reward": 1.0,
        "format_ok": False,
        "correct": False,
        "choice": None,
        "reason": "unclosed_tag",
    }
    assert (second["choice"], second["reason"], second["truncated"]) == ("C", "correct", True)
    assert hook.open_rollouts("") is None


def build_tokenizer():
    """A byte-level tokenizer: any text goes through, and any ids decode."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def run_executor(executor, tokenizer, response, label, max_tokens=64):
    """One sample through an executor; only the text comes from here, not from a model."""

    async def generate(prompt_token_ids, sampling_params, multi_modal_data=None):
        ids = tokenizer(response, add_special_tokens=False)["input_ids"]
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)]
        )

    parameters = SimpleNamespace(max_tokens=max_tokens, temperature=0.9, logprobs=None)
    engine = SimpleNamespace(generate=generate)
    return asyncio.run(executor.execute(PROMPT, label, parameters, 4096, tokenizer, engine))


@pytest.mark.slow
def test_agent_scores_and_writes(monkeypatch, tmp_path):
    from openrlhf.utils.agent import AgentExecutorBase

    monkeypatch.setenv("MEDRLVR_ROLLOUTS", str(tmp_path))
    module = load_hook()
    assert hasattr(module, "AgentExecutor")
    assert issubclass(module.AgentExecutor, AgentExecutorBase)
    executor, tokenizer = module.AgentExecutor(), build_tokenizer()
    for response in RESPONSES[:3]:
        output = run_executor(executor, tokenizer, response, make_label(step=1, episode=1))
        expected = score(module, response)
        assert (output["reward"], output["scores"], output["extra_logs"]) == tuple(
            expected.values()
        )
    rows = [json.loads(line) for path in tmp_path.iterdir() for line in path.open(encoding="utf-8")]
    assert [row["response"] for row in rows] == list(RESPONSES[:3])
    assert rows[0]["prompt_tokens"] == len(PROMPT.encode())
    assert rows[0]["response_tokens"] == len(RIGHT.encode()) - len("<|endoftext|>") + 1


@pytest.mark.slow
def test_agent_fails_at_once_for_a_bad_label(hook):
    with pytest.raises(ValueError, match="row 'medqa/train/7': answer 'Z'"):
        run_executor(hook.AgentExecutor(), build_tokenizer(), RIGHT, make_label(answer="Z"))


@pytest.mark.slow
def test_the_engine_does_not_swallow_a_bad_label():
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    with pytest.raises(BaseException, match="row 'medqa/train/7': answer 'Z'") as caught:
        run_executor(
            SingleTurnAgentExecutor(str(HOOK)), build_tokenizer(), RIGHT, make_label(answer="Z")
        )
    assert not isinstance(caught.value, Exception)
