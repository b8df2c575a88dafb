"""Seeded shuffling of the options of a row (`data.shuffle_options=true`), where it does not change the question."""

import random
import re

from data_prep.prompt import LETTERS
from data_prep.rows import Question

# "A and C", "both a & b", "abd", "A, B", "option B is wrong", "(a) only": options that name other options by letter.
# A lone letter is a whole word beside a joiner, so "vitamin A and vitamin C" and "hepatitis B" are no such thing.
LETTER_LIST = re.compile(
    r"^(?:both |only |either |neither )?\(?[A-J]\)?(?:\s*(?:,|&|\+|/|and|or|nor)\s*\(?[A-J]\)?)+(?: only| both)?[. ]*$"
    r"|^(?:both|only|either|neither|all except) \(?[A-J]\)?[. ]*$|^\(?[A-J]\)? only[. ]*$|^[a-e]{2,5}$"
    r"|\b(?:options?|choices?|answers?|statements?) \(?[A-J]\)?(?![a-z])",
    re.IGNORECASE,
)
# The stem that cites letters of the options: "option B", "choice (c)", "of A and B, which".
STEM_CITES = re.compile(r"\b(?:options?|choices?|answers?) \(?[A-J]\)?(?![a-z'’])", re.IGNORECASE)
# "all of the above", "none of these", "both", "either of the above": must stay in their place, below the others.
COLLECTIVE = re.compile(
    r"\b(?:all|none|both|any|either|neither|some|two|most)\b.*\b(?:above|these|those|following|options|answers|choices)\b"
    r"|^(?:all|none|both|neither|either|any)(?: (?:are|is) (?:true|correct|false|wrong|incorrect|right))?[.]?$"
    r"|\b(?:above|preceding)\b",
    re.IGNORECASE,
)


def shuffle_options(question: Question, seed: int) -> Question | None:
    """The question with its options in a new order drawn from seed and id, or None where the order must stay.

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
    if STEM_CITES.search(question.question) or any(
        LETTER_LIST.search(option) for option in options
    ):
        return 0
    fixed = [bool(COLLECTIVE.search(option)) for option in options]
    free = len(options) - sum(fixed)
    return 0 if any(fixed[:free]) else free


def reorder_options(question: Question, order: list[int]) -> Question:
    """Give the options in another order; the gold letter follows. order: the old place of each."""
    return Question(
        question.id,
        question.question,
        [question.options[index] for index in order],
        LETTERS[order.index(LETTERS.index(question.answer))],
        question.meta,
    )
