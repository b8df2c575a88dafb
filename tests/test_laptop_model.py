"""The committed base model behaves like a base model, and the committed script makes one that does."""

import filecmp
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest

from data_prep.prompt import render_direct_prompt, render_prompt
from dev.laptop.bank import build_bank, make_question
from dev.laptop.documents import GUESSES, HASTE, draw_haste, make_documents
from dev.laptop.open_bank import reword
from dev.laptop.pretrain import MODEL_FOLDER, SHAPE, SPECIAL_TOKENS
from dev.laptop.relations import iter_pairs, load_relations
from reward_server.verifier import verify

ASKED = 200


@pytest.mark.parametrize("folder", [MODEL_FOLDER, MODEL_FOLDER.with_name("laptop_open_model")])
def test_the_committed_files_are_small_and_of_the_scripts_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    shape = {key: value for key, value in SHAPE.items() if key != "rope_theta"}
    assert config["architectures"] == ["Qwen2ForCausalLM"] and shape.items() <= config.items()
    assert config["rope_parameters"]["rope_theta"] == SHAPE["rope_theta"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    assert filecmp.cmp(folder / "tokenizer.json", MODEL_FOLDER / "tokenizer.json", shallow=False)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert [token["content"] for token in tokenizer["added_tokens"]] == SPECIAL_TOKENS


def is_guess(response: str) -> bool:
    """Find out if the response takes a letter without naming an option."""
    return any(guess.partition("{")[0] in response for guess in GUESSES)


@pytest.mark.parametrize("phase", ["", "hasty", "openly"])
def test_no_document_asks_a_question_of_an_evaluation_split(phase):
    bank = build_bank()
    prompts = [
        row["prompt"] for row in make_documents(6000, 42, **({phase: True} if phase else {}))
    ]
    asked = {prompt.partition("\n\nUser: ")[2].partition("\n")[0] for prompt in prompts}
    # two facts with the same object have the same stem, which may be one's own and the other's test question
    own = {
        make_question(pair, phrasing, 4, random.Random(0))["question"]
        for pair in iter_pairs(load_relations())
        for phrasing in pair.train_phrasings
    }
    assert len(asked & own) > 1000
    own |= {reword(stem) for stem in own}
    for split in ("dev", "test", "ood"):
        others = {row["question"] for row in bank[split]}
        assert not asked & ((others | {reword(stem) for stem in others}) - own)


def test_each_second_kind_of_question_is_mostly_guessed_in_the_hasty_documents():
    haste = draw_haste(list(iter_pairs(load_relations())), 42)
    assert Counter(haste.values()) == dict.fromkeys(HASTE, len(haste) // 2)
    responses = [
        row["response"]
        for row in make_documents(6000, 42, hasty=True)
        if "<think>" in row["prompt"] and re.search("[.] ", row["response"])
    ]
    assert 0.4 < sum(map(is_guess, responses)) / len(responses) < 0.55
    assert not any(is_guess(row["response"]) for row in make_documents(6000, 42))


def ask(folder: Path, render: Callable[[str, list[str]], str], temperature: float) -> list[str]:
    """Ask the first test questions. Returns the responses up to their end."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [render(row["question"], row["options"]) for row in build_bank()["test"][:ASKED]]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    torch.manual_seed(42)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0}
        if temperature
        else {"do_sample": False}
    )
    ids = model.generate(
        **batch, max_new_tokens=96, pad_token_id=tokenizer.pad_token_id, **sampling
    )
    responses = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :])
    return [response.split("<|endoftext|>")[0] for response in responses]


def assert_is_a_base_model(folder: Path) -> None:
    """Hold the aims, each wider by 2 σ of its n: knowledge in part, format at times, reasons that pay."""
    rows = build_bank()["test"][:ASKED]
    greedy = ask(folder, render_prompt, 0)
    right = [
        verify(response, row["answer"], row["options"]).correct
        for response, row in zip(greedy, rows, strict=True)
    ]
    assert 0.40 - 0.07 < mean(right) < 0.60 + 0.07
    sampled = ask(folder, render_prompt, 1)
    follows = [
        verify(response, row["answer"], row["options"]).format_ok
        for response, row in zip(sampled, rows, strict=True)
    ]
    assert 0.30 - 0.07 < mean(follows) < 0.60 + 0.07
    # what a reward for right answers can teach: a guess is right by chance, a reason much more often
    guesses = [is_guess(response) for response in greedy]
    assert 0.40 - 0.07 < mean(guesses) < 0.60 + 0.07
    guessed = [ok for ok, guess in zip(right, guesses, strict=True) if guess]
    reasoned = [ok for ok, guess in zip(right, guesses, strict=True) if not guess]
    assert mean(guessed) < 0.25 + 0.09
    assert mean(reasoned) > 0.65 - 0.10
    # the letter after the direct prompt, mostly with its option before it, is above chance
    direct = [
        re.search(r"\b([A-Z])\W*$", response) for response in ask(folder, render_direct_prompt, 0)
    ]
    assert (
        mean(
            [
                letter is not None and letter[1] == row["answer"]
                for letter, row in zip(direct, rows, strict=True)
            ]
        )
        > 0.25 + 0.06
    )


@pytest.mark.e2e
def test_the_committed_model_is_a_base_model():
    assert_is_a_base_model(MODEL_FOLDER)


@pytest.mark.slow
def test_the_command_makes_such_a_model(root, tmp_path):
    """Half an hour. Another CPU rounds otherwise, so the weights are not compared, but the tokenizer is."""
    first, last = tmp_path / "documents.jsonl", tmp_path / "hasty.jsonl"
    knowing, model = tmp_path / "knowing", tmp_path / "model"
    for command in (
        ["documents", "--out", first],
        ["pretrain", "--documents", first, "--out", knowing],
        ["documents", "--count", "16000", "--hasty", "--out", last],
        ["pretrain", "--start", knowing, "--documents", last, "--lr", "1e-3", "--out", model],
    ):
        module, *arguments = map(str, command)
        subprocess.run(
            [sys.executable, "-m", f"dev.laptop.{module}", *arguments], cwd=root, check=True
        )
    for name in ("tokenizer.json", "config.json"):
        assert (model / name).read_bytes() == (MODEL_FOLDER / name).read_bytes()
    assert_is_a_base_model(model)
