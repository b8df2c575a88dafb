"""The row format: a `Question` as the sources give it, and the JSONL row that PPO, SFT and evaluation read.

Every row of a file has the same `meta` keys with values of the same type and never null: `datasets` infers the types
from the first block of a file and fails on a later block that differs.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import BadRow
from data_prep.prompt import LETTERS, render_direct_prompt, render_prompt

MetaValue = str | int | float | bool


@dataclass(slots=True)
class Question:
    """One multiple-choice question. `answer` is the letter of the gold option, `id` is `<dataset>/<split>/<number>`."""

    id: str
    question: str
    options: list[str]
    answer: str
    meta: dict[str, MetaValue] = field(default_factory=dict)


def get_text(record: Any, key: str) -> str:
    """The text in a field. Raises BadRow where the record is no object, or the field is missing or no text."""
    if not isinstance(record, dict):
        raise BadRow("not_an_object", f"got {type(record).__name__}")
    if key not in record:
        raise BadRow("missing_field", key)
    if not isinstance(record[key], str):
        raise BadRow("wrong_type", f"{key} is {type(record[key]).__name__}, not text")
    return record[key]


def build_row(question: Question, split: str, eos_token: str) -> dict[str, Any]:
    """The row as it is written, its fields in the order of the row format.

    `label` is JSON text because OpenRLHF hands the reward one value only, and would unify the keys of a struct.
    `response` is what SFT is to write after `direct_prompt`; it ends in EOS so that OpenRLHF adds none of its own.
    """
    label = {"id": question.id, "answer": question.answer, "num_options": len(question.options), "split": split}
    return {
        "id": question.id,
        "question": question.question,
        "options": question.options,
        "answer": question.answer,
        "prompt": render_prompt(question.question, question.options),
        "direct_prompt": render_direct_prompt(question.question, question.options),
        "response": question.answer + eos_token,
        "label": json.dumps(label, ensure_ascii=False),
        "datasource": question.id.split("/", 1)[0],
        "meta": question.meta,
    }


def answer_index(question: Question) -> int:
    """Position of the gold option. Raises BadRow where the letter names none of the options."""
    index = LETTERS.find(question.answer) if len(question.answer) == 1 else -1
    if not 0 <= index < len(question.options):
        raise BadRow("gold_not_among_options", f"answer {question.answer!r} with {len(question.options)} options")
    return index
