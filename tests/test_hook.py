"""The hook that OpenRLHF loads by path, and the options for research.

python -m pytest tests/test_hook.py            # without OpenRLHF
python -m pytest tests/test_hook.py -m slow    # the engine's own executor drives the agent
"""

import asyncio
import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from data_prep.errors import UserError
from reward_server.scoring import (
    RewardOptions,
    Settings,
    parse_label,
    read_settings,
    score_response,
    shape_reward,
)
from reward_server.signals import SIGNALS
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
OPTIONS = ["Aspirin", "Glipizide", "Metformin", "Insulin"]


def load_hook():
    """The way the engine loads it."""
    spec = importlib.util.spec_from_file_location("reward_func", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_label(**changes):
    label = {"id": "medqa/train/7", "split": "train", "answer": "C", "options": OPTIONS}
    return json.dumps(label | changes)


def make_settings(**settings):
    """The environment's variable, as the launcher sets it."""
    return {"MEDRLVR_REWARD": json.dumps(settings)}


def score(hook, response, **changes):
    return hook.reward_func([PROMPT + response], [PROMPT], [make_label(**changes)])


@pytest.fixture
def hook(monkeypatch):
    for name in (
        "MEDRLVR_REWARD",
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
            "accuracy": 1.0,
            "format": 1.0,
            "leak": 0.0,
            "pre_think": 0.0,
            "think_words": 4.0,
            "pre_think_words": 0.0,
            "repetition": 0.0,
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


def test_the_table_of_signals_is_what_is_logged():
    assert {signal.name for signal in SIGNALS} == LOGGED
    assert all(signal.unit and signal.shows for signal in SIGNALS)


def test_logged_values(hook):
    assert score(hook, "First. " + RIGHT)["extra_logs"]["pre_think"] == 1.0
    assert score(hook, "\n\u200b" + RIGHT)["extra_logs"]["pre_think"] == 0.0
    assert score(hook, RESPONSES[-1])["extra_logs"]["leak"] == 1.0
    by_text = "<think>The most suitable drug is metformin.</think><answer>C</answer>"
    assert score(hook, by_text)["extra_logs"]["leak"] == 1.0


def test_rows_for_evaluation_get_accuracy(hook, monkeypatch):
    options = {"correct": 5, "wrong": 2, "format_failed": -3}
    monkeypatch.setenv("MEDRLVR_REWARD", json.dumps({"options": options}))
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
    monkeypatch.setenv("MEDRLVR_REWARD", '{"mode": "strict"}')
    assert score(load_hook(), "First. " + RIGHT)["rewards"] == -1.0


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("C", "label 'C' is not a JSON object"),
        ("", "label '' is not a JSON object"),
        ('["C"]', "label=['C']: must be a valid dictionary"),
        ("[" * 100_000, "is not a JSON object"),
        ({"answer": "C"}, "is not a JSON object"),
        (None, "label None is not a JSON object"),
        (
            make_label(answer="E"),
            "row 'medqa/train/7': answer 'E' is not one capital letter from A to D",
        ),
        (make_label()[:-1] + ', "answer": "D"}', "is not a JSON object, or has a key twice"),
        (make_label(answer="c"), "row 'medqa/train/7': answer 'c'"),
        (make_label(answer=2), "row 'medqa/train/7': label.answer=2: must be a valid string"),
        (make_label(options=["one"]), "row 'medqa/train/7': options ['one'] are not 2 to 26 texts"),
        (make_label(options=4), "row 'medqa/train/7': label.options=4: must be a valid list"),
        (make_label(options="ABCD"), "row 'medqa/train/7': label.options=ABCD: must be"),
        (make_label(options=["one", 2]), "row 'medqa/train/7': label.options.1=2: must be"),
        (make_label(split=None), "row 'medqa/train/7': label.split=null: must be a valid string"),
        (make_label(step=-1), "row 'medqa/train/7': label.step=-1: must be"),
        (make_label(step=True), "row 'medqa/train/7': label.step=True: must be"),
        (
            json.dumps({"id": "medqa/train/7", "answer": "C", "num_options": 4, "split": "train"}),
            "row 'medqa/train/7': label.options",
        ),
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


@pytest.mark.process
def test_root_missing_from_the_path(tmp_path):
    code = f"import runpy; runpy.run_path({str(HOOK)!r})"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"Set PYTHONPATH={HOOK.parents[1]}" in done.stderr


@pytest.mark.process
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
    ("settings", "problem"),
    [
        ({"mode": "Strict"}, "reward.mode=Strict: must be 'paper' or 'strict'"),
        ({"control": "Coin"}, "reward.control=Coin: must be 'coin', 'format_only', "),
        ({"seed": None}, "reward.seed=null: must be a valid integer"),
        ({"optinos": {}}, "reward.optinos={}: "),
        ({"options": None}, "reward.options=null: must be"),
        ({"options": {"corect": 1}}, "reward.options.corect=1: "),
        ({"options": {"correct": "1"}}, "reward.options.correct=1: must be a valid number"),
        ({"options": {"correct": float("nan")}}, "reward.options.correct=nan: must be a finite"),
        ({"options": {"correct": True}}, "reward.options.correct=True: must be a valid number"),
        ({"options": {"correct": 0}}, "must be correct > wrong >= format_failed"),
        ({"options": {"wrong": -2}}, "must be correct > wrong >= format_failed"),
        ({"options": {"leak_penalty": -0.5}}, "reward.options.leak_penalty=-0.5: must be greater"),
        ({"options": {"max_words": 2.5}}, "reward.options.max_words=2.5: must be a valid integer"),
        ({"options": {"min_words": 9, "max_words": 9}}, "max_words must be above min_words"),
        ({"options": {"length_penalty": 1}}, "length_penalty needs min_words or max_words"),
        ([1], "reward=[1]: must be"),
    ],
)
def test_bad_settings_are_named_by_the_recipe_s_key(settings, problem):
    with pytest.raises(UserError) as caught:
        read_settings({"MEDRLVR_REWARD": json.dumps(settings)})
    (found,) = caught.value.problems
    assert found.startswith("reward") and problem in found and "\n" not in found


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(UserError) as caught:
        read_settings(make_settings(mode=3, options={"wrong": "x", "max_words": -1}))
    keys = ["reward.mode=3", "reward.options.wrong=x", "reward.options.max_words=-1"]
    assert [problem.split(":")[0] for problem in caught.value.problems] == keys


def test_settings_that_are_no_json_are_named():
    with pytest.raises(UserError, match=r"MEDRLVR_REWARD='\{' is not JSON"):
        read_settings({"MEDRLVR_REWARD": "{"})


def test_the_recipe_s_keys_are_the_settings_and_have_their_defaults():
    recipe = yaml.safe_load((HOOK.parents[1] / "recipes" / "configs" / "rlvr.yaml").read_text())
    given = {key: recipe["reward"][key] for key in ("mode", "options", "control")}
    assert Settings.model_validate(given) == Settings()
    assert list(given["options"]) == list(RewardOptions.model_fields)


def shaped_reward(options, response, split="train", **settings):
    label = parse_label(make_label(split=split), PROMPT)
    given = read_settings(make_settings(options=options, **settings))
    return score_response(response, label, given)[1]["rewards"]


def test_no_options_change_nothing():
    assert read_settings({}) == read_settings({"MEDRLVR_REWARD": ""}) == Settings()
    for response in RESPONSES:
        assert shaped_reward({}, response) == verify(response, "C", OPTIONS).reward


def controlled_rewards(control, responses, seed=1, number=0, split="train"):
    """(reward, accuracy) of each response to one row under a control."""
    settings = Settings(control=control, seed=seed)
    label = parse_label(make_label(id=f"medqa/{split}/{number}", split=split), PROMPT)
    replies = [score_response(response, label, settings)[1] for response in responses]
    return [(reply["rewards"], reply["extra_logs"]["accuracy"]) for reply in replies]


def answer_with(letter, thinking="Fever and a rash."):
    return f"<think>{thinking}</think><answer>{letter}</answer>"


CONTROLS = ("coin", "format_only", "shuffled_labels", "wrong_penalty")


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_never_touches_evaluation_rows_nor_a_failed_format(control):
    for split in ("dev", "test", "ood"):
        found = controlled_rewards(control, [RIGHT, WRONG, "C"], split=split)
        assert found == [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)]
    assert controlled_rewards(control, ["C"]) == [(-1.0, 0.0)]


