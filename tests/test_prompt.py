"""The prompt: its exact text, and that no response can merge with its end."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.prompt import render_direct_prompt, render_prompt, render_question

OPTIONS = ["Aspirin", "Rest"]
TOKENIZER = Path(__file__).with_name("tokenizer")
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 and Qwen2.5 cut text before byte-pair encoding (their tokenizer.json)."""


def build_tokenizer() -> Tokenizer:
    """The small byte-level BPE in tests/tokenizer: Qwen2's rules and special tokens, 400 tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [render_prompt("Which of the following is the most likely diagnosis?", OPTIONS)], trainer
    )
    return tokenizer


def test_the_tests_tokenizer_is_this_one() -> None:
    assert json.loads((TOKENIZER / "tokenizer.json").read_text()) == json.loads(
        build_tokenizer().to_str()
    )


@pytest.mark.parametrize("render", [render_prompt, render_direct_prompt])
@pytest.mark.parametrize(
    "response",
    [
        "B<|endoftext|>",
        "<think>\nIt is.\n</think>\n<answer>B</answer>",
        " B",
        "\nB",
        "\n\n  B",
        "B",
        "ʼs",
        "'s",
        ".",
        "\t",
    ],
)
def test_a_response_never_merges_with_the_end_of_the_prompt(render, response: str) -> None:
    """PPO tokenises the prompt alone, SFT prompt and response together: the ids must be the same.

    Left out are responses that open with a line break, which Qwen2's rules join to the one before. PPO feeds back the
    ids that were sampled, so it is safe there, and no SFT target opens so.
    """
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    prompt = render("What helps?", OPTIONS)
    ids = [
        tokenizer.encode(text, add_special_tokens=False).ids
        for text in (prompt, response, prompt + response)
    ]
    assert ids[0] + ids[1] == ids[2]


def test_the_think_prompt_is_exactly_this() -> None:
    assert render_prompt("What helps?", OPTIONS) == (
        "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
        "The Assistant first thinks about it inside <think> </think> tags, "
        "then gives the letter of the one best option inside <answer> </answer> tags.\n\n"
        "User: What helps?\nA. Aspirin\nB. Rest\nAssistant:\n"
    )


def test_the_direct_prompt_is_exactly_this() -> None:
    assert render_direct_prompt("What helps?", OPTIONS) == (
        "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
        "The Assistant gives the letter of the one best option.\n\n"
        "User: What helps?\nA. Aspirin\nB. Rest\nAssistant:\n"
    )


@pytest.mark.parametrize("render", [render_prompt, render_direct_prompt])
def test_prompts_end_in_a_newline_and_never_in_a_space(render) -> None:
    assert render("q", OPTIONS).endswith(":\n")


@pytest.mark.parametrize("number", [0, 1, 27])
def test_a_number_of_options_without_letters_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"got {number}"):
        render_question("q", ["x"] * number)


def test_26_options_are_lettered_to_z() -> None:
    assert render_question("q", ["x"] * 26).endswith("\nZ. x")
