"""The verdicts of open answers: the table, answers labelled by hand, hostile strings, time."""

import math
import random
import string
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.open_page import PAGE, TABLE, count_labelled, read_labelled, read_row, render_page
from dev.reward_page import BODY_FRAME, get_reward
from reward_server.number import TABLE as UNITS
from reward_server.number import Target, find_factor, read_number
from reward_server.text import TABLE as SPELLINGS
from reward_server.text import list_forms, read_text
from reward_server.verifier import verify_open

ROWS = [
    (kind, row)
    for kind, groups in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items()
    for group in groups
    for row in group["rows"]
]
REASONS = {
    "text": {"correct", "wrong", "several", "too_long", "no_answer"},
    "number": {"correct", "wrong", "several", "too_long", "no_number", "range", "date"}
    | {"unknown_unit", "wrong_unit"},
}
REFERENCES = ["acute myeloid leukemia", "AML"]
TARGET = Target(5.5, 5.2, 5.8, "mmol/L", "glucose")


@pytest.mark.parametrize(
    ("kind", "row"), ROWS, ids=lambda value: ascii(value["body"])[:50] if "is" in value else ""
)
def test_matrix(kind, row):
    assert read_row(kind, row).reason == row["is"], row["why"]


@pytest.mark.parametrize("reason", sorted(REASONS["text"] | REASONS["number"]))
def test_the_page_of_reasons_has_the_reward_of_an_open_answer(reason):
    verdict = verify_open(BODY_FRAME.format("gout"), lambda _: ("gout", reason))
    assert get_reward(reason) == verdict.reward


@pytest.mark.parametrize("kind", ["text", "number"])
def test_matrix_has_every_reason(kind):
    assert {row["is"] for other, row in ROWS if other == kind} == REASONS[kind]


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render_page(), "run `python -m dev.open_page`"


@pytest.mark.parametrize("kind", ["text", "number"])
def test_precision_on_answers_labelled_by_hand(kind):
    answers = list(read_labelled(kind))
    assert len(answers) >= 600
    assert len({(str(answer.target), answer.body) for answer in answers}) >= 590
    counts = count_labelled(kind)
    assert len(counts) == 12
    assert min(total for total, *_ in counts.values()) >= 50
    _, right, paid, good = (sum(column) for column in zip(*counts.values(), strict=True))
    assert good / paid >= 0.995
    assert good / right >= 0.8  # or a verdict that pays nothing would pass


def test_300_forms_of_numbers():
    assert len({answer.body for answer in read_labelled("number")}) >= 300


@pytest.mark.parametrize("example", [rule[2] for rule in SPELLINGS["rules"]])
def test_examples_of_the_spelling_rules(example):
    for pair in example.split(", "):
        *british, american = pair.replace(" → ", ", ").split(", ")
        for word in british:
            assert list_forms(word) == list_forms(american), (word, american)


def test_spelling_rules_keep_different_words_apart():
    """Pairs that a rule could make one: each must stay two."""
    pairs = """ilium/ileum hypertension/hypotension nitrate/nitrite sulfate/sulfite testis/test aids/aid
    homeostasis/hemostasis cystine/cysteine metastasis/metastatic peroneal/perineal pons/pon
    glucagon/glycogen thymine/thiamine abduction/adduction callus/callous mucus/mucosa
    arteritis/arthritis femur/femoral prostate/prostrate
    palpation/palpitation dysphagia/dysphasia cortisol/cortisone menorrhagia/metrorrhagia"""
    for pair in pairs.split():
        first, second = pair.split("/")
        assert not list_forms(first) & list_forms(second), pair


def test_known_conversions():
    """Against the factors that laboratories print."""
    known = {
        ("mg/dL", "mmol/L", "glucose"): 0.0555,
        ("mg/dL", "umol/L", "creatinine"): 88.4,
        ("mg/dL", "mmol/L", "cholesterol"): 0.0259,
        ("mg/dL", "mmol/L", "triglycerides"): 0.0113,
        ("mg/dL", "mmol/L", "urea nitrogen"): 0.357,
        ("mg/dL", "umol/L", "bilirubin"): 17.1,
        ("mg/dL", "mmol/L", "calcium"): 0.25,
        ("mg/dL", "umol/L", "uric acid"): 59.5,
        ("mEq/L", "mmol/L", "calcium"): 0.5,
        ("kPa", "mmHg", None): 7.5,
        ("cmH2O", "mmHg", None): 0.7356,
        ("lb", "kg", None): 0.4536,
        ("in", "cm", None): 2.54,
        ("mL/min", "L/day", None): 1.44,
    }
    for (unit, wanted, substance), factor in known.items():
        found = find_factor(unit, Target(1, 1, 1, wanted, substance))
        assert isinstance(found, tuple), (unit, wanted)
        assert math.isclose(found[0], factor, rel_tol=4e-3), (unit, wanted, found)


