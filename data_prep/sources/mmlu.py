"""MMLU, the six medical subjects that papers report, and MMLU-Pro, one category.

Data set   MMLU (Hendrycks et al. 2021, arXiv 2009.03300), https://github.com/hendrycks/test
Hub        cais/mmlu, one config a subject; revision in recipes/configs/data/mmlu_medical.yaml
Licence    MIT
Splits     test 1,089 / dev 123 (the upstream's validation), over anatomy, clinical_knowledge,
           college_biology, college_medicine, medical_genetics, professional_medicine
Fields     hub:      question, subject, choices [4], answer (counts from 0)
           upstream: CSV without a header, a file a subject: question, A, B, C, D, answer letter

Data set   MMLU-Pro (Wang et al. 2024, arXiv 2406.01574), https://github.com/TIGER-AI-Lab/MMLU-Pro;
           `health` is the out-of-distribution test of the paper
Hub        TIGER-Lab/MMLU-Pro; revisions in recipes/configs/data/mmlu_pro_health*.yaml
Licence    MIT (data set card; the code repository is Apache-2.0)
Splits     test 12,032, of which 818 in health; 70 validation rows are few-shot examples, not read
Fields     question_id, question, options [3 to 10], answer, answer_index, category, src

Two stems of MMLU-Pro are generic ("Which of the following statements is correct?"), so rows are
identified by stem and gold option: 686 clusters of 683 stems. Labels were corrected since April
2025 (21 rows of health): mmlu_pro_health has the older ones, mmlu_pro_health_2026 the corrected.
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, NotSelected
from data_prep.rows import Question, get_letter, get_text, get_texts


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a record of either data set, MMLU in either layout. Raises BadRow, and NotSelected."""
    if "category" in data:
        return parse_pro(record, row_id, data.category)
    # the row id names the subject
    meta = {"subject": row_id.rsplit("/", 1)[1].rsplit("-", 1)[0]}
    if isinstance(record, dict) and "choices" in record:
        options, answer = get_texts(record, "choices"), get_letter(record, "answer", 0, 4)
    else:
        options = [get_text(record, letter) for letter in "ABCD"]
        answer = get_text(record, "answer")
    return Question(row_id, get_text(record, "question"), options, answer, meta)


def parse_pro(record: Any, row_id: str, category: str) -> Question:
    """Read an MMLU-Pro record of one category. Raises BadRow, and NotSelected for the others."""
    if get_text(record, "category") != category:
        raise NotSelected
    number = record.get("question_id")
    if type(number) is not int:
        raise BadRow("wrong_type", f"question_id is {number!r}, not a whole number")
    options, answer = get_texts(record, "options"), get_text(record, "answer")
    if get_letter(record, "answer_index", 0, len(options)) != answer:
        detail = f"answer {answer!r}, answer_index {record['answer_index']}"
        raise BadRow("gold_text_differs", detail)
    new_id = f"{row_id.rsplit('/', 1)[0]}/{number}"
    meta = {"source": get_text(record, "src")}
    return Question(new_id, get_text(record, "question"), options, answer, meta)
