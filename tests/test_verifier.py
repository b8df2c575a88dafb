"""The verdict: every row of tests/verdicts.yaml, properties over arbitrary text, and time.

python -m pytest tests/test_verifier.py            # seconds
python -m pytest tests/test_verifier.py -m slow    # a million hostile strings, up to 10 MB each (minutes)
"""

import json
import random
import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.reward_page import BODY_FRAME, PAGE, get_reward, load_table, read_response, render_page
from reward_server.tags import FORMAT, SPECIAL_TOKENS
from reward_server.verifier import REASONS, leak, lenient_choice, read_choice, verify

DATA = Path(__file__).parents[2] / "shared" / "data"
TABLE = load_table()
ROWS = [row for group in TABLE["verdicts"] for row in group["rows"]]

FRAGMENTS = [
    *FORMAT * 4,
    *SPECIAL_TOKENS[:4],
    *(
        "C",
        "(C)",
        "A or B",
        "not C",
        "The answer is ",
        "option ",
        "E. coli",
        "\\boxed{C}",
        "**C**",
        "Ｃ",
        "С",
    ),
    *(
        "<think",
        "</answer >",
        "<",
        ">",
        "\u200b",
        "\u202e",
        "\0",
        "\n",
        " ",
        "\u00a0",
        "x",
        "because ",
        "\ud800",
    ),
]


def wild_text() -> st.SearchStrategy[str]:
    """Arbitrary text, lone surrogates too, and text made of the pieces that the verdict looks for."""
    pieces = st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(), max_size=8))
    return st.one_of(st.text(st.characters()), st.lists(pieces, max_size=14).map("".join))


def wild_response() -> st.SearchStrategy[str]:
    """Mostly well-formed responses around wild bodies, and wild text."""
    framed = st.tuples(wild_text(), wild_text(), wild_text(), wild_text()).map(
        lambda parts: "{}<think>{}</think><answer>{}</answer>{}".format(*parts)
    )
    plain = st.tuples(st.text("ab .\n", min_size=1), wild_text()).map(
        lambda parts: "<think>{}</think>\n<answer>{}</answer>".format(*parts)
    )
    return st.one_of(wild_text(), framed, plain)


@pytest.mark.parametrize("mode", ["paper", "strict"])
@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: ascii(row.get("body", row.get("response")))[:60]
)
def test_matrix(row, mode):
    reason = row.get("strict", row["is"]) if mode == "strict" else row["is"]
    gold = row.get("gold", "C")
    verdict = verify(read_response(row), gold, row.get("options", 4), mode)
    assert verdict.reason == reason, row["why"]
    assert verdict.reward == get_reward(reason)
    assert verdict.format_ok == (verdict.reward >= 0)
    assert verdict.correct == (reason == "correct")
    assert verdict.choice == (row.get("choice", gold) if reason in {"correct", "wrong"} else None)


def test_matrix_is_complete():
    assert len(ROWS) >= 150
    assert {row["is"] for row in ROWS} | {row["strict"] for row in ROWS if "strict" in row} == set(
        REASONS
    )
    keys = [(read_response(row), row.get("gold"), row.get("options")) for row in ROWS]
    assert len(keys) == len(set(keys)), "a case stands twice in tests/verdicts.yaml"


@pytest.mark.parametrize("row", TABLE["lenient"], ids=lambda row: ascii(row["response"])[:60])
def test_lenient_choice(row):
    assert lenient_choice(row["response"], 4) == row["choice"], row["why"]


@pytest.mark.parametrize("row", TABLE["leak"], ids=lambda row: ascii(row["response"])[:60])
def test_leak(row):
    assert leak(verify(row["response"], "C")) == row["leak"], row["why"]


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render_page(TABLE), "run `python -m dev.reward_page`"


def test_fields():
    verdict = verify("First. <think> a b </think><answer>B</answer>", "C")
    assert verdict == (0.0, True, False, "B", "wrong", " a b ", "First. ")
    assert verify("<think>a</think> x <answer>B</answer>", "C")[-2:] == ("a", "")
    assert verify("<think>a</think>", "C")[-2:] == (None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("E", 4),
        ("c", 4),
        ("", 4),
        ("AB", 4),
        ("Ｃ", 4),
        ("А", 4),
        ("C", 2),
        ("A", 1),
        ("A", 27),
        ("A", 0),
        ("A", -1),
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"answer|num_options"):
        verify("<think>a</think><answer>A</answer>", *arguments)


def test_bad_mode():
    with pytest.raises(ValueError, match="mode 'lenient' is not one of paper, strict"):
        verify("", "A", 4, "lenient")


@settings(max_examples=1000, deadline=None)
@given(
    wild_response(),
    st.sampled_from("ABCD"),
    st.integers(4, 26),
    st.sampled_from(["paper", "strict"]),
)
def test_verdict_is_total_and_closed(response, gold, num_options, mode):
    verdict = verify(response, gold, num_options, mode)
    assert verdict.reason in REASONS
    assert verdict.reward in {-1.0, 0.0, 1.0}
    assert verdict.reward == get_reward(verdict.reason)
    assert verdict.format_ok or not verdict.correct
    assert verdict.choice is None or verdict.format_ok
    assert verdict.correct == (verdict.choice == gold)
    assert leak(verdict) in {0.0, 1.0}
    assert lenient_choice(response, num_options) in {None, *string.ascii_uppercase[:num_options]}
    json.dumps(verdict)


@settings(max_examples=500, deadline=None)
@given(wild_response())
def test_strict_only_takes_away(response):
    paper, strict = verify(response, "C"), verify(response, "C", 4, "strict")
    assert strict == paper or (strict.reason == "text_before" and strict.reward <= paper.reward)


