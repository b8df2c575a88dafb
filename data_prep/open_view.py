"""Ask multiple-choice questions openly: no options, the gold option's text as the reference.

`data.openly=true`, with the prompt `open`. A stem that speaks of its options is reworded where that
is safe; every other question that needs them is dropped under one of these names:

negated        asks for what is not so: EXCEPT, NOT, least likely, false
needs_options  asks to judge the options: which statement is true, option B, the above
collective     the gold option speaks of others: all of the above, A and C
long_answer    the gold option has more than 6 words: nobody would say just these
"""

import re
from dataclasses import replace
from pathlib import Path

from data_prep.errors import BadRow
from data_prep.files import read_mapping
from data_prep.options import COLLECTIVE, LETTER_LIST, STEM_CITES
from data_prep.rows import Question
from data_prep.splits import Split

TABLE = read_mapping(Path(__file__).with_suffix(".yaml"))
NOUNS = re.compile(TABLE["nouns"].replace("@verbs@", TABLE["verbs"]), re.I)
WHICH, ASKED = (re.compile(TABLE[name], re.I) for name in ("which", "asked"))
MOST_WORDS = 6


def open_questions(split: Split) -> None:
    """Ask a split's questions openly, in place; those that need their options are dropped."""
    questions, split.questions = split.questions, []
    for question in questions:
        try:
            split.questions.append(open_question(question))
        except BadRow as bad:
            split.drop(bad.reason, question.id, bad.detail)


def open_question(question: Question) -> Question:
    """Return a question without its options. Raises BadRow where it cannot be asked so."""
    if question.target:  # asked openly already, with all its accepted forms
        return question
    asked = ASKED.search(question.question)
    case, stem = question.question[: asked.start() if asked else 0], asked[0] if asked else ""
    stem = NOUNS.sub(lambda found: f"{found[1]} {re.sub('ie$', 'y', found[2])}", stem)
    stem, gold = WHICH.sub(r"\1hat", stem), question.gold
    reasons = {name: re.search(text, stem, re.I) for name, text in TABLE["reasons"].items()}
    reasons["needs_options"] = (
        reasons["needs_options"] or STEM_CITES.search(case + stem) or WHICH.search(case)
    )
    reasons["collective"] = COLLECTIVE.search(gold) or LETTER_LIST.search(gold)
    for reason, found in reasons.items():
        if found:
            raise BadRow(reason, f"{stem!r:.80} {gold!r:.60}")
    if len(gold.split()) > MOST_WORDS:
        raise BadRow("long_answer", f"{gold!r:.100}")
    target = {"references": [gold], "kind": "text"}
    return replace(question, question=case + stem, options=[], answer="", target=target)
