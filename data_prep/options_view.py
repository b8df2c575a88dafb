"""Views of the same questions: other options or no stem, to see what a score depends on.

`data.options.*` and `data.stem`, recorded in the manifest; docs/paper.md has the commands. A row
whose options speak of others ("all of the above") may have to stay as it is: it is listed.
"""

from dataclasses import replace
from typing import Any

from data_prep.options import find_free_options, reorder_options
from data_prep.prompt import LETTERS, MAX_OPTIONS
from data_prep.rows import Question

NONE, NO_STEM = "None of the above", "Which option is right?"


def apply_views(questions: list[Question], data: Any) -> list[str]:
    """Apply the configured views to a split, in place; returns the ids that stay as they are.

    With `rotate: all` a question is there in every rotation, each with an id of its own; the
    question's is in `meta.rotation_of`.
    """
    left, rows = list[str](), list[Question]()
    none, rotate = data.options.none_of_the_above, data.options.rotate
    for question in questions:
        turns = range(len(question.options)) if rotate == "all" else [rotate]
        found = [view_question(question, none, turn) for turn in turns]
        viewed = [view for view in found if view is not None]
        if len(viewed) < len(found):
            left, viewed = [*left, question.id], [question]
        for turn, view in enumerate(viewed):
            if rotate == "all":
                meta = view.meta | {"rotation_of": view.id}
                view = replace(view, id=f"{view.id}/{turn}", meta=meta)
            stem = NO_STEM if data.stem == "none" else view.question
            rows.append(replace(view, question=stem))
    questions[:] = rows
    return left


def view_question(question: Question, none: str | None, rotate: int) -> Question | None:
    """Rotate the options, then put in "None of the above"; None where that changes the meaning."""
    count = len(question.options)
    is_fixed = find_free_options(question) < count
    # with a second "None of the above" two letters would mean the same
    has_none = any(NONE.casefold() in option.casefold() for option in question.options)
    if (is_fixed and (rotate or none == "replace_gold")) or (has_none and none):
        return None
    if rotate:
        question = reorder_options(question, [(place + rotate) % count for place in range(count)])
    if none == "add":
        return (
            None if count == MAX_OPTIONS else replace(question, options=[*question.options, NONE])
        )
    if none == "replace_gold":
        options = list(question.options)
        options[LETTERS.index(question.answer)] = NONE
        return replace(question, options=options)
    return question
