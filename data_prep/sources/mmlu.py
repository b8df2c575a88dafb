"""MMLU, the six medical subjects that medical papers report.

Data set   MMLU (Hendrycks et al. 2021, arXiv 2009.03300), https://github.com/hendrycks/test
Hub        cais/mmlu, one config a subject; revision in recipes/configs/data/mmlu_medical.yaml
Licence    MIT
Splits     test 1,089 / dev 123 (the upstream's validation), over anatomy, clinical_knowledge,
           college_biology, college_medicine, medical_genetics, professional_medicine
Fields     hub:      question, subject, choices [4], answer (counts from 0)
           upstream: CSV without a header, a file a subject: question, A, B, C, D, answer letter
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.rows import Question, get_letter, get_text, get_texts


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read an MMLU record in either layout; the row id names the subject. Raises BadRow."""
    meta = {"subject": row_id.rsplit("/", 1)[1].rsplit("-", 1)[0]}
    if isinstance(record, dict) and "choices" in record:
        options = get_texts(record, "choices")
        return Question(
            row_id, get_text(record, "question"), options, get_letter(record, "answer", 0, 4), meta
        )
    options = [get_text(record, letter) for letter in "ABCD"]
    return Question(row_id, get_text(record, "question"), options, get_text(record, "answer"), meta)
