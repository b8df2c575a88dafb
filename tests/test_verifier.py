"""The verdict: every row of tests/verdicts.yaml, properties over arbitrary text, and time.

python -m pytest tests/test_verifier.py            # seconds
python -m pytest tests/test_verifier.py -m slow    # a million hostile strings and a million hedges, up to 10 MB each
"""

import json
import random
import re
import string
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.reward_page import (
    BODY_FRAME,
    LEAK_OPTIONS,
    PAGE,
    get_reward,
    list_options,
    load_table,
    read_leak_response,
    read_response,
    render_page,
)
from reward_server.signals import leak
from reward_server.tags import FORMAT, SPECIAL_TOKENS
from reward_server.verifier import REASONS, read_choice, verify

# reasons of open answers alone: tests/open_verdicts.yaml has their rows
OPEN_ONLY = {"no_answer", "too_long", "several", "no_number", "range", "date"}
OPEN_ONLY |= {"unknown_unit", "wrong_unit"}
DATA = Path(__file__).parents[2] / "shared" / "data"
TABLE = load_table()
ROWS = [row for group in TABLE["verdicts"] for row in group["rows"]]
LEAKS = [row for group in TABLE["leak"] for row in group["rows"]]
OPTIONS = list_options({})

FRAGMENTS = [
    *FORMAT * 4,
    *SPECIAL_TOKENS[:4],
    "C",
    "(C)",
    "A or B",
    "not C",
    "The answer is ",
    "option ",
    "E. coli",
    "C. Metformin",
    "Insulin",
    "\\boxed{C}",
    "**C**",
    "Ｃ",
    "С",
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
    verdict = verify(read_response(row), gold, list_options(row), mode)
    assert verdict.reason == reason, row["why"]
    assert verdict.reward == get_reward(reason)
    assert verdict.format_ok == (verdict.reward >= 0)
    assert verdict.correct == (reason == "correct")
    assert verdict.choice == (row.get("choice", gold) if reason in {"correct", "wrong"} else None)


def test_matrix_is_complete():
    assert len(ROWS) >= 150
    found = {row["is"] for row in ROWS} | {row["strict"] for row in ROWS if "strict" in row}
    assert found == set(REASONS) - OPEN_ONLY and set(REASONS) > OPEN_ONLY
    keys = [
        (read_response(row), row.get("gold"), row.get("options"), row.get("text")) for row in ROWS
    ]
    assert len(keys) == len(set(keys)), "a case stands twice in tests/verdicts.yaml"


@pytest.mark.parametrize("row", LEAKS, ids=lambda row: ascii(read_leak_response(row))[:60])
def test_leak(row):
    verdict = verify(read_leak_response(row), row["answer"], LEAK_OPTIONS)
    assert verdict.choice == row["answer"], "the table is wrong"
    assert leak(verdict, LEAK_OPTIONS) == row["leak"], row["why"]


def test_leak_has_cases_both_ways():
    assert Counter(row["leak"] for row in LEAKS)[1] >= 12
    assert Counter(row["leak"] for row in LEAKS)[0] >= 12


def test_no_leak_without_the_format():
    assert leak(verify("<think>The answer is C.</think><answer>C", "C", OPTIONS), OPTIONS) == 0.0


def test_a_short_claim_that_ends_in_the_answer_is_reasoning():
    """The laptop model reasons like this: one fact, then the option and its letter."""
    options = ["nitrites", "rocuronium", "hydroxocobalamin", "atropine"]
    for claim in (
        "the antidote for cyanide is hydroxocobalamin.",
        "cyanide poisoning is treated with hydroxocobalamin.",
        "hydroxocobalamin reverses the effects of cyanide.",
        "a positive test for cyanide points to hydroxocobalamin.",
        "without enough cyanide, a person develops hydroxocobalamin.",
    ):
        text = f"<think> {claim} So hydroxocobalamin C. </think>\n<answer> C </answer>"
        assert leak(verify(text, "C", options), options) == 0.0, claim


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render_page(TABLE), "run `python -m dev.reward_page`"


def test_fields():
    verdict = verify("First. <think> a b </think><answer>B</answer>", "C", OPTIONS)
    assert verdict == (0.0, True, False, "B", "wrong", " a b ", "First. ")
    assert verify("<think>a</think> x <answer>B</answer>", "C", OPTIONS)[-2:] == ("a", "")
    assert verify("<think>a</think>", "C", OPTIONS)[-2:] == (None, None)


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
    ],
)
def test_bad_arguments(arguments):
    answer, count = arguments
    with pytest.raises(ValueError, match=r"answer|options"):
        verify("<think>a</think><answer>A</answer>", answer, ["text"] * count)


def test_bad_mode():
    with pytest.raises(ValueError, match="mode 'lenient' is not one of paper, strict"):
        verify("", "A", OPTIONS, "lenient")


def test_options_are_texts_not_a_number_or_one_text():
    with pytest.raises(ValueError, match="options 'ABCD' are not 2 to 26 texts"):
        verify("", "A", "ABCD")


