"""Our own question bank: generated from fact tables, no download.

Data set   medical facts in question form, for the laptop experiment and the tests
Source     data_prep/bank.py and data_prep/facts/ (facts and sentences are ours)
Licence    Apache-2.0, as the rest of the repository
Splits     train, dev, test (in-distribution) and ood (other phrasings, 3 to 10 options)
Fields     id, question, options, answer, meta
"""

from typing import Any

from data_prep.errors import BadRow
from data_prep.rows import Question, get_text


def parse_row(record: Any, row_id: str) -> Question:
    """A question of the bank; the bank gives its own ids. Raises BadRow."""
    options = record.get("options") if isinstance(record, dict) else None
    if not isinstance(options, list) or not all(isinstance(text, str) for text in options):
        raise BadRow("wrong_type", "options must be a list of texts")
    meta = record.get("meta", {})
    return Question(get_text(record, "id"), get_text(record, "question"), options, get_text(record, "answer"), meta)
