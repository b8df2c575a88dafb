"""Known answers on real benchmarks: what always the same letter scores, and what a uniform guess."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.options import apply_views
from data_prep.rows import build_row
from data_prep.sources import medqa, mmlu, native
from eval.modes import judge, render
from eval.samples import Answer, Request, build_sample
from eval.summary import summarise_samples
from eval.tables import build_letters

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


def list_bank_rows() -> list[dict[str, Any]]:
    path = Path(__file__).resolve().parents[1] / "data_prep" / "bank" / "test.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:200]]


def ask_view(
    choose: Callable[[dict[str, Any]], str],
    none: str | None = None,
    rotate: Any = 0,
    stem: str = "keep",
) -> dict[str, Any]:
    """The summary of a model that chooses a letter of a row, on 200 bank questions in one view."""
    data = {"name": "bank", "options": {"none_of_the_above": none, "rotate": rotate}, "stem": stem}
    questions = [
        native.parse_row(record, f"bank/test/{i}", OmegaConf.create(data))
        for i, record in enumerate(list_bank_rows())
    ]
    assert apply_views(questions, OmegaConf.create(data)) == []
    rows = [build_row(question, "test", "<e>") for question in questions]
    answers = [(Request(row, 0, 0, row["direct_prompt"]), Answer(choose(row))) for row in rows]
    return summarise_samples([build_sample(*answer, "direct") for answer in answers])


def choose_option(row: dict[str, Any], score: Callable[[str], Any]) -> str:
    """The letter of the option with the highest score, the first of equals."""
    return "ABCD"[max(range(4), key=lambda place: score(row["options"][place]))]


def test_always_c_is_found_out_by_rotation() -> None:
    result = ask_view(lambda row: "C", rotate="all")
    assert result["n"] == 800 and result["accuracy"]["value"] == 0.25
    assert result["letters"] == {"C": 800}
    assert result["flips"]["value"] == 1 and result["flips"]["n"] == 200


def test_a_text_matcher_never_flips_and_chooses_each_letter_equally_often() -> None:
    assert ask_view(lambda row: "C")["flips"] is None  # nothing was rotated
    longest = ask_view(lambda row: choose_option(row, lambda text: (len(text), text)), rotate="all")
    assert longest["flips"]["value"] == 0
    assert longest["letters"] == dict.fromkeys("ABCD", 200)
    table = build_letters([longest | {"model": "m", "benchmark": "b", "mode": "direct"}]).frame
    assert list(table["A"]) == ["25.0"] and table["flips"][0].startswith("0.0 (0.0–")


def test_a_shortcut_survives_without_the_stem_and_knowledge_without_the_gold_option_does_not() -> (
    None
):
    def shortcut(row: dict[str, Any]) -> str:
        return choose_option(row, lambda text: (len(text), text))

    whole, stemless = ask_view(shortcut), ask_view(shortcut, stem="none")
    assert stemless["accuracy"]["value"] == whole["accuracy"]["value"]

    answers = {row["question"]: row["options"][ord(row["answer"]) - 65] for row in list_bank_rows()}

    def match(row: dict[str, Any]) -> str:
        return choose_option(row, lambda text: text == answers.get(row["question"]))

    assert ask_view(match)["accuracy"]["value"] == 1
    # it finds no option that it knows, and says A: right as often as A is
    replaced = ask_view(match, none="replace_gold")
    assert replaced["letters"] == {"A": 200} and replaced["accuracy"]["value"] < 0.4
    assert ask_view(match, stem="none")["accuracy"]["value"] < 0.4


def test_named_targets_are_read_as_they_are_trained() -> None:
    """SFT's target `named` on every bank question: right by its letter, if the text is that letter's."""
    for row in list_bank_rows():
        letter, options = row["answer"], row["options"]
        gold, other = options[ord(letter) - 65], options[(ord(letter) - 64) % 4]
        for text, choice in (
            (f"So {gold} {letter}.", letter),
            (f"So {gold} {letter}.\n\nUser: next?", letter),
            (f"So {other} {letter}.", None),
            (f"So {gold} {letter}. Or B.", None),
        ):
            read = judge(text, letter, options, "direct")
            assert (read.choice, read.choice_lenient if choice else None) == (choice, choice), text