@settings(max_examples=1000, deadline=None)
@given(
    wild_response(),
    st.sampled_from("ABCD"),
    st.integers(4, 26),
    st.sampled_from(["paper", "strict"]),
)
def test_verdict_is_total_and_closed(response, gold, num_options, mode):
    options = list_options({"options": num_options})
    verdict = verify(response, gold, options, mode)
    assert verdict.reason in REASONS
    assert verdict.reward in {-1.0, 0.0, 1.0}
    assert verdict.reward == get_reward(verdict.reason)
    assert verdict.format_ok or not verdict.correct
    assert verdict.choice is None or verdict.format_ok
    assert verdict.correct == (verdict.choice == gold)
    assert verdict.choice in {None, *string.ascii_uppercase[:num_options]}
    assert leak(verdict, options) in {0.0, 1.0}
    json.dumps(verdict)


@settings(max_examples=500, deadline=None)
@given(wild_response())
def test_strict_only_takes_away(response):
    paper, strict = (verify(response, "C", OPTIONS, mode) for mode in ("paper", "strict"))
    assert strict == paper or (strict.reason == "text_before" and strict.reward <= paper.reward)


@settings(max_examples=500, deadline=None)
@given(wild_response(), wild_text())
def test_text_after_never_raises_the_reward(response, extra):
    if "</answer>" in response:
        before, after = (verify(text, "C", OPTIONS) for text in (response, response + extra))
        assert after.reward <= before.reward


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
    options = ["drug"] * 10
    shape, other = data.draw(st.sampled_from(shapes)), data.draw(st.sampled_from("ABCDEFGHIJ"))
    before = verify(BODY_FRAME.format(shape.format(letter, other)), gold, options)
    moved_body = shape.format(moved[letter], moved[other])
    after = verify(BODY_FRAME.format(moved_body), moved[gold], options)
    assert after[:3] == before[:3]
    assert after.reason == before.reason
    assert after.choice == (moved[before.choice] if before.choice else None)


@settings(max_examples=500, deadline=None)
@given(wild_text())
def test_two_announced_letters_never_count(filler):
    assert read_choice(f"A. {filler} The answer is B", OPTIONS).letter is None
    assert read_choice(f"A or {filler} B", OPTIONS).letter is None


JOINERS = [
    " or ",
    " and ",
    "/",
    ", ",
    "\n",
    " ",
    "; ",
    "",
    " but perhaps ",
    ". Otherwise ",
    ", not ",
    " rather than ",
    " if not ",
    "|",
    " - ",
    " – ",
    ": ",
    ") ",
    "\n\n",
    " vs ",
    "\u200b",
    " -> ",
]
CONDITIONS = [
    " if the kidneys work",
    " unless she is pregnant",
    " in most cases",
    " when it is cold",
    ", provided that he can swallow",
    "?",
    " (or the other one)",
    " first, then another",
    " at best",
    "...?",
]
PROSE = [
    "Fever and a rash",
    "I think",
    "Maybe",
    "Not",
    "Anything but",
    "It is hard to say:",
    "so",
    "My guess is",
    "Either",
    "The answer is not",
    "This is the likely one",
    "Vitamin",
    "could be right",
    "is wrong",
    "because it lowers glucose",
]
WRAPS = ["{}", "**{}**", "({})", '"{}"', "\\boxed{{{}}}", "`{}`", "[{}]", " {}\n", "{}.", "${}$"]


def state_letter(draw: random.Random, letter: str) -> str:
    """One of the forms that state a choice."""
    text = OPTIONS[ord(letter) - 65]
    form = draw.choice(
        [
            "{0}",
            "({0})",
            "**{0}**",
            "{0}.",
            "\\boxed{{{0}}}",
            "Option {0}",
            "Answer: {0}",
            "The correct answer is {0}",
            "{0}. {1}",
            "{0}: {1}",
            "({0}) {1}",
            "{0} ({1})",
        ]
    )
    return form.format(letter, text)


def make_hedges(seed: int, count: int) -> list[str]:
    """Bodies with two letters, a condition or prose, wrapped in markup at random: none of them states one choice."""
    draw = random.Random(seed)
    bodies = []
    for number in range(count):
        first, second = draw.sample("ABCD", 2)
        stated = state_letter(draw, first)
        if number % 4 == 0:
            body = stated + draw.choice(JOINERS) + state_letter(draw, second)
        elif number % 4 == 1:
            body = stated + draw.choice(CONDITIONS)
        elif number % 4 == 2:
            body = f"{draw.choice(PROSE)} {stated}"
        else:
            body = f"{stated} {draw.choice(PROSE)}"
        if draw.random() < 0.2:
            body += draw.choice(JOINERS) + state_letter(draw, draw.choice("ABCD"))
        if draw.random() < 0.5:
            body = draw.choice(WRAPS).format(body)
        bodies.append(body)
    return bodies


