"""The committed base model behaves like a base model, and the committed script makes one that does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.prompt import render_prompt
from dev.laptop.bank import build_bank
from dev.laptop.pretrain import MODEL_FOLDER, SHAPE, SPECIAL_TOKENS
from reward_server.verifier import verify

ASKED = 200


def test_the_committed_files_are_small_and_of_the_scripts_shape():
    config = json.loads((MODEL_FOLDER / "config.json").read_text())
    shape = {key: value for key, value in SHAPE.items() if key != "rope_theta"}
    assert config["architectures"] == ["Qwen2ForCausalLM"] and shape.items() <= config.items()
    assert config["rope_parameters"]["rope_theta"] == SHAPE["rope_theta"]
    assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) < 5e6
    tokenizer = json.loads((MODEL_FOLDER / "tokenizer.json").read_text())
    assert [token["content"] for token in tokenizer["added_tokens"]] == SPECIAL_TOKENS


def ask(folder: Path, temperature: float) -> tuple[float, float]:
    """Share of the first 200 test questions whose response follows the format, and that are right by strict reading."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = build_bank()["test"][:ASKED]
    prompts = [render_prompt(row["question"], row["options"]) for row in rows]
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
    ends = [response.split("<|endoftext|>")[0] for response in responses]
    verdicts = [
        verify(end, row["answer"], row["options"]) for end, row in zip(ends, rows, strict=True)
    ]
    return sum(v.format_ok for v in verdicts) / ASKED, sum(v.correct for v in verdicts) / ASKED


def assert_is_a_base_model(folder: Path) -> None:
    """It knows a part, greedily; sampled, it follows the format at times. The aim, wider by 2 σ of n = 200."""
    assert 0.35 - 0.07 < ask(folder, 0)[1] < 0.75 + 0.07
    assert 0.30 - 0.07 < ask(folder, 1)[0] < 0.60 + 0.07


@pytest.mark.e2e
def test_the_committed_model_is_a_base_model():
    assert_is_a_base_model(MODEL_FOLDER)


@pytest.mark.slow
def test_the_script_makes_such_a_model(root, tmp_path):
    """Half an hour. Another CPU rounds otherwise, so the weights are not compared, but the tokenizer is."""
    documents = tmp_path / "documents.jsonl"
    for command in (
        ["dev.laptop.documents", "--out", str(documents)],
        ["dev.laptop.pretrain", "--documents", str(documents), "--out", str(tmp_path / "model")],
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=root, check=True)
    for name in ("tokenizer.json", "config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (MODEL_FOLDER / name).read_bytes()
    assert_is_a_base_model(tmp_path / "model")
