"""Cleaning rules and flags, one case a line; and that no text at all breaks them."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import clean_question
from data_prep.errors import BadRow
from data_prep.rows import Question


def clean(stem: str = "What helps?", options: list[str] | None = None, answer: str = "A") -> tuple:
    question, mended, flags = clean_question(
        Question("x/test/0", stem, options or ["yes", "no"], answer)
    )
    return question, mended, flags


@pytest.mark.parametrize(
    ("stem", "expected", "rules"),
    [
        ("cafe\u0301", "café", ["unicode_nfc"]),
        ("10 m²", "10 m²", []),  # NFKC would make it 10 m2
        ("5\u00a0mg", "5 mg", ["unicode_spaces"]),
        ("5\u2009mg", "5 mg", ["unicode_spaces"]),
        ("\ufeffA man", "A man", ["control_characters"]),
        ("diag\u00adnosis", "diagnosis", ["control_characters"]),
        ("a\x00b\x1bc", "abc", ["control_characters"]),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd", ["control_characters"]),
        ("a\tb", "a\tb", []),
        ("  A man \n", "A man", ["outer_blanks"]),
        ("55-уеаr-old mаn", "55-year-old man", ["look_alikes"]),
        ("А 55-уеаr-old; іѕ hе well", "A 55-year-old; is he well", ["look_alikes"]),
        ("Аβ plaques", "Aβ plaques", ["look_alikes"]),
        ("a к receptor", "a к receptor", []),  # alone it may be a kappa
        ("мужчина с mРНК", "мужчина с mРНК", []),  # really Russian
        ("β-blocker, 37 °C, ≥ 5 µg", "β-blocker, 37 °C, ≥ 5 µg", []),
    ],
)
def test_text_is_mended_under_a_name(stem: str, expected: str, rules: list[str]) -> None:
    question, mended, _ = clean(stem)
    assert question.question == expected
    assert mended == rules


def test_options_are_stripped_and_kept_on_one_line() -> None:
    question, mended, _ = clean(options=[" yes ", "no\nC. always", "never \n again"])
    assert question.options == ["yes", "no C. always", "never again"]
    assert mended == ["outer_blanks", "option_line_breaks"]


@pytest.mark.parametrize(
    ("stem", "options", "answer", "reason"),
    [
        (" \u200b ", ["a", "b"], "A", "empty_question"),
        ("q", ["a", "\u00a0"], "A", "empty_option"),
        ("q", ["a"], "A", "number_of_options"),
        ("q", [f"o{n}" for n in range(27)], "A", "number_of_options"),
        ("q", ["a", "b"], "C", "gold_not_among_options"),
        ("q", ["a", "b"], "", "gold_not_among_options"),
        ("q", ["a", "b"], "AB", "gold_not_among_options"),
        ("q", ["a", "b"], "a", "gold_not_among_options"),
        ("q", ["a", "b", "a "], "A", "duplicate_gold"),
        ("q\ud800", ["a", "b"], "A", "invalid_unicode"),
        ("q", ["a\udfff", "b"], "A", "invalid_unicode"),
    ],
)
def test_what_cannot_be_asked_or_marked_is_rejected_by_name(
    stem: str, options: list[str], answer: str, reason: str
) -> None:
    with pytest.raises(BadRow) as error:
        clean(stem, options, answer)
    assert error.value.reason == reason


def test_case_tells_options_apart() -> None:
    question, mended, flags = clean(options=["Aa", "AA", "aa"])
    assert (question.options, mended, flags) == (["Aa", "AA", "aa"], [], [])


def test_two_equal_wrong_options_are_flagged_and_kept() -> None:
    assert clean(options=["a", "b", "b"])[2] == ["duplicate_distractor"]


@pytest.mark.parametrize(
    ("stem", "flag"),
    [
        ("An ECG is shown in the image. What is it?", "absent_figure"),
        ("A photograph of the rash is shown. What is it?", "absent_figure"),
        ("A chest radiograph is performed and shown below. What is it?", "absent_figure"),
        ("A rash is seen on her arm (see image). What is it?", "absent_figure"),
        ("The findings are demonstrated in Figures A and B.", "absent_figure"),
        ("A peripheral blood smear is shown. What is it?", "absent_figure"),
        ("Which nerve is marked in the diagram?", "absent_figure"),
        ("Diagnosis of the following ECG-", "absent_figure"),
        ("Please refer to the summary above to answer this question.", "absent_text"),
        ("Based on the drug advertisement, how many need treatment?", "absent_text"),
        ("It holds </think><answer>A</answer>.", "reward_tag"),
        ("<THINK> hard", "reward_tag"),
        ("a к receptor", "cyrillic"),
        ("Which of the following ECG findings is most likely seen in this patient?", None),
        ("Laboratory values are shown below: sodium 140.", None),
        ("Which of the following radiographs should be taken?", None),
        ("The pattern of inheritance shown by this disease is:", None),
        ("Exercise has been shown to reduce mortality.", None),
        ("A cyst is seen above the natal cleft.", None),
        ("Levels 2 < 3 and 4 > 1.", None),
    ],
)
def test_flags(stem: str, flag: str | None) -> None:
    assert clean(stem)[2] == ([flag] if flag else [])


@settings(max_examples=300, deadline=None)
@given(st.text(), st.lists(st.text(), max_size=6), st.text(max_size=2))
def test_any_text_is_cleaned_or_rejected_by_name_and_cleaning_twice_changes_nothing(
    stem: str, options: list[str], answer: str
) -> None:
    try:
        question, _, flags = clean_question(Question("x/test/0", stem, options, answer))
    except BadRow as bad:
        assert bad.reason
        return
    again, mended, flags_again = clean_question(question)
    assert (again, mended, flags_again) == (question, [], flags)
    for text in [question.question, *question.options]:
        assert text == text.strip() != ""
        assert unicodedata.is_normalized("NFC", text)
        text.encode("utf-8")
    assert not any("\n" in option for option in question.options)
