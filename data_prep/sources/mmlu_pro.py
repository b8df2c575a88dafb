"""MMLU-Pro, one category: `health` is the out-of-distribution test of the paper.

Data set   MMLU-Pro (Wang et al. 2024, arXiv 2406.01574), https://github.com/TIGER-AI-Lab/MMLU-Pro
Hub        TIGER-Lab/MMLU-Pro; revisions in recipes/configs/data/mmlu_pro_health*.yaml
Licence    MIT (data set card; the code repository is Apache-2.0)
Splits     test 12,032, of which 818 in health; 70 validation rows are few-shot examples, not read
Fields     question_id, question, options [3 to 10], answer, answer_index, category, src

Two stems are generic ("Which of the following statements is correct?"), so rows are identified by
stem and gold option: 686 clusters of 683 stems. Labels were corrected since April 2025 (21 rows of
health): mmlu_pro_health has the older ones, mmlu_pro_health_2026 the corrected ones.
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, NotSelected
from data_prep.rows import Question, get_letter, get_text, get_texts


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read an MMLU-Pro record of `data.category`. Raises BadRow, and NotSelected for others."""
    if get_text(record, "category") != data.category:
        raise NotSelected
    number = record.get("question_id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadRow("wrong_type", f"question_id is {number!r}, not a whole number")
    options, answer = get_texts(record, "options"), get_text(record, "answer")
    if get_letter(record, "answer_index", 0, len(options)) != answer:
        raise BadRow(
            "gold_text_differs", f"answer {answer!r}, answer_index {record['answer_index']}"
        )
    dataset_split = row_id.rsplit("/", 1)[0]
    meta = {"source": get_text(record, "src")}
    return Question(
        f"{dataset_split}/{number}", get_text(record, "question"), options, answer, meta
    )
