"""Views of a question: the gold option stays the gold option, and rows that a view would break stay as they are."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from data_prep.options import NONE, apply_views, view_question
from data_prep.prepare import check_settings
from data_prep.prompt import LETTERS
from data_prep.rows import Question


def make(options: list[str], answer: str = "B", stem: str = "q") -> Question:
    return Question("x/test/1", stem, options, answer, {"step": "1"})


@given(st.integers(2, 26), st.data())
def test_rotation_moves_every_option_and_the_gold_letter_follows(count: int, data) -> None:
    gold, turn = data.draw(st.integers(0, count - 1)), data.draw(st.integers(-30, 30))
    question = make([f"drug {number}" for number in range(count)], LETTERS[gold])
    before = copy.deepcopy(question)
    viewed = view_question(question, None, turn)
    assert question == before  # a pure function
    assert viewed.gold == question.gold and sorted(viewed.options) == sorted(question.options)
    assert viewed.options[0] == question.options[turn % count]
    assert view_question(viewed, None, -turn) == question


def test_add_appends_an_option_that_is_never_right() -> None:
    viewed = view_question(make(["a drug", "rest"]), "add", 0)
    assert (viewed.options, viewed.answer) == (["a drug", "rest", NONE], "B")


def test_rotated_first_so_that_none_of_the_above_stays_last() -> None:
    viewed = view_question(make(["x1", "x2", "x3"]), "add", 1)
    assert (viewed.options, viewed.answer) == (["x2", "x3", "x1", NONE], "A")


def test_replace_gold_makes_it_right_in_the_place_of_the_right_one() -> None:
    viewed = view_question(make(["x1", "x2", "x3"]), "replace_gold", 1)
    assert (viewed.options, viewed.answer) == ([NONE, "x3", "x1"], "A")


@pytest.mark.parametrize(
    ("question", "view", "turn"),
    [
        (make(["x1", "x2", "none of the above."]), "add", 0),
        (make(["x1", "x2", "None of these"], "C"), "add", 0),
        (make(["x1", "x2", "Neither of the options"]), "add", 0),
        (make(["x1", "x2", "No option is right"]), "add", 0),
        (make(["x1", "x2", "None of the above"], "C"), "replace_gold", 0),
        (make(["x1", "x2", "All of the above"]), "replace_gold", 0),
        (make(["x1", "x2", "All of the above"]), None, 1),
        (make(["x1", "x2", "A and B"]), None, 1),
        (make(["x1", "x2"], stem="Is option B right?"), None, 1),
        (make([f"x{number}" for number in range(26)]), "add", 0),
    ],
)
def test_a_row_that_a_view_would_break_stays_and_is_listed(question, view, turn) -> None:
    assert view_question(question, view, turn) is None
    data = OmegaConf.create(
        {"options": {"none_of_the_above": view, "rotate": turn}, "stem": "keep"}
    )
    rows = [question]
    assert apply_views(rows, data) == [question.id] and rows == [question]


def test_without_a_stem_the_options_stay() -> None:
    data = OmegaConf.create({"options": {"none_of_the_above": None, "rotate": 0}, "stem": "none"})
    rows = [make(["x1", "x2"], stem="A long story.")]
    assert apply_views(rows, data) == []
    assert rows[0].options == ["x1", "x2"] and "story" not in rows[0].question


def test_rotated_through_all_positions_a_question_has_its_gold_option_at_each_once() -> None:
    fixed = make(["x1", "x2", "A and B"])
    rows = [make(["x1", "x2", "x3", "x4"]), fixed]
    data = OmegaConf.create(
        {"options": {"none_of_the_above": None, "rotate": "all"}, "stem": "keep"}
    )
    assert apply_views(rows, data) == [fixed.id]
    turned, left = rows[:4], rows[4]
    assert sorted(row.answer for row in turned) == list("ABCD")
    assert {row.gold for row in turned} == {"x2"}
    assert [row.id for row in turned] == [f"x/test/1/{turn}" for turn in range(4)]
    assert {row.meta["rotation_of"] for row in turned} == {"x/test/1"}
    assert left.options == fixed.options and left.answer == fixed.answer


def test_settings_that_are_no_view_are_all_reported(compose_config) -> None:
    views = ["data.options.none_of_the_above=f", "data.options.rotate=1.5", "data.stem=half"]
    problems = check_settings(compose_config("prep", "data=medqa", *views).data)
    assert len(problems) == 3 and all(key in "".join(problems) for key in views)
