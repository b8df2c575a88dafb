"""Views of the same questions: other options or no stem, to see what a score rests on.

A view is chosen at preparation and recorded in the manifest. For evaluation prepare one under a
name of its own:

    make prep data=bank data.name=bank_rotate1 data.options.rotate=1
    make eval benchmarks=[bank/test,bank_rotate1/test]

Options that speak of others ("all of the above", "A and C") must keep their place and their
company, so such a row stays as it is, and the manifest lists it.
"""

from dataclasses import replace
from typing import Any

from data_prep.prompt import LETTERS, MAX_OPTIONS
from data_prep.rows import Question
from data_prep.shuffle import find_free_options, reorder_options

NONE_OF_THE_ABOVE = "None of the above"
NO_STEM = "Which option is right?"


def check_views(data: Any) -> list[str]:
    """Check the settings of the views; returns problems."""
    problems = []
    if data.options.none_of_the_above not in (None, "add", "replace_gold"):
        problems.append(
            f"data.options.none_of_the_above={data.options.none_of_the_above}: add or replace_gold"
        )
    if isinstance(data.options.rotate, bool) or not isinstance(data.options.rotate, int):
        problems.append(f"data.options.rotate={data.options.rotate} is no whole number")
    if data.stem not in ("keep", "none"):
        problems.append(f"data.stem={data.stem}: keep or none")
    return problems


def apply_views(questions: list[Question], data: Any) -> list[str]:
    """Apply the configured views to a split, in place; returns the ids that stay as they are."""
    left = []
    for index, question in enumerate(questions):
        viewed = view_question(question, data.options.none_of_the_above, data.options.rotate)
        if viewed is None:
            left.append(question.id)
        else:
            questions[index] = viewed
        if data.stem == "none":
            questions[index] = replace(questions[index], question=NO_STEM)
    return left


def view_question(
    question: Question, none_of_the_above: str | None, rotate: int
) -> Question | None:
    """Show a question with its options rotated, then with "None of the above".

    Returns None where a view asked for would change what the question means.
    """
    count, gold = len(question.options), LETTERS.index(question.answer)
    if rotate:
        if find_free_options(question) < count:
            return None
        question = reorder_options(question, [(place + rotate) % count for place in range(count)])
        gold = LETTERS.index(question.answer)
    if none_of_the_above is None:
        return question
    # a second one would make two letters mean the same
    if any(NONE_OF_THE_ABOVE.casefold() in option.casefold() for option in question.options):
        return None
    if none_of_the_above == "add":
        if count == MAX_OPTIONS:
            return None
        return replace(question, options=[*question.options, NONE_OF_THE_ABOVE])
    if find_free_options(question) < count:  # "all of the above" would become right
        return None
    options = list(question.options)
    options[gold] = NONE_OF_THE_ABOVE
    return replace(question, options=options)