@pytest.mark.parametrize("control", CONTROLS)
def test_accuracy_is_true_under_every_control(control):
    found = controlled_rewards(control, [RIGHT, WRONG, "C"])
    assert [accuracy for _, accuracy in found] == [1.0, 0.0, 0.0]
    label = parse_label(make_label(), PROMPT)
    verdict, reply = score_response(RIGHT, label, Settings(control=control))
    assert (verdict.reward, verdict.correct, reply["scores"]) == (1.0, True, 1.0)


def test_a_coin_is_fair_seeded_and_blind_to_the_answer():
    tosses = {letter: [] for letter in "ABCD"}
    for number in range(500):
        for letter in "ABCD":
            ((reward, _),) = controlled_rewards("coin", [answer_with(letter)], number=number)
            tosses[letter].append(reward)
    for rewards in tosses.values():
        assert set(rewards) == {0.0, 1.0}
        assert 0.42 < sum(rewards) / len(rewards) < 0.58
    texts = [answer_with("C", f"Fever {number}.") for number in range(100)]
    first = controlled_rewards("coin", texts)
    assert first == controlled_rewards("coin", texts)
    assert first != controlled_rewards("coin", texts, seed=2)
    assert first != controlled_rewards("coin", texts, number=1)


def test_format_only_pays_for_the_format():
    assert [reward for reward, _ in controlled_rewards("format_only", [RIGHT, WRONG])] == [1.0, 1.0]
    assert controlled_rewards("format_only", [answer_with("nothing")]) == [(1.0, 0.0)]


