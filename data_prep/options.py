"""Options of a row: shuffle them where that is safe, and find the base of an answer's index."""

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from data_prep.errors import UserError
from data_prep.prompt import LETTERS
from data_prep.rows import Question, read_index

# Options that name others by letter: "A and C", "both a & b", "abd", "A, B", "option B is wrong",
# "(a) only", "options 1 and 2", "the first two". A lone letter is a whole word next to a joiner, so
# "vitamin A and vitamin C" is none.
LETTER_LIST = re.compile(
    r"^(?:both |only |either |neither )?\(?[A-J]\)?"
    r"(?:\s*(?:,|&|\+|/|and|or|nor)\s*\(?[A-J]\)?)+(?: only| both)?[. ]*$"
    r"|^(?:both|only|either|neither|all except) \(?[A-J]\)?[. ]*$|^\(?[A-J]\)? only[. ]*$"
    r"|^[a-e]{2,5}$|\b(?:options?|choices?|answers?|statements?) \(?(?:[A-J]|\d+)\)?(?![a-z])"
    r"|^the (?:first|last|other) (?:two|three|four)\b",
    re.IGNORECASE,
)
# Stems that cite letters of the options ("option B", "choice (c)") or list them ("A. rest B. run").
STEM_CITES = re.compile(
    r"\b(?:options?|choices?|answers?) \(?[A-J]\)?(?![a-z'’])"
    r"|(?:^|\s)\(?A[).:]\s.{1,300}\s\(?B[).:]\s",
    re.IGNORECASE | re.DOTALL,
)
# An option's own label: `A. text`, `(a) text`, `1. text`, `2) text`.
LABEL = re.compile(r"\(?([A-Za-z]|\d{1,2})\s*[).:]\s+(?=\S)")
# "all of the above", "none of these", "both", "all of them", "none apply": stay below the others.
COLLECTIVE = re.compile(
    r"\b(?:all|none|both|any|either|neither|some|two|most)\b.*"
    r"\b(?:above|these|those|following|options|answers|choices)\b"
    r"|^(?:all|none|both|neither|either|any)"
    r"(?: (?:of them|apply|applies)| (?:are|is) (?:true|correct|false|wrong|incorrect|right))?[.]?$"
    r"|\b(?:above|preceding)\b",
    re.IGNORECASE,
)
# The letter that an explanation of MedMCQA opens with: `Ans. (c)`, `Ans is 'b'`, `Answer: A.`
EXPLAINED = re.compile(
    r"\bans(?:wer)?[\s.:,=-]*(?:is[\s.:,=-]+)?[\"'‘“(\[]{0,2}([a-d])[\"'’”)\].:,\s]", re.IGNORECASE
)


def shuffle_options(question: Question, seed: int) -> Question | None:
    """Shuffle the options by seed and row id; returns None where the order must stay.

    Options that speak of the others stay last in their places.
    """
    free = find_free_options(question)
    if free < 2:
        return None
    order = list(range(free))
    random.Random(f"{seed}/{question.id}").shuffle(order)
    return reorder_options(question, [*order, *range(free, len(question.options))])


def find_free_options(question: Question) -> int:
    """Count the leading options that may change places; 0 where options or stem cite letters.

    0 also where an option that speaks of the others is not behind all that do not.
    """
    options = question.options
    if STEM_CITES.search(question.question) or any(map(LETTER_LIST.search, options)):
        return 0
    # labels in another order than ours: letters in the texts may mean them
    if len(options) > 1 and sorted(read_labels(options)) == list(range(len(options))):
        return 0
    fixed = [bool(COLLECTIVE.search(option)) for option in options]
    free = len(options) - sum(fixed)
    return 0 if any(fixed[:free]) else free


def strip_labels(options: list[str]) -> list[str]:
    """Strip the options' own labels where all have one and they count up as ours do."""
    if read_labels(options) != list(range(len(options))):
        return options
    return [LABEL.sub("", option, count=1) for option in options]


def read_labels(options: list[str]) -> list[int]:
    """Read the places that the options' own labels name, from 0; -1 without a label."""
    places = []
    for option in options:
        label = LABEL.match(option)
        if label is None:
            places.append(-1)
        elif label[1].isdigit():
            places.append(int(label[1]) - 1)
        else:
            places.append(LETTERS.index(label[1].upper()))
    return places


def reorder_options(question: Question, order: list[int]) -> Question:
    """Give the options in another order; the gold letter follows. order: the old place of each."""
    return Question(
        question.id,
        question.question,
        [question.options[index] for index in order],
        LETTERS[order.index(LETTERS.index(question.answer))],
        question.meta,
    )


def find_index_base(
    records: Iterable[Any],
    column: str,
    count_options: Callable[[dict[str, Any]], int],
    explanation: str | None,
) -> dict[str, Any]:
    """Find if an index of the gold option counts from 0 or from 1, and the evidence for it.

    An index of 0 shows base 0, an index equal to the number of options base 1. explanation: a
    column whose text may open with the answer's letter ("Ans. (c)"), a second witness. Raises
    UserError where the rows show neither, or both, or explanations contradict: a wrong base would
    mark nearly every row wrongly without a sound.
    """
    lowest = highest = rows = 0
    witnesses = {0: 0, 1: 0}
    for record in records:
        if not isinstance(record, dict):
            continue  # rejected by name when it is parsed, like a row whose index is none
        value = read_index(record.get(column))
        num_options = count_options(record)
        if value is None or not 0 <= value <= num_options:
            continue
        rows += 1
        lowest += value == 0
        highest += value == num_options
        text = record.get(explanation) if explanation else None
        said = EXPLAINED.match(text) if isinstance(text, str) else None
        if said:
            index = LETTERS.index(said[1].upper())
            for base in witnesses:
                witnesses[base] += index == value - base
    fix = (
        "say which with data.index_base=0 or data.index_base=1 after looking at some rows "
        f"(column {column})"
    )
    if bool(lowest) == bool(highest):
        raise UserError(
            f"cannot tell if {column} counts from 0 or from 1: of {rows} rows, {lowest} have index "
            f"0 and {highest} have the number of options as index; {fix}"
        )
    base = 0 if lowest else 1
    if witnesses[1 - base] > witnesses[base]:
        raise UserError(
            f"{column} seems to count from {base}, but {witnesses[1 - base]} explanations name the "
            f"letter that base {1 - base} gives, and only {witnesses[base]} that of base {base}; "
            f"{fix}"
        )
    return {
        "base": base,
        "explanations_that_agree": witnesses[base],
        "that_say_the_other": witnesses[1 - base],
    }
