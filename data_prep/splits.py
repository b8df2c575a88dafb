"""One split on its way through preparation: its questions, and what became of every row that was read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from data_prep.clean import clean_question
from data_prep.errors import BadRow, NotSelected
from data_prep.lengths import measure_quantiles
from data_prep.rows import Question

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, rows done, rows in all)."""

STEP = 1000
"""Rows between two reports of progress."""


@dataclass
class Split:
    """The rows of one split: `read` of them, those kept in `questions` with their prompt lengths in `tokens`."""

    name: str
    read: int = 0
    not_selected: int = 0
    questions: list[Question] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    mended: dict[str, list[str]] = field(default_factory=dict)
    flagged: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, row_id: str) -> None:
        """Notes a row that is not kept."""
        self.dropped.setdefault(reason, []).append(row_id)

    def keep_only(self, reasons: dict[str, str]) -> None:
        """Drops the questions whose id is a key, for the reason that is its value."""
        kept = [
            index for index, question in enumerate(self.questions) if question.id not in reasons
        ]
        for question in self.questions:
            if question.id in reasons:
                self.drop(reasons[question.id], question.id)
        self.questions = [self.questions[index] for index in kept]
        self.tokens = [self.tokens[index] for index in kept]

    def describe(self) -> dict[str, Any]:
        """The split's part of the manifest. Raises AssertionError if a row was lost, which would be our defect."""
        kept, dropped = len(self.questions), sum(map(len, self.dropped.values()))
        if self.read != kept + dropped:
            raise AssertionError(f"{self.name}: read {self.read}, kept {kept}, dropped {dropped}")
        return {
            "read": self.read,
            "of_other_parts": self.not_selected,
            "kept": kept,
            "dropped": self.dropped,
            "mended": self.mended,
            "flagged": self.flagged,
            "prompt_tokens": measure_quantiles(self.tokens),
        }


def parse_records(
    name: str,
    records: list[tuple[str, Any]],
    parse_row: Callable[[Any, str, DictConfig], Question],
    data: DictConfig,
    progress: Progress,
) -> tuple[Split, list[Question | BadRow]]:
    """Parses and cleans the records of a split, each either kept or dropped under a name.

    Also returns the rows as parsed, before cleaning, for the integrity check.
    """
    split = Split(name)
    parsed: list[Question | BadRow] = []
    for done, (number, record) in enumerate(records, 1):
        row_id = f"{data.name}/{name}/{number}"
        if done % STEP == 0 or done == len(records):
            progress(f"{name}: cleaning", done, len(records))
        question: Question | None = None
        try:
            if isinstance(record, BadRow):
                raise record
            question = parse_row(record, row_id, data)
            parsed.append(question)
            question, mended, flags = clean_question(question)
        except NotSelected:
            split.not_selected += 1
            continue
        except BadRow as bad:
            split.drop(bad.reason, question.id if question else row_id)
            if question is None:
                parsed.append(bad)
            split.read += 1
            continue
        split.read += 1
        unwanted = [flag for flag in flags if flag in data.drop]
        if unwanted:
            split.drop(unwanted[0], question.id)
            continue
        for rule in mended:
            split.mended.setdefault(rule, []).append(question.id)
        for flag in flags:
            split.flagged.setdefault(flag, []).append(question.id)
        question.meta["flags"] = " ".join(flags)
        split.questions.append(question)
    return split, parsed
