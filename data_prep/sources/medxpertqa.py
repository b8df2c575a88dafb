"""MedXpertQA, the text-only part: hard questions with ten options.

Data set   MedXpertQA Text (Zuo et al. 2025, arXiv 2501.18362), https://github.com/TsinghuaC3I/MedXpertQA
Hub        TsinghuaC3I/MedXpertQA, config Text; revision in recipes/configs/data/medxpertqa.yaml
Licence    MIT; the authors ask not to publish examples
Splits     test 2,450 / dev 5
Fields     id, question, options {A..J}, label, medical_task, body_system, question_type

The question ends in its own list "Answer Choices: (A) … (J) …", which is cut off: the prompt lists
the options.
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow
from data_prep.rows import Question, get_text, get_texts

CHOICES = "Answer Choices:"


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a MedXpertQA record. Raises BadRow, also where the stem lists other options."""
    question, options = get_text(record, "question"), get_texts(record, "options")
    stem, found, listed = question.rpartition(CHOICES)
    if found and not all(option.strip() in listed for option in options):
        raise BadRow("choices_differ", "the stem lists other choices than the options")
    keys = ("medical_task", "body_system", "question_type")
    meta = {"source_id": get_text(record, "id")} | {key: get_text(record, key) for key in keys}
    answer = get_text(record, "label")
    return Question(row_id, stem if found else question, options, answer, meta)
