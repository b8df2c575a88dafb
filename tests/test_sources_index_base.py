"""Find if an answer's index counts from 0 or from 1, and give columns one type."""

import math

import pytest

from data_prep.errors import UserError
from data_prep.rows import Question, unify_meta
from data_prep.sources.custom import find_index_base


def cop_rows(values: list[object]) -> list[dict]:
    return [{"cop": value, "options": list("abcd")} for value in values]


def find_base(rows: list) -> int:
    base = find_index_base(rows, "cop", "options")
    assert base == find_index_base(rows, "cop", ["opa", "opb", "opc", "opd"])
    return base


@pytest.mark.parametrize(
    ("values", "base"),
    [([0, 1, 2, 3], 0), ([1, 2, 3, 4], 1), ([1, 4, None, "x", -1, 9], 1), (["0"], 0)],
)
def test_the_base_is_found_out(values: list, base: int) -> None:
    assert find_base([*cop_rows(values), "no record"]) == base


@pytest.mark.parametrize(
    "options",
    [
        {"label": list("ABCD"), "text": list("abcd")},
        str(list("abcd")),
        [*"abcd", None],
    ],
)
def test_options_are_counted_as_they_are_read(options) -> None:
    """A table of labels and texts has four options, not two; a text has no length of its own."""
    rows = [{"cop": index, "options": options} for index in (1, 2, 4)]
    assert find_index_base(rows, "cop", "options") == 1
    with pytest.raises(UserError, match="0 rows have index 0 and 0 have the number of options"):
        find_index_base(rows[:2], "cop", "options")


@pytest.mark.parametrize(
    "rows",
    [
        cop_rows([1, 2, 3]),  # could be either
        cop_rows([0, 1, 4]),  # contradicts itself
        cop_rows([]),
    ],
)
def test_a_base_that_the_rows_do_not_settle_stops_preparation(rows: list) -> None:
    with pytest.raises(UserError, match=r"data\.index_base"):
        find_base(rows)


def test_meta_columns_get_one_type_that_arrow_can_hold() -> None:
    metas: list[dict] = [
        {"a": 1, "b": 1, "c": True, "d": 0.5},
        {"a": 2, "b": "x", "c": False, "d": math.nan},
        {"a": 3},
    ]
    questions = [
        Question(str(number), "q", ["a", "b"], "A", meta) for number, meta in enumerate(metas)
    ]
    unify_meta([question.meta for question in questions])
    assert [question.meta for question in questions] == [
        {"a": 1, "b": "1", "c": "True", "d": "0.5"},
        {"a": 2, "b": "x", "c": "False", "d": "nan"},
        {"a": 3, "b": "", "c": "", "d": ""},
    ]
    huge = [Question("0", "q", ["a", "b"], "A", {"a": 2**70, "b": None, "c": [1]})]
    unify_meta([huge[0].meta])
    assert huge[0].meta == {"a": str(2**70), "b": "", "c": "[1]"}