@settings(max_examples=500, deadline=None)
@given(wild_response(), wild_text())
def test_text_after_never_raises_the_reward(response, extra):
    if "</answer>" in response:
        assert verify(response + extra, "C").reward <= verify(response, "C").reward


@settings(max_examples=500, deadline=None)
@given(
    st.permutations("ABCDEFGHIJ"),
    st.sampled_from("ABCDEFGHIJ"),
    st.sampled_from("ABCDEFGHIJ"),
    st.data(),
)
def test_permuting_options_keeps_the_verdict(order, gold, letter, data):
    moved = dict(zip("ABCDEFGHIJ", order, strict=True))
    shapes = [
        "{}",
        "({})",
        "{}.",
        "{}) drug",
        "{}. drug",
        "**{}**",
        "Option {}",
        "The answer is {}.",
        "\\boxed{{{}}}",
    ]
    shapes += ["not {}", "{} or {}", "{}, {}", "maybe {}", "{}{}", "{} drug", "vitamin {}"]
    shape, other = data.draw(st.sampled_from(shapes)), data.draw(st.sampled_from("ABCDEFGHIJ"))
    before = verify(BODY_FRAME.format(shape.format(letter, other)), gold, 10)
    after = verify(BODY_FRAME.format(shape.format(moved[letter], moved[other])), moved[gold], 10)
    assert after[:3] == before[:3]
    assert after.reason == before.reason
    assert after.choice == (moved[before.choice] if before.choice else None)


@settings(max_examples=500, deadline=None)
@given(wild_text())
def test_two_announced_letters_never_count(filler):
    assert read_choice(f"A. {filler} The answer is B", 4).letter is None
    assert read_choice(f"A or {filler} B", 4).letter is None


def test_a_long_answer_is_prose():
    text = "drug " * 799
    assert read_choice(f"C) {text}", 4).letter == "C"
    assert read_choice(f"C) {text} drug", 4).reason == "no_choice"


def test_options_of_real_questions_read_as_labels():
    """Real option texts hold letters of all kinds (vitamins, species, articles); the label must still be read."""
    path = DATA / "medqa" / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is missing: real data is not part of the repository")
    options = {
        text.strip()
        for line in path.open(encoding="utf-8")
        for text in json.loads(line)["options"].values()
    }
    options = {
        text for text in options if len(text) > 1
    }  # "C. A", of a question about curves A to D, is ambiguous
    assert len(options) > 1000
    for shape in ("{}. {}", "{}) {}", "({}) {}", "**{}.** {}", "The answer is {}. {}"):
        misread = [
            text for text in options if read_choice(shape.format("B", text), 4).letter != "B"
        ]
        assert len(misread) <= 0.001 * len(options), misread
    taken = [text for text in options if read_choice(text, 4).letter]
    assert taken == [], "an option's text alone is no choice"


def hostile_strings(seed: int, count: int) -> list[str]:
    """`count` random strings of tags, letters, tokens and junk: a third with no frame, one with junk all around the
    tags, one with junk in the answer alone."""
    draw = random.Random(seed)
    words = [
        "A",
        "B",
        "C",
        "E",
        "(C)",
        "C.",
        " or ",
        "not ",
        "option ",
        "The answer is ",
        "Metformin",
        *" .,:()*\n",
    ]
    pieces = (
        FRAGMENTS + list(string.printable) + [chr(draw.randrange(0x11_0000)) for _ in range(200)]
    )
    texts = []
    for number in range(count):
        junk = ["".join(draw.choices(pieces, k=draw.randrange(9))) for _ in range(4)]
        if number % 3 == 0:
            texts.append("".join(junk))
        elif number % 3 == 1:
            texts.append("{}<think>{}</think><answer>{}</answer>{}".format(*junk))
        else:
            texts.append(BODY_FRAME.format("".join(draw.choices(words, k=draw.randrange(6)))))
    return texts


def test_hostile_strings():
    for text in hostile_strings(seed=1, count=3_000):
        assert verify(text, "C").reason in REASONS
        lenient_choice(text, 4)


@pytest.mark.slow
def test_a_million_hostile_strings():
    reasons: dict[str, int] = dict.fromkeys(REASONS, 0)
    for seed in range(100):
        for text in hostile_strings(seed, count=10_000):
            reasons[verify(text, "C", 4, "strict" if seed % 2 else "paper").reason] += 1
    assert sum(reasons.values()) == 1_000_000
    assert min(reasons.values()) > 0, reasons


@pytest.mark.slow
@pytest.mark.parametrize("frame", ["{}", "<think>{}</think><answer>C</answer>", BODY_FRAME])
@pytest.mark.parametrize(
    "unit", ["<think>", "C ", "(C) ", "not C or ", "the answer is ", " ", "\u200b", "<", "*C", "é"]
)
def test_time_per_character_is_flat(frame, unit):
    """From 1 kB to 10 MB: at most 8 times as long a character (10,000 times the length), whatever it is made of."""
    costs = []
    for size in (1_000, 100_000, 10_000_000):
        text = frame.format(unit * (size // len(unit)))
        rounds = []
        for _ in range(5):
            start = time.process_time()
            for _ in range(max(1, 100_000 // size)):
                verify(text, "C")
            rounds.append(time.process_time() - start)
        costs.append(min(rounds) / max(1, 100_000 // size) / size)
    assert max(costs[1:]) <= 8 * costs[0], [f"{cost * 1e9:.1f} ns" for cost in costs]
    assert max(costs) < 3e-6