def assert_no_hedge_is_a_choice(hedges: list[str]) -> None:
    for body in hedges:
        assert read_choice(body, OPTIONS).letter is None, body


def test_no_hedge_is_a_choice():
    assert_no_hedge_is_a_choice(make_hedges(seed=1, count=20_000))


@pytest.mark.slow
def test_none_of_a_million_hedges_is_a_choice():
    for seed in range(100):
        assert_no_hedge_is_a_choice(make_hedges(seed, count=10_000))


def test_each_form_alone_is_a_choice():
    """So the hedges above fail for the hedge, not for their forms or wraps."""
    draw = random.Random(0)
    for _ in range(2_000):
        letter = draw.choice("ABCD")
        body = draw.choice(WRAPS).format(state_letter(draw, letter))
        assert read_choice(body, OPTIONS).letter == letter, body


ALLOWED_WORDS = {
    "the",
    "correct",
    "best",
    "final",
    "right",
    "answer",
    "option",
    "choice",
    "is",
}


def find_strange_words(body: str, letter: str) -> set[str]:
    """What a body says beyond a letter, an announcement and the option's text, found without the verdict's patterns."""
    words = re.findall(r"\w+", body.replace("\\boxed", "").replace("\u200b", ""))
    own = OPTIONS[ord(letter) - 65].lower().split()
    return {word.lower() for word in words} - {letter.lower(), *own, *ALLOWED_WORDS}


def test_random_bodies_that_count_say_nothing_else():
    draw = random.Random(4)
    tokens = [
        *"ABCDE",
        *OPTIONS,
        *JOINERS,
        *CONDITIONS,
        "The answer is ",
        "option ",
        "Answer: ",
        ".",
        "(",
    ]
    tokens += [")", "**", "\\boxed{", "}", "not ", "C. Metformin", "(B)", "c", "?"]
    counted = 0
    for _ in range(100_000):
        body = "".join(draw.choices(tokens, k=draw.randrange(1, 5)))
        letter = read_choice(body, OPTIONS).letter
        if letter is not None:
            counted += 1
            assert not find_strange_words(body, letter), body
    assert counted > 1000


def test_a_policy_that_hedges_earns_no_more_than_one_that_guesses():
    """Each hedge names the gold letter whenever it can, and still earns nothing; a guess earns one in four."""
    draw = random.Random(2)
    hedged, guessed = [], []
    for body in make_hedges(seed=3, count=8_000):
        gold = draw.choice("ABCD")
        named = [letter for letter in "ABCD" if letter in body]
        hedged.append(verify(BODY_FRAME.format(body), draw.choice(named or "A"), OPTIONS).reward)
        guess = state_letter(draw, draw.choice("ABCD"))
        guessed.append(verify(BODY_FRAME.format(guess), gold, OPTIONS).reward)
    assert sum(hedged) / len(hedged) == 0.0
    assert 0.22 < sum(guessed) / len(guessed) < 0.28


def test_options_of_real_questions_read_as_labels():
    """Real option texts hold letters of all kinds (vitamins, species, articles); the label must still be read."""
    path = DATA / "medqa" / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is missing: real data is not part of the repository")
    rows = [json.loads(line)["options"] for line in path.open(encoding="utf-8")]
    assert len(rows) > 1000
    for row in rows:
        options = list(row.values())
        for letter, text in row.items():
            if options.count(text) > 1:
                continue
            for shape in (
                "{}. {}",
                "{}) {}",
                "({}) {}",
                "**{}.** {}",
                "{}: {}",
                "{}\n{}",
                "{} ({})",
            ):
                body = shape.format(letter, text)
                assert read_choice(body, options).letter == letter, (body, options)
            if len(text.strip()) > 1:
                assert read_choice(text, options).letter is None, (
                    "an option's text alone is no choice"
                )
        for letter, other in zip(row, options[1:], strict=False):
            assert read_choice(f"{letter}. {other}", options).letter in {None}, (letter, other)


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
        assert verify(text, "C", OPTIONS).reason in REASONS


@pytest.mark.slow
def test_a_million_hostile_strings():
    reasons: dict[str, int] = dict.fromkeys(set(REASONS) - OPEN_ONLY, 0)
    for seed in range(100):
        for text in hostile_strings(seed, count=10_000):
            reasons[verify(text, "C", OPTIONS, "strict" if seed % 2 else "paper").reason] += 1
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
                verify(text, "C", OPTIONS)
            rounds.append(time.process_time() - start)
        costs.append(min(rounds) / max(1, 100_000 // size) / size)
    assert max(costs[1:]) <= 8 * costs[0], [f"{cost * 1e9:.1f} ns" for cost in costs]
    assert max(costs) < 3e-6


@pytest.mark.process
def test_a_choice_is_judged_with_the_standard_library_alone():
    code = (
        "import sys; from reward_server.verifier import verify; verify('', 'A', ['a', 'b']);"
        "names = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names;"
        "print(*(name for name in names if not name.startswith('_')))"
    )
    here = PAGE.parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=here, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["reward_server"]
