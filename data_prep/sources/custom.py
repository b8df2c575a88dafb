"""Your own questions, with a mapping of columns.

    make prep data=custom data.name=mine data.source=questions.csv data.columns.answer=gold

Data set   any JSONL, CSV or Parquet file, or a folder with train, dev, test files
Mapping    recipes/configs/data/custom.yaml: the columns of question, options and answer, and others
           to keep
Options    one column with a list (or an object A, B, C, …), or one column an option:
           [opa, opb, opc, opd]
Answer     data.answer_is: a letter, the text of the gold option, or an index (data.index_base: 0, 1
           or auto)
"""

from typing import Any

from omegaconf import DictConfig, ListConfig

from data_prep.errors import BadRow
from data_prep.prompt import LETTERS
from data_prep.rows import Question, get_letter, get_text, get_texts


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a record by the configured columns. Raises BadRow."""
    columns = data.columns
    question = get_text(record, columns.question)
    if isinstance(columns.options, ListConfig):
        # Rows with fewer options leave the last columns empty.
        texts = [record.get(key) for key in columns.options]
        while texts and texts[-1] in (None, ""):
            texts.pop()
        options = get_texts({"options": texts}, "options")
    else:
        options = get_texts(record, columns.options)
    if data.answer_is == "index":
        answer = get_letter(record, columns.answer, data.index_base, len(options))
    elif data.answer_is == "text":
        gold = get_text(record, columns.answer).strip()
        matches = [
            index for index, text in enumerate(options[: len(LETTERS)]) if text.strip() == gold
        ]
        if len(matches) != 1:
            raise BadRow("gold_not_among_options", f"{len(matches)} options have the text {gold!r}")
        answer = LETTERS[matches[0]]
    else:
        answer = get_text(record, columns.answer).strip()
    meta = {
        key: record[key]
        for key in columns.meta
        if isinstance(record.get(key), str | int | float | bool)
    }
    return Question(row_id, question, options, answer, meta)