@pytest.mark.parametrize("unit", [unit for units in UNITS["units"].values() for unit in units])
def test_every_unit_converts_there_and_back(unit):
    target = Target(1, 1, 1, unit)
    assert read_number(f"1 {unit}", target).reason == "correct"
    for quantity in UNITS["units"].values():
        other = next(reversed(quantity))
        if unit in quantity and unit:
            there, back = find_factor(unit, Target(1, 1, 1, other)), find_factor(other, target)
            assert math.isclose(there[0] * back[0], 1, rel_tol=1e-9)


def make_hostile(seed: int, count: int) -> list[str]:
    """Bodies of references, numbers, units, joiners and junk, none of which is one right answer."""
    draw = random.Random(seed)
    pieces = [
        "leukemia",
        "acute",
        "myeloid",
        "AML",
        "lymphoma",
        "The answer is ",
        "Answer:",
        "not ",
    ]
    pieces += [
        " or ",
        ", ",
        "; ",
        "\n",
        "/",
        " (",
        ") ",
        "**",
        "\\boxed{",
        "}",
        "?",
        "-",
        "α",
        "'s",
    ]
    pieces += [
        "5",
        "5.5",
        "1e9",
        "×10^",
        "½",
        "−",
        "±",
        "~",
        " mmol/L",
        " mg/dL",
        "%",
        "e-",
        "^",
        "٥",
    ]
    pieces += [*string.printable, *(chr(draw.randrange(0x11_0000)) for _ in range(100))]
    bodies = []
    for _ in range(count):
        body = "".join(draw.choices(pieces, k=draw.randrange(12)))
        bodies.append(body * (draw.randrange(2_000) if draw.random() < 0.001 else 1))
    return bodies


def find_plain_answers(body: str) -> bool:
    """A body whose letters and digits, joined, are a right answer: it may be paid."""
    # written without the verdict's own patterns
    kept = "".join(c for c in body.casefold().replace("'s", "") if c.isalnum())
    for announcement in ("theansweris", "answer"):
        kept = kept.removeprefix(announcement)
    words = kept.replace("boxed", "")
    return words in {"acutemyeloidleukemia", "aml", "amls", "amlaml"} or "leukemia" in words


def check_hostile(seed: int, count: int) -> None:
    for body in make_hostile(seed, count):
        text, number = read_text(body, REFERENCES), read_number(body, TARGET)
        assert text.reason in REASONS["text"]
        assert number.reason in REASONS["number"]
        assert (text.answer is None) == (text.reason not in ("correct", "wrong"))
        assert (number.answer is None) == (number.reason not in ("correct", "wrong"))
        if text.reason == "correct":
            assert find_plain_answers(body), body
        if number.reason == "correct":
            assert any(c.isdigit() or c in "½" for c in body), body
            assert not set(body) & set("±<>?"), body


def test_hostile_strings():
    check_hostile(seed=1, count=2_000)


@pytest.mark.slow
def test_a_million_hostile_strings():
    for seed in range(100):
        check_hostile(seed, 10_000)


@settings(max_examples=500, deadline=None)
@given(st.text())
def test_any_text(body):
    assert read_text(body, REFERENCES).reason in REASONS["text"]
    assert read_number(body, TARGET).reason in REASONS["number"]


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-1e6, 1e6).map(lambda value: round(value, 6)),
    st.sampled_from(["{:.3f}", "{:.6e}", "{:,.3f}", "≈ {:.4f}", "{} ", "−{}"]),
)
def test_a_number_is_read_as_python_wrote_it(value, form):
    written = form.format(abs(value))
    wanted = -abs(value) if form.startswith("−") else abs(value)
    target = Target(wanted, wanted - 1e-3 - abs(value) * 1e-6, wanted + 1e-3 + abs(value) * 1e-6)
    assert read_number(written, target).reason == "correct", written


LISTS = ["gout", "sepsis", "lupus", "anemia", "measles", "scurvy", "rickets", "pellagra", "rabies"]


def test_no_list_of_candidates_is_paid():
    draw = random.Random(3)
    for _ in range(2_000):
        names = draw.sample(LISTS, draw.randrange(2, 9))
        body = draw.choice([", ", " or ", "/", "; ", " ", "\n", " and ", "|", " - "]).join(names)
        assert read_text(body, [draw.choice(names)]).reason != "correct", body


def test_an_echo_of_the_question_is_not_paid():
    question = "A patient lacks vitamin C. Which condition may develop, scurvy or rickets?"
    for end in range(1, len(question) + 1):
        body = question[:end]
        assert read_text(body, ["scurvy", "scorbutus"]).reason != "correct", body


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a ", "1 ", "1,", "(", "½", "*", "1/", "α", " ", "1e", "the "])
def test_time_per_character_is_flat(unit):
    costs = []
    for size in (1_000, 100_000, 10_000_000):
        body, rounds = unit * (size // len(unit)), []
        for _ in range(5):
            start = time.process_time()
            for _ in range(max(1, 100_000 // size)):
                read_text(body, REFERENCES)
                read_number(body, TARGET)
            rounds.append(time.process_time() - start)
        costs.append(min(rounds) / max(1, 100_000 // size) / size)
    assert max(costs[1:]) <= 8 * costs[0], [f"{cost * 1e9:.1f} ns" for cost in costs]
