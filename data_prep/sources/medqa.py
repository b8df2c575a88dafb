"""MedQA-USMLE, the English questions of the US medical licensing exam.

Data set   MedQA (Jin et al. 2020, arXiv 2009.13081), https://github.com/jind11/MedQA
Hub        recipes/configs/data/medqa.yaml (4 options) and medqa_5.yaml (5 options), each with its revision
Licence    MIT (upstream repository)
Splits     train 10,178 / dev 1,272 / test 1,273
Fields     upstream: question, answer, options {A..D}, meta_info, answer_idx (metamap_phrases is not read)
           hub:      id, sent1, sent2, ending0..ending3, label (from 0)

About 1 row in 200 has blanks around options; in two test rows only the gold option has them.
"""

from typing import Any

from data_prep.errors import BadRow
from data_prep.prompt import LETTERS
from data_prep.rows import Question, get_text


def parse_row(record: Any, row_id: str) -> Question:
    """A MedQA record in either of its two published layouts. Raises BadRow."""
    if isinstance(record, dict) and "ending0" in record:
        return parse_hub_row(record, row_id)
    question = get_text(record, "question")
    answer = get_text(record, "answer_idx")
    options = record.get("options")
    if not isinstance(options, dict):
        raise BadRow("wrong_type", f"options is {type(options).__name__}, not an object")
    if list(options) != list(LETTERS[: len(options)]):
        raise BadRow("wrong_type", f"options are lettered {list(options)}, not A, B, C, …")
    texts = [get_text(options, letter) for letter in options]
    if answer in options and get_text(record, "answer") != options[answer]:
        raise BadRow("gold_text_differs", f"answer_idx {answer} is {options[answer]!r}, answer is {record['answer']!r}")
    return Question(row_id, question, texts, answer, {"step": get_text(record, "meta_info")})


def parse_hub_row(record: dict[str, Any], row_id: str) -> Question:
    """The layout of the hub's `-hf` copies: ending0..ending3 and a label that counts from 0."""
    texts = [get_text(record, f"ending{number}") for number in range(4)]
    label = record.get("label")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(texts):
        raise BadRow("gold_not_among_options", f"label {label!r} with 4 options")
    question = " ".join(filter(None, [get_text(record, "sent1"), get_text(record, "sent2")]))
    return Question(row_id, question, texts, LETTERS[label], {"step": ""})
