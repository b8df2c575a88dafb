"""Answer options: shuffle them where that is safe, show other views of them, read their labels.

Views (`data.options.*`, `data.stem`) show what a score depends on; docs/paper.md has the commands.
"""

import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from data_prep.prompt import LETTERS, MAX_OPTIONS
from data_prep.rows import Question

NONE, NO_STEM = "None of the above", "Which option is right?"
# Words of options that speak of other options: nothing but these is no answer of its own.
ORDINAL = "first|second|third|fourth|last|former|latter|other|previous"
ABOUT = (
    "all|any|both|each|either|neither|none|not?|nor|only|one|two|three|four|some|and|or|but|except|"
    "excluding|plus|with|without|as|well|to|through|thru|from|then|followed|by|if|because|of|vs|"
    "the|these|those|them|above|below|same|see|identical|equal|opposite|alone|also|together|"
    "is|are|true|false|correct|incorrect|right|wrong|apply|applies|mentioned|listed|given|"
    f"options?|choices?|answers?|statements?|letters?|items?|et|und|oder|ou|[ye]|{ORDINAL}"
)
# Options that name others by letter or place and say no more: "A and C", "all of the above but B",
# "A is true, B is not", "A和B", "the first two"; "vitamin A and vitamin C" says more. Also "abd",
# "option B is wrong", "options 1 and 2". A letter alone may be a blood group.
LETTER_LIST = re.compile(
    rf"^(?!\W*\w\W*$|all but the last)(?=.*(?:(?<![a-z0-9])[A-J](?![a-z0-9])|\bthe (?:{ORDINAL})\b"
    rf"|\b(?:{ORDINAL}) (?:two|three|four|options?|choices?|answers?)\b))"
    rf"(?:(?:{ABOUT}|are \w+|[A-J])(?![a-z0-9])"
    r"|[\s,;.:&+/()\[\]'\"*|•…–—和与跟及或、都均也是对正确不错误-])+$"
    r"|^[a-e]{2,5}$|\b(?:options?|choices?|answers?|statements?) \(?(?:[A-J]|\d+)\)?(?![a-z])",
    re.IGNORECASE,
)
# Stems that cite letters of the options ("option B", "choice (c)") or list them ("A. rest B. run").
STEM_CITES = re.compile(
    r"\b(?:options?|choices?|answers?) \(?[A-J]\)?(?![a-z'’])"
    r"|(?:^|\s)\(?A[).:]\s.{1,300}\s\(?B[).:]\s",
    re.IGNORECASE | re.DOTALL,
)
# An option's own label: `A. text`, `(a) text`, `1. text`, `[B] text`, `**C.** text`, `Ｄ．text`,
# `Option E: text`, `F - text`; not the first digits of `1.5 mg`, `1 : 2` or `1 - 2 days`.
LABEL = re.compile(
    r"(?:option |choice )?[(\[<（【*]*([A-Za-zＡ-Ｚａ-ｚ]|\d{1,2}(?!\s*[:：-]\s*\d))"
    r"(?:\s*[)\].:>*）】．：、]+(?!\d)\s*| - )(?=\S)",
    re.IGNORECASE,
)
# "all of the above", "none of these", "both", "all of them", "none apply": stay below the others.
COLLECTIVE = re.compile(
    r"\b(?:all|none|both|any|either|neither|some|two|most|every)\b.{0,99}"
    r"\b(?:above|these|those|following|foregoing|options|answers|choices)\b"
    rf"|^(?:all|none|both|neither|either|any|every|no(?= \w))(?:\W|(?:{ABOUT})(?![a-z]))*$"
    r"|^(?:more than one|no (?:correct|right) (?:answer|option)|the previous)\b"
    r"|\b(?:above|preceding|foregoing)\b|^(?:以上|上述|[都均皆]|全[部都])",
    re.IGNORECASE,
)


def shuffle_options(question: Question, seed: int) -> Question | None:
    """Shuffle the options by seed and row id; returns None where the order must stay."""
    free = count_free(question)
    if free < 2:
        return None
    order = list(range(free))
    random.Random(f"{seed}/{question.id}").shuffle(order)
    return reorder_options(question, [*order, *range(free, len(question.options))])


def count_free(question: Question) -> int:
    """Count the leading options that may change places; those that speak of others stay last."""
    options = question.options
    if STEM_CITES.search(question.question) or any(map(LETTER_LIST.search, options)):
        return 0
    # labels of its own: a prompt would give a letter twice, and letters in the texts may mean them
    if any(0 <= place < len(options) for place in read_labels(options)):
        return 0
    fixed = [bool(COLLECTIVE.search(option)) for option in options]
    free = len(options) - sum(fixed)
    return 0 if any(fixed[:free]) else free


def reorder_options(question: Question, order: list[int]) -> Question:
    """Give the options in another order; the gold letter follows. order: the old place of each."""
    options = [question.options[index] for index in order]
    answer = LETTERS[order.index(LETTERS.index(question.answer))]
    return replace(question, options=options, answer=answer)


def view_question(question: Question, none: str | None, rotate: int) -> Question | None:
    """Rotate the options, then put in "None of the above"; None where that changes the meaning."""
    options, count = question.options, len(question.options)
    is_fixed = count_free(question) < count
    # with a second "none of these" two letters would mean the same
    has_none = any(re.match("n|.*none of", o, re.I) and COLLECTIVE.search(o) for o in options)
    if is_fixed and (rotate or none == "replace_gold"):
        return None
    if none and (has_none or (none == "add" and count == MAX_OPTIONS)):
        return None
    viewed = reorder_options(question, [(place + rotate) % count for place in range(count)])
    if none == "add":
        viewed.options.append(NONE)
    elif none == "replace_gold":
        viewed.options[LETTERS.index(viewed.answer)] = NONE
    return viewed


def apply_views(questions: list[Question], data: Any) -> list[str]:
    """Apply the configured views to a split, in place; returns the ids that stay as they are."""
    none, turn = data.options.none_of_the_above, data.options.rotate
    left = []
    if turn == "all":
        left, turn = rotate_all(questions), 0
    left += replace_questions(questions, lambda q: view_question(q, none, turn))
    if data.stem == "none":
        replace_questions(questions, lambda question: replace(question, question=NO_STEM))
    return left


def rotate_all(questions: list[Question]) -> list[str]:
    """Put every rotation of a question in its place; returns the ids of those that stay.

    Each has an id of its own; the question's is in `meta.rotation_of`.
    """
    rows, left = [], []
    for question in questions:
        turns = [view_question(question, None, turn) for turn in range(len(question.options))]
        found = [turned for turned in turns if turned is not None]
        if len(found) < len(turns):
            left.append(question.id)
            found = [question]
        for turn, row in enumerate(found):
            meta = row.meta | {"rotation_of": row.id}
            rows.append(replace(row, id=f"{row.id}/{turn}", meta=meta))
    questions[:] = rows
    return left


def replace_questions(
    questions: list[Question], change: Callable[[Question], Question | None]
) -> list[str]:
    """Change questions in place; returns the ids of those that `change` leaves, by a None."""
    changed = [change(question) for question in questions]
    left = [old.id for old, new in zip(questions, changed, strict=True) if new is None]
    questions[:] = [new or old for old, new in zip(questions, changed, strict=True)]
    return left


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
        mark = unicodedata.normalize("NFKC", label[1]).upper() if label else "0"
        places.append(int(mark) - 1 if mark.isdigit() else LETTERS.index(mark))
    return places
