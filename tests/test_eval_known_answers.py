"""Known answers on real benchmarks: what always the same letter scores, and what a uniform guess."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.rows import build_row
from data_prep.sources import medqa, mmlu
from eval.modes import render
from eval.samples import Answer, Request, build_sample
from eval.summary import summarise_samples

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def read_real(
    path: Path, parse: Any, name: str, keep: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Rows of a real data set in our format."""
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    data = OmegaConf.create({"category": "health", "name": name})
    questions = [
        parse(record, f"{name}/{i}", data) for i, record in enumerate(records) if keep(record)
    ]
    return [build_row(question, "test", "<e>") for question in questions]


@pytest.mark.parametrize(
    ("mode", "form"),
    [("think", "<think>x</think><answer>{}</answer>"), ("direct", "{}"), ("cot", "Answer: {}")],
)
def test_always_c_on_medqa(mode: str, form: str) -> None:
    rows = read_real(
        REAL_DATA / "medqa" / "test.jsonl", medqa.parse_row, "medqa/test", lambda record: True
    )
    requests = [Request(row, 0, 0, render(row, mode)) for row in rows]
    result = summarise_samples(
        [build_sample(request, Answer(form.format("C")), mode) for request in requests]
    )
    assert (result["n"], result["accuracy"]["value"]) == (1273, pytest.approx(346 / 1273, abs=1e-6))
    assert (
        result["accuracy_lenient"]["value"] == result["accuracy"]["value"]
        and result["chance"] == 0.25
    )


def test_uniform_guesses_on_mmlu_pro_health() -> None:
    def is_health(record: dict[str, Any]) -> bool:
        return bool(record["category"] == "health")

    rows = read_real(
        REAL_DATA / "mmlu_pro" / "test.jsonl", mmlu.parse_row, "mmlu_pro_health/test", is_health
    )
    rng = random.Random(1)
    guesses = [
        (Request(row, 0, 0, ""), Answer(rng.choice("ABCDEFGHIJ"[: len(row["options"])])))
        for row in rows
    ]
    result = summarise_samples(
        [build_sample(request, guess, "direct") for request, guess in guesses]
    )
    assert result["n"] == 818 and result["chance"] == pytest.approx(0.119, abs=0.0005)
    assert result["accuracy"]["low"] < result["chance"] < result["accuracy"]["high"]
    assert set(result["by_num_options"]) == {str(number) for number in range(3, 11)}
