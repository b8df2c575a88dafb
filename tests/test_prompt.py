"""The prompt: its exact text, and that no response can merge with its end."""

import json
import re
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.errors import UserError
from data_prep.prompt import (
    PAPER,
    PLAIN,
    ChatFrame,
    find_template,
    render_direct_prompt,
    render_prompt,
    render_question,
)

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


# --- named templates ------------------------------------------------------------------------------------------------

LAPTOP = Path(__file__).resolve().parents[1] / "recipes/laptop_model"
RESPONSES = ["B<|endoftext|>", "<think>\nIt is.\n</think>\n<answer>B</answer>", " B", "B", "."]


def write_template(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.txt"
    path.write_bytes(text.encode())
    return str(path)


def test_the_paper_template_is_exactly_this() -> None:
    assert render_prompt("What helps?", OPTIONS, template=PAPER) == (
        "User talks with Assistant. User asks a question, and Assistant works out the answer. It reasons silently "
        "first and then tells User the answer. The reasoning goes into <think> </think>, the answer into <answer> "
        "</answer>, in this form: <think> the reasoning </think><answer> the answer </answer>\n\n"
        "User: What helps?\nReply with the letter of just one option.\nOptions:\nA. Aspirin\nB. Rest\nAssistant:\n"
    )
    assert render_direct_prompt("What helps?", OPTIONS, template=PAPER).endswith(
        "best option.\n\nUser: What helps?\nReply with the letter of just one option.\n"
        "Options:\nA. Aspirin\nB. Rest\nAssistant:\n"
    )


def test_the_hashes_of_the_templates_stay() -> None:
    """A new hash means other scores: raise PROMPT_VERSION with it."""
    assert [template.describe()["sha256"][:16] for template in (PLAIN, PAPER)] == [
        "970e7dc977cdaaaa",
        "005d68bc453105d6",
    ]


@pytest.mark.parametrize("folder", [TOKENIZER, LAPTOP])
@pytest.mark.parametrize("template", ["plain", "paper", "file"])
@pytest.mark.parametrize("response", RESPONSES)
def test_every_template_keeps_its_ids_apart_from_the_response(
    tmp_path: Path, folder: Path, template: str, response: str
) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if template == "file":
        chosen = find_template(
            "paper", write_template(tmp_path, "{question}\n{options}\nAssistant:\n")
        )
    else:
        chosen = find_template(template)
    for render in (render_prompt, render_direct_prompt):
        prompt = render("What helps?", OPTIONS, template=chosen)
        ids = [
            tokenizer.encode(text, add_special_tokens=False).ids
            for text in (prompt, response, prompt + response)
        ]
        assert ids[0] + ids[1] == ids[2]


def test_a_file_replaces_the_think_prompt_alone(tmp_path: Path) -> None:
    chosen = find_template(
        "paper", write_template(tmp_path, "Q {question}\r\n{options}\nAssistant:")
    )
    assert render_prompt("{options}?", OPTIONS, template=chosen) == (
        "Q {options}?\nA. Aspirin\nB. Rest\nAssistant:"
    )
    direct = [render_direct_prompt("q", OPTIONS, template=t) for t in (chosen, PAPER)]
    assert direct[0] == direct[1]
    assert chosen.describe()["file"] == "mine.txt"
    assert chosen.describe()["sha256"] != PAPER.describe()["sha256"]
    assert render_prompt("q", OPTIONS, ChatFrame("<u>", "</u>\n"), chosen) == (
        "<u>Q q\nA. Aspirin\nB. Rest\nAssistant:</u>\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{options}\n", "has no {question}"),
        ("{question}\n", "has no {options}"),
        ("{question} {options} {x}\n", "braces"),
        ("{question} {options} {{\n", "braces"),
        ("{question!r} {options}\n", "has no {question}"),
        ("{question}\n{options}\nAssistant: ", "ends in a blank"),
        ("{question}\n{options}", "end it in a line break"),
    ],
)
def test_a_file_that_is_no_template_is_refused_with_the_reason(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(UserError, match="mine.txt.*" + re.escape(told)):
        find_template("plain", write_template(tmp_path, text))


def test_an_unknown_name_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not one of plain, paper"):
        find_template("r1")
    with pytest.raises(UserError, match="cannot be read"):
        find_template("paper", str(tmp_path / "none.txt"))
