"""The row format: a `Question` as the sources give it, and the JSONL row that all stages read.

Every row of a file has the same `meta` keys of the same types and never null: `datasets` infers
types from a file's first block and fails on a later one that differs (`unify_meta`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import BadRow
from data_prep.prompt import (
    DIRECT_RESPONSES,
    LETTERS,
    PLAIN,
    ChatFrame,
    Template,
    render_direct_prompt,
    render_prompt,
)


@dataclass(slots=True)
class Question:
    """One question. answer: gold letter, or ""; id: <dataset>/<split>/<number>.

    target: the open answer's part of the label, `kind` and what it needs; {} of a choice.

    notes: names of what the source did to read it; the manifest lists them under `fixed`.
    """

    id: str
    question: str
    options: list[str]
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    target: dict[str, Any] = field(default_factory=dict)

    @property
    def gold(self) -> str:
        """Text of the gold option (of a question that was checked), or the open answer."""
        if "value" in self.target:
            return f"{self.target['value']:g}"
        names = self.target.get("references")
        return names[0] if names else self.options[LETTERS.index(self.answer)]


def get_value(record: Any, key: str) -> Any:
    """Return a field's value. Raises BadRow where the record is no object or has no such field."""
    if not isinstance(record, dict):
        raise BadRow("not_an_object", f"got {type(record).__name__} {record!r:.80}")
    if key not in record:
        raise BadRow("missing_field", f"{key} is not among {list(record)!r:.200}")
    return record[key]


def get_text(record: Any, key: str, null: str | None = None) -> str:
    """Return the text in a field. null: what upstream's null stands for. Raises BadRow."""
    value = get_value(record, key)
    value = null if value is None else value
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{key} is {value!r:.100}, not text")
    return value


def get_texts(record: Any, key: str) -> list[str]:
    """Return the texts of a list field, or of an object lettered A, B, C, …; raises BadRow.

    Letters may be small or in brackets, and in any order.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, dict):
        # Parquet gives every row the letters that any row has
        given = {str(letter): text for letter, text in value.items() if text is not None}
        lettered = {letter.strip("()[]. :").upper(): text for letter, text in given.items()}
        if sorted(lettered) != list(LETTERS[: len(given)]):
            raise BadRow("wrong_type", f"{key} has the keys {list(given)!r:.100}, not A, B, C, …")
        value = [lettered[letter] for letter in sorted(lettered)]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadRow("wrong_type", f"{key} is no list of texts: {value!r:.100}")
    return value


def read_index(value: Any) -> int | None:
    """Read a whole number as files hold it: 2, 2.0 (a column with gaps) or text of it (CSV)."""
    if isinstance(value, str):
        value = value.strip().removesuffix(".0")
        # isdigit alone takes `²`
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def get_letter(record: dict[str, Any], key: str, base: int, num_options: int) -> str:
    """Return the letter for an index that counts from `base`. Raises BadRow."""
    value = record.get(key)
    index = read_index(value)
    if index is None or not 0 <= index - base < min(num_options, len(LETTERS)):
        detail = f"{key} {value!r:.100} counts from {base}, with {num_options} options"
        raise BadRow("gold_not_among_options", detail)
    return LETTERS[index - base]


def unify_meta(metas: Sequence[dict[str, Any]]) -> None:
    """Give all meta the same keys and each key one type, in place; a missing value becomes "".

    What Arrow's JSON reader cannot hold (null, NaN, a number over 64 bits, a list) becomes text.
    """
    for key in dict.fromkeys(key for meta in metas for key in meta):
        values = [meta.pop(key, None) for meta in metas]
        keeps_type = len(set(map(type, values))) == 1 and all(map(is_plain, values))
        for meta, value in zip(metas, values, strict=True):
            meta[key] = value if keeps_type else "" if value is None else str(value)


def is_plain(value: Any) -> bool:
    """Find out if a value can be in a column of one type."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 2**63)


def build_row(
    question: Question,
    split: str,
    eos_token: str,
    frame: ChatFrame | None = None,
    template: Template = PLAIN,
    direct_response: str = "letter",
) -> dict[str, Any]:
    """Build the row as it is written. direct_response: a key of DIRECT_RESPONSES.

    `label` is JSON text because OpenRLHF gives the reward one value only, and would unify the keys
    of a struct. `response`, the SFT target, ends in EOS so that OpenRLHF adds no second one.
    """
    stem, options, answer = question.question, question.options, question.answer
    label = {"id": question.id, "split": split}
    label |= question.target or {"answer": answer, "options": options}
    target = "{gold}" if question.target else DIRECT_RESPONSES[direct_response]
    return {
        "id": question.id,
        "question": stem,
        "options": options,
        "answer": answer or question.gold,
        "prompt": render_prompt(stem, options, frame, template),
        "direct_prompt": render_direct_prompt(stem, options, frame, template),
        "response": target.format(answer=answer, gold=question.gold) + eos_token,
        "label": json.dumps(label, ensure_ascii=False),
        "datasource": question.id.split("/", 1)[0],
        "meta": question.meta,
    }
