"""Shuffling options: seeded, the gold text stays gold, and rows that speak of their own options keep their order."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.options import shuffle_options
from data_prep.rows import Question


def make_question(
    options: list[str], stem: str = "What helps?", row_id: str = "x/test/0", answer: str = "A"
) -> Question:
    return Question(row_id, stem, options, answer)


@pytest.mark.parametrize(
    "options",
    [
        ["x", "y", "A and B", "z"],
        ["x", "y", "z", "Both A & C"],
        ["x", "y", "z", "A, B and C"],
        ["x", "y", "z", "(a) and (b)"],
        ["x", "y", "z", "A or B"],
        ["x", "y", "z", "Neither A nor B"],
        ["x", "y", "z", "Only A"],
        ["x", "y", "z", "a only"],
        ["x", "y", "z", "A, C, and D"],
        ["x", "y", "z", "A-C"],
        ["x", "y", "z", "A through C"],
        ["x", "y", "z", "B or C but not A"],
        ["x", "y", "z", "B and/or C"],
        ["x", "y", "z", "Both A and B are true"],
        ["x", "y", "z", "All but C"],
        ["x", "y", "z", "The same as A"],
        ["x", "y", "z", "The latter two"],
        ["x", "y", "z", "The former"],
        ["x", "y", "z", "All of the above except C"],
        ["x", "y", "z", "A and B of the above"],
        ["x", "y", "z", "Any of A, B or C"],
        ["x", "y", "z", "All but A and B"],
        ["x", "y", "z", "A, B and C are all correct"],
        ["x", "y", "z", "a and b are true, c is false"],
        ["x", "y", "z", "A is true, B is not"],
        ["x", "y", "z", "A and B are isomers"],
        ["x", "y", "z", "A plus B"],
        ["x", "y", "z", "A, then C"],
        ["x", "y", "z", "A thru C"],
        ["x", "y", "z", "A or B, but not both"],
        ["x", "y", "z", "A und C"],
        ["x", "y", "z", "A和C都对"],
        ["x", "y", "z", "First two options"],
        ["x", "y", "z", "The first and the third"],
        ["A. x", "y", "C. z", "u"],
        ["[D] x", "[C] y", "[A] z", "[B] u"],
        ["abc", "bcd", "ab", "d"],  # MedMCQA
        ["x", "y", "z", "Option B is wrong"],
        [
            "x",
            "All of the above",
            "y",
            "z",
        ],  # not last: moving the others would change what is above
        ["None of these", "x", "y", "z"],
    ],
)
def test_rows_whose_options_speak_of_others_by_letter_or_place_keep_their_order(
    options: list[str],
) -> None:
    assert shuffle_options(make_question(options), 1) is None


@pytest.mark.parametrize(
    "stem",
    [
        "Which is true, option B or the others?",
        "Why is choice (c) wrong?",
        "The answer A is wrong. Which else?",
    ],
)
def test_stems_that_cite_letters_keep_the_order(stem: str) -> None:
    assert shuffle_options(make_question(["w", "x", "y", "z"], stem), 1) is None


@pytest.mark.parametrize(
    "last",
    [
        ["All of the above"],
        ["None of the above."],
        ["Both", "None of these"],
        ["All"],
        ["any of these", "none"],
        ["All are true"],
        ["Either one"],
        ["All three"],
        ["All but the last"],
        ["Both of them are right"],
        ["More than one"],
        ["No correct answer"],
        ["Every one of these"],
        ["All of the foregoing"],
        ["All correct"],
        ["Both statements are true"],
        ["No option is correct"],
        ["All but one"],
        ["以上都是"],
        ["都不对"],
    ],
)
def test_collective_options_stay_last(last: list[str]) -> None:
    question = make_question(["u", "v", "w", "x", "y", "z", *last])
    shuffled = shuffle_options(question, 1)
    assert shuffled is not None
    assert shuffled.options != question.options
    assert shuffled.options[-len(last) :] == last
    assert sorted(shuffled.options) == sorted(question.options)


@pytest.mark.parametrize(
    "options",
    [
        ["Vitamin A", "Vitamin B12", "Vitamin C", "Vitamin D"],
        ["Hepatitis A virus", "Hepatitis B virus", "Hepatitis C virus", "Hepatitis E virus"],
        ["Vitamin A and vitamin C", "Vitamin D", "Iron", "Zinc"],
        ["Yes", "No", "Maybe", "Unknown"],
        ["Both lungs", "None seen", "All four limbs", "Any finger"],
        ["5 %", "10 %", "20 %", "1 and 2"],
        ["Protein C", "Protein S", "Factor V", "Antithrombin"],
        ["Influenza A", "Influenza B", "RSV", "CMV"],
        ["1.5 mg", "2.5 mg", "3.5 mg", "4.5 mg"],
        ["1:10", "2:10", "3:10", "4:10"],
        ["A-fibres", "B-fibres", "C-fibres", "None"],
        ["The former smoker", "The first child", "Both ears", "Every day"],
        ["A false positive", "A cell", "C and D chains", "The other eye"],
        ["A", "B", "O", "None seen"],
        ["60岁以上", "40岁", "20岁", "No"],
        ["3 - 6 months", "2 - 12 months", "1 : 2", "4 years"],
    ],
)
def test_letters_and_words_that_mean_something_else_do_not_hold_a_row(options: list[str]) -> None:
    assert any(
        (new := shuffle_options(make_question(options, row_id=f"x/test/{n}"), 1))
        and new.options != options
        for n in range(5)
    )


@given(
    st.lists(st.text(min_size=1), min_size=2, max_size=10, unique=True),
    st.integers(0, 9),
    st.integers(),
)
def test_the_gold_text_stays_gold(options: list[str], gold: int, seed: int) -> None:
    question = make_question(options, answer="ABCDEFGHIJ"[gold % len(options)])
    shuffled = shuffle_options(question, seed)
    if shuffled is not None:
        assert shuffled.gold == question.gold
        assert sorted(shuffled.options) == sorted(options)
        assert shuffle_options(question, seed) == shuffled


def test_the_gold_letter_becomes_even() -> None:
    letters = Counter(
        shuffle_options(make_question(["w", "x", "y", "z"], row_id=f"x/train/{n}"), 7).answer
        for n in range(4000)
    )
    assert all(900 < letters[letter] < 1100 for letter in "ABCD")


def test_a_huge_option_is_looked_at_in_linear_time() -> None:
    started = time.process_time()
    shuffle_options(make_question(["x", "all " * 50_000, "none of the " * 20_000]), 1)
    assert time.process_time() - started < 5