def test_shuffled_labels_are_a_fixed_wrong_pairing():
    taken = set()
    for number in range(60):
        texts = [answer_with(letter) for letter in "ABCD"]
        rewards = [reward for reward, _ in controlled_rewards("shuffled_labels", texts, 1, number)]
        assert sorted(rewards) == [0.0, 0.0, 0.0, 1.0]
        assert rewards[2] == 0.0, "the gold letter C is never the label"
        other = [answer_with(letter, "Other words.") for letter in "ABCD"]
        again = [reward for reward, _ in controlled_rewards("shuffled_labels", other, 1, number)]
        assert again == rewards, "the pairing belongs to the row, not to the response"
        taken.add("ABCD"[rewards.index(1.0)])
    assert taken == set("ABD")


def test_wrong_penalty():
    found = controlled_rewards("wrong_penalty", [RIGHT, WRONG, answer_with("nothing")])
    assert [reward for reward, _ in found] == [1.0, -0.5, -0.5]
    assert shaped_reward({"format_failed": -0.25}, WRONG, control="wrong_penalty") == -0.25


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
    none = {"leak": 0.0, "pre_think": 0.0}
    rewards = [shape_reward(1.0, True, {**none, "think_words": n}, options) for n in lengths]
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
    hook.write_rollout(
        rollouts, label, verify(response, "C", OPTIONS), make_output(), response, 0.7
    )
    hook.write_rollout(
        rollouts, label, verify(RIGHT, "C", OPTIONS), make_output(truncated=True), RIGHT, 0.7
    )
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


def run_executor(executor, tokenizer, response, label, max_tokens=64, asked=None):
    """One sample through an executor; only the text comes from here, not from a model."""

    async def generate(prompt_token_ids, sampling_params, multi_modal_data=None):
        if asked is not None:
            asked.append((sampling_params.output_kind.name, sampling_params.detokenize))
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
    executor, tokenizer, asked = module.AgentExecutor(), build_tokenizer(), []
    for response in RESPONSES[:3]:
        label = make_label(step=1, episode=1)
        output = run_executor(executor, tokenizer, response, label, asked=asked)
        expected = score(module, response)
        assert (output["reward"], output["scores"], output["extra_logs"]) == tuple(
            expected.values()
        )
    rows = [json.loads(line) for path in tmp_path.iterdir() for line in path.open(encoding="utf-8")]
    assert [row["response"] for row in rows] == list(RESPONSES[:3])
    assert rows[0]["prompt_tokens"] == len(PROMPT.encode())
    assert rows[0]["response_tokens"] == len(RIGHT.encode()) - len("<|endoftext|>") + 1
    assert asked == [("FINAL_ONLY", False)] * 3  # no text and no message for every token


@pytest.mark.slow
def test_a_tokenizer_that_went_by_name_is_the_engines(root):
    from openrlhf.utils import get_tokenizer

    from recipes.engine.trainer import TokenizerName, load_tokenizer

    path, text = str(root / "recipes" / "laptop_model"), "<think> Ω </think>"
    sent = pickle.dumps(TokenizerName(path, True))
    here, own = pickle.loads(sent), get_tokenizer(path, None, "left", use_fast=True)
    assert len(sent) < 300 and here is load_tokenizer(path, True)
    assert here(text)["input_ids"] == own(text)["input_ids"]
    assert (here.padding_side, here.pad_token_id) == (own.padding_side, own.pad_token_id)


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
