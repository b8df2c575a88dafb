"""PubMedQA, expert-labelled part: does this abstract answer yes, no or maybe?

Data set   PubMedQA PQA-L (Jin et al. 2019), https://github.com/pubmedqa/pubmedqa
Hub        qiaojin/PubMedQA, config pqa_labeled; revision in recipes/configs/data/pubmedqa.yaml
Licence    MIT (upstream repository); the abstracts belong to their publishers
Splits     1,000 labelled questions: test 500 (the upstream's test_ground_truth.json, its ids in
           pubmedqa_test_ids.txt because the hub's copy does not name them), train the other 500
Fields     upstream: QUESTION, CONTEXTS [..], final_decision, YEAR, … keyed by PubMed id
           hub:      pubid, question, context {contexts [..], ..}, final_decision, long_answer

The abstract is part of the question, without its conclusion, as in the paper's reasoning-required
setting.
"""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, NotSelected
from data_prep.prompt import LETTERS
from data_prep.rows import Question, get_text, get_texts

DECISIONS = ["yes", "no", "maybe"]


@cache
def read_test_ids() -> frozenset[str]:
    """Return the PubMed ids of the official test split."""
    file = Path(__file__).with_name("pubmedqa_test_ids.txt")
    return frozenset(file.read_text(encoding="ascii").split())


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a PubMedQA record, numbered by its PubMed id. Raises BadRow, and NotSelected."""
    dataset_split = row_id.rsplit("/", 1)[0]
    if isinstance(record, dict) and "pubid" in record:
        number, stem = str(record["pubid"]), get_text(record, "question")
        contexts = get_texts(record.get("context"), "contexts")
    else:
        number, stem = get_text(record, "_key"), get_text(record, "QUESTION")
        contexts = get_texts(record, "CONTEXTS")
    if (number in read_test_ids()) != dataset_split.endswith("/test"):
        raise NotSelected
    decision = get_text(record, "final_decision")
    if decision not in DECISIONS:
        detail = f"final_decision {decision!r} is not yes, no or maybe"
        raise BadRow("gold_not_among_options", detail)
    question = "Abstract: " + "\n".join(contexts) + f"\nQuestion: {stem}"
    answer = LETTERS[DECISIONS.index(decision)]
    return Question(f"{dataset_split}/{number}", question, list(DECISIONS), answer)
