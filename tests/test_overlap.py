"""Overlap by 8-grams: against a plain computation, the policy, and the counts on real data that others can check."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data_prep import overlap
from data_prep.overlap import (
    Row,
    count_duplicates,
    find_clusters,
    find_contamination,
    find_near_copies,
    find_pairs,
    index_grams,
    make_key,
    split_words,
)

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
POLICY = OmegaConf.create({"drop": 0.8, "flag": 0.5})


def list_grams(words: list[str]) -> set[tuple[str, ...]]:
    if len(words) < overlap.NGRAM:
        return {tuple(words)}
    return {
        tuple(words[start : start + overlap.NGRAM])
        for start in range(len(words) - overlap.NGRAM + 1)
    }


texts = st.lists(st.lists(st.sampled_from("ab"), max_size=24), max_size=8)


@settings(max_examples=200, deadline=None)
@given(texts, texts, st.sampled_from([0.1, 0.5, 0.8, 1.0]))
def test_pairs_are_those_of_a_plain_computation(left: list, right: list, threshold: float) -> None:
    expected = {}
    for a, words in enumerate(left):
        for b, other in enumerate(right):
            share = len(list_grams(words) & list_grams(other)) / len(list_grams(words))
            if share >= threshold:
                expected[a, b] = pytest.approx(share)
    pairs = list(find_pairs(*index_grams(left, right), threshold))
    assert {(a, b): share for a, b, share in pairs} == expected and len(pairs) == len(expected)


@settings(max_examples=100, deadline=None)
@given(texts, st.sampled_from([0.3, 0.5, 1.0]))
def test_pairs_within_a_set_have_the_share_of_the_smaller(rows: list, threshold: float) -> None:
    grams = [list_grams(words) for words in rows]
    expected = {}
    for a in range(len(rows)):
        for b in range(a + 1, len(rows)):
            share = len(grams[a] & grams[b]) / min(len(grams[a]), len(grams[b]))
            if share >= threshold:
                expected[a, b] = pytest.approx(share)
    [measured] = index_grams(rows)
    found: dict = {}
    for a, b, share in find_pairs(measured, measured, threshold):
        if a != b:
            pair = (min(a, b), max(a, b))
            found[pair] = max(share, found.get(pair, 0))
    assert found == expected


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    rows = [[draw.choice("ab") for _ in range(draw.randint(0, 40))] for _ in range(120)]
    [grams] = index_grams(rows)
    whole = list(find_pairs(grams, grams, 0.3))
    monkeypatch.setattr(overlap, "JOIN_CHUNK", 7)
    assert len(whole) > 140 and list(find_pairs(grams, grams, 0.3)) == whole


def test_a_phrase_that_thousands_share_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "FRAME", 5)
    stem = "which of the following is the most likely diagnosis here"
    frame = split_words(make_row("t/train/0", stem, ()))
    [grams] = index_grams([[*frame, str(number)] for number in range(10)])
    assert all(a == b for a, b, _ in find_pairs(grams, grams, 0.5))


def test_short_stems_are_compared_with_their_options() -> None:
    assert split_words(make_row("t/train/0", "Treatment of choice?", ("b X", "a"))) == [
        "treatment",
        "of",
        "choice",
        "a",
        "b",
        "x",
    ]
    assert split_words(make_row("t/train/0", "word " * 20, ("b", "a"))) == ["word"] * 20


def make_row(
    row_id: str, stem: str, options: tuple[str, ...] = ("aspirin", "rest"), answer: str = "A"
) -> Row:
    return {"id": row_id, "question": stem, "options": list(options), "answer": answer, "meta": {}}


def number_words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last))


def contaminate(train: list[Row], evaluation: list[Row]) -> tuple:
    return find_contamination(train, evaluation, POLICY)


def test_policy_drops_copies_flags_halves_and_leaves_the_rest() -> None:
    train = [
        make_row("t/train/0", number_words(0, 107)),  # all of e/0
        make_row("t/train/1", number_words(0, 67)),  # 60 of 100 grams of e/0
        make_row("t/train/2", number_words(0, 47)),  # 40 of 100
        make_row("t/train/3", number_words(500, 600)),
    ]
    evaluation = [
        make_row("e/test/0", number_words(0, 107)),
        make_row("e/test/1", number_words(900, 1000)),
    ]
    drop, flagged, seen = contaminate(train, evaluation)
    assert drop == {"t/train/0": {"evaluation_id": "e/test/0", "share": 1.0}}
    assert flagged == {"t/train/1": {"evaluation_id": "e/test/0", "share": 0.6}}
    # the row that stays in training is the one that matters to whoever reports a clean subset
    assert seen == {"e/test/0": {"train_id": "t/train/1", "share": 0.6, "train_row_dropped": False}}


def test_an_exact_copy_with_other_distractors_is_found_even_where_8_grams_do_not_show_it() -> None:
    train = [make_row("t/train/0", "Drug of choice for gout?", ("Colchicine", *"abcdefgh"))]
    evaluation = [
        make_row("e/test/0", "drug of choice for gout", ("q", "colchicine", *"stuvwxyz"), "B")
    ]
    copy = {"evaluation_id": "e/test/0", "share": 1.0}
    assert contaminate(train, evaluation)[0] == {"t/train/0": copy}


def test_near_copies_name_the_earlier_row() -> None:
    rows = [
        make_row(f"t/train/{n}", number_words(start, start + 60))
        for n, start in enumerate((0, 300, 3))
    ]
    copy = {"earlier_id": "t/train/0", "share": 0.943}
    assert find_near_copies(rows, 0.5) == {"t/train/2": copy}


def test_clusters_need_stem_and_gold() -> None:
    stem = "Which of the following statements is correct?"
    rows = [
        make_row("e/test/0", stem, ("Iron is red.", "b"), "A"),
        make_row("e/test/1", stem.upper(), ("c", "iron is red"), "B"),
        make_row("e/test/2", stem, ("c", "Iron is blue."), "B"),
    ]
    assert find_clusters(rows) == {
        "e/test/0": "e/test/0",
        "e/test/1": "e/test/0",
        "e/test/2": "e/test/2",
    }
    assert list(count_duplicates(rows).values()) == [3, 1, 2, 3]


def test_an_answer_of_signs_alone_still_tells_questions_apart() -> None:
    plus, minus = (make_row("e/test/0", "The sign?", ("+", "-"), answer) for answer in "AB")
    assert make_key(plus) != make_key(minus)


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    rows = [row for row in rows if row.get("category", "health") == "health"]
    return [
        make_row(
            f"{path.stem}/{number}",
            row["question"],
            list(row["options"].values()) if isinstance(row["options"], dict) else row["options"],
            row.get("answer_idx") or row["answer"],
        )
        for number, row in enumerate(rows)
    ]


@pytest.mark.slow
def test_medqa_rows_that_overlap_with_its_training_file() -> None:
    keep_all = OmegaConf.create({"drop": None, "flag": 0.5})
    train = read_rows(SHARED / "medqa/train.jsonl")
    for split, half, most in (("test", 19, 6), ("dev", 10, 5)):
        rows = read_rows(SHARED / f"medqa/{split}.jsonl")
        _, _, seen = find_contamination(train, rows, keep_all)
        assert len(seen) == half
        shares = [copy["share"] for copy in seen.values()]
        assert sum(share >= 0.8 for share in shares) == most
        assert split == "dev" or 1 not in shares, "no test row is an exact copy"


def test_mmlu_pro_health_has_686_different_questions() -> None:
    counts = count_duplicates(read_rows(SHARED / "mmlu_pro/test.jsonl"))
    assert counts == {
        "rows": 818,
        "different_stems": 683,
        "clusters_same_stem_and_gold": 686,
        "different_stems_and_option_sets": 723,
    }
