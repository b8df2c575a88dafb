"""The row format: a `Question` as the sources give it, and the JSONL row that PPO, SFT and
evaluation read.

Every row of a file has the same `meta` keys with values of the same type and never null: `datasets`
infers the types from the first block of a file and fails on a later block that differs
(`unify_meta`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import BadRow
from data_prep.prompt import (
    LETTERS,
    PLAIN,
    ChatFrame,
    Template,
    render_direct_prompt,
    render_prompt,
)


@dataclass(slots=True)
class Question:
    """One multiple-choice question. `answer` is the letter of the gold option, `id` is
    `<dataset>/<split>/<number>`.
    """

    id: str
    question: str
    options: list[str]
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def gold(self) -> str:
        """Text of the gold option (of a question that was checked)."""
        return self.options[LETTERS.index(self.answer)]


def get_text(record: Any, key: str) -> str:
    """The text in a field. Raises BadRow where the record is no object, or the field is missing
    or no text.
    """
    if not isinstance(record, dict):
        raise BadRow("not_an_object", f"got {type(record).__name__}")
    if key not in record:
        raise BadRow("missing_field", key)
    if not isinstance(record[key], str):
        raise BadRow("wrong_type", f"{key} is {type(record[key]).__name__}, not text")
    return record[key]


def get_optional_text(record: dict[str, Any], key: str) -> str:
    """The text in a field that upstream leaves null on some rows, then "". Raises BadRow where
    it is missing.
    """
    return "" if key in record and record[key] is None else get_text(record, key)


def get_texts(record: Any, key: str) -> list[str]:
    """The texts of a list field, or of an object lettered A, B, C, …; raises BadRow.

    An object's trailing null letters are left out: Parquet gives every row the letters that any row
    has.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, dict):
        while value and list(value.values())[-1] is None:
            value = dict(list(value.items())[:-1])
        if list(value) != list(LETTERS[: len(value)]):
            raise BadRow("wrong_type", f"{key} are lettered {list(value)[:30]}, not A, B, C, …")
        value = list(value.values())
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadRow("wrong_type", f"{key} is no list of texts")
    return value


def get_letter(record: dict[str, Any], key: str, base: int, num_options: int) -> str:
    """The letter for an index that counts from `base`. Raises BadRow where it is no index of an
    option.
    """
    value = record.get(key)
    if (
        isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()
    ):  # CSV has no numbers
        value = int(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 0 <= value - base < min(num_options, len(LETTERS))
    ):
        raise BadRow(
            "gold_not_among_options",
            f"{key} {value!r} counts from {base}, with {num_options} options",
        )
    return LETTERS[value - base]


def check_answer(question: Question) -> None:
    """Raises BadRow where the gold letter names none of the options."""
    if len(question.answer) != 1 or question.answer not in LETTERS[: len(question.options)]:
        raise BadRow(
            "gold_not_among_options",
            f"answer {question.answer!r} with {len(question.options)} options",
        )


def unify_meta(metas: Sequence[dict[str, Any]]) -> None:
    """Give all meta the same keys and each key one type, in place; a missing value becomes "".

    What Arrow's JSON reader cannot hold (null, NaN, a number over 64 bits, a list) becomes text.
    """
    types: dict[str, set[type]] = {}
    for meta in metas:
        for key, value in meta.items():
            types.setdefault(key, set()).add(type(value) if is_plain(value) else str)
    for key, kinds in types.items():
        if not all(key in meta for meta in metas):
            kinds.add(str)
    for meta in metas:
        values = {key: meta.get(key) for key in types}
        meta.clear()
        for key, value in values.items():
            keeps_type = types[key] == {type(value)}
            meta[key] = value if keeps_type else "" if value is None else str(value)


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a column of its own type."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 2**63)


def build_row(
    question: Question,
    split: str,
    eos_token: str,
    frame: ChatFrame | None = None,
    template: Template = PLAIN,
) -> dict[str, Any]:
    """The row as it is written, its fields in the order of the row format.

    `label` is JSON text because OpenRLHF hands the reward one value only, and would unify the keys
    of a struct. `response` is what SFT is to write after `direct_prompt`; it ends in EOS so that
    OpenRLHF adds none of its own.
    """
    label = {
        "id": question.id,
        "split": split,
        "answer": question.answer,
        "options": question.options,
    }
    return {
        "id": question.id,
        "question": question.question,
        "options": question.options,
        "answer": question.answer,
        "prompt": render_prompt(question.question, question.options, frame, template),
        "direct_prompt": render_direct_prompt(question.question, question.options, frame, template),
        "response": question.answer + eos_token,
        "label": json.dumps(label, ensure_ascii=False),
        "datasource": question.id.split("/", 1)[0],
        "meta": question.meta,
    }
