"""Rows in our own format: the question bank, and prepared data sets that `data=mix` reads back.

Data set   the bank: medical facts in question form, for the laptop experiment and the tests
Source     data_prep/bank/*.jsonl, written by dev/laptop/bank.py from dev/laptop/facts/*.yaml
Licence    Apache-2.0, as the rest of the repository (facts and sentences are ours)
Splits     train, dev, test (in-distribution) and ood (other phrasings, up to 10 options)
Fields     id, question, options, answer, meta; asked openly: id, question, references, meta
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow
from data_prep.rows import Question, get_text, get_texts


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a question that brings its own id. Raises BadRow."""
    stem, is_open = get_text(record, "question"), "references" in record
    options = get_texts(record, "references" if is_open else "options")
    if not isinstance(record.get("meta"), dict):
        raise BadRow("wrong_type", "meta is no object")
    meta = dict(record["meta"])
    if is_open:
        target = {"references": options, "kind": "text"}
        return Question(get_text(record, "id"), stem, [], "", meta, target=target)
    return Question(get_text(record, "id"), stem, options, get_text(record, "answer"), meta)
