"""MedQA-USMLE, the English questions of the US medical licensing exam, with 4 or 5 options.

Data set   MedQA (Jin et al. 2020, arXiv 2009.13081), https://github.com/jind11/MedQA
Hub        4 options: id and revision in recipes/configs/data/medqa.yaml
           5 options: bigbio/med_qa behind a script; its Parquet branch needs none (medqa_5.yaml)
Licence    MIT (upstream repository)
Splits     train 10,178 / dev 1,272 / test 1,273
Fields     upstream: question, answer, options {A..D or A..E}, meta_info, answer_idx; not read:
                     metamap_phrases
           hub, 4:   id, sent1, sent2, ending0..ending3, label (counts from 0); no meta_info
           hub, 5:   as upstream, but options [{key, value}, ..]

About 1 row in 150 has blanks around an option; in two test rows only the gold option has them. With
5 options, E ends in a line break and a stray quote in 112 rows of dev and test.
"""

from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow
from data_prep.rows import Question, get_letter, get_text, get_texts


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a MedQA record in any of its three published layouts. Raises BadRow."""
    if isinstance(record, dict) and "ending0" in record:
        options = [get_text(record, f"ending{number}") for number in range(4)]
        parts = [get_text(record, "sent1"), get_text(record, "sent2", null="")]
        stem, answer = " ".join(filter(None, parts)), get_letter(record, "label", 0, 4)
        return Question(row_id, stem, options, answer, {"step": ""})
    if isinstance(record, dict) and isinstance(record.get("options"), list):
        # [{key: A, value: text}, …]
        letters = [get_text(option, "key") for option in record["options"]]
        if len(set(letters)) < len(letters):
            raise BadRow("wrong_type", f"options are lettered {letters[:30]}")
        texts = [get_text(option, "value") for option in record["options"]]
        record = {**record, "options": dict(zip(letters, texts, strict=True))}
    # copies with question_open bring a stem that was reworded by others
    reworded = isinstance(record, dict) and "question_open" in record and data.openly
    stem = get_text(record, "question_open" if reworded else "question")
    answer = get_text(record, "answer_idx")
    options = get_texts(record, "options")
    gold = record["options"].get(answer) if isinstance(record["options"], dict) else None
    if gold is not None and get_text(record, "answer") != gold:
        detail = f"answer_idx {answer} is {gold!r}, answer is {record['answer']!r}"
        raise BadRow("gold_text_differs", detail)
    return Question(row_id, stem, options, answer, {"step": get_text(record, "meta_info")})
