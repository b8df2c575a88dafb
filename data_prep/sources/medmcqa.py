"""MedMCQA, questions of Indian medical entrance exams.

Data set   MedMCQA (Pal et al. 2022), https://github.com/medmcqa/medmcqa
Hub        openlifescienceai/medmcqa; revision in recipes/configs/data/medmcqa.yaml
Licence    MIT (upstream repository), Apache-2.0 (hub card)
Splits     train 182,822 / dev 4,183. The public test (6,150) has no answers: papers report on dev
Fields     id, question, opa, opb, opc, opd, cop, choice_type, exp, subject_name, topic_name

`cop`, the index of the gold option, counts from 0 in the hub's copy and from 1 in the upstream's
files; which one is read is found out from the data (find_index_base), never assumed.
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.rows import Question, get_letter, get_text


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a MedMCQA record; `data.index_base` is 0 or 1 by now. Raises BadRow."""
    options = [get_text(record, key) for key in ("opa", "opb", "opc", "opd")]
    meta = {
        "source_id": get_text(record, "id"),
        "subject": get_text(record, "subject_name", null=""),
        "topic": get_text(record, "topic_name", null=""),
        "choice_type": get_text(record, "choice_type", null=""),
    }
    answer = get_letter(record, "cop", data.index_base, len(options))
    return Question(row_id, get_text(record, "question"), options, answer, meta)
