"""Cleaning: each rule either mends a row under a name or rejects it under a name; the manifest lists both with ids."""

import unicodedata

from data_prep.errors import BadRow
from data_prep.prompt import MAX_OPTIONS
from data_prep.rows import Question, answer_index


def clean_question(question: Question) -> tuple[Question, list[str]]:
    """The cleaned question and the names of the rules that changed something. Raises BadRow for a row to drop."""
    fixed: list[str] = []
    stem, options = question.question, question.options
    for rule, mend in (("unicode_nfc", normalise_unicode), ("outer_blanks", str.strip)):
        new_stem, new_options = mend(stem), [mend(text) for text in options]
        if (new_stem, new_options) != (stem, options):
            fixed.append(rule)
        stem, options = new_stem, new_options
    cleaned = Question(question.id, stem, options, question.answer, question.meta)
    check_question(cleaned)
    return cleaned, fixed


def normalise_unicode(text: str) -> str:
    """Canonical composition (NFC). Compatibility forms stay: NFKC would turn `m²` into `m2`."""
    return unicodedata.normalize("NFC", text)


def check_question(question: Question) -> None:
    """Raises BadRow where the cleaned question cannot be asked or marked."""
    if not question.question:
        raise BadRow("empty_question", "the stem has no text")
    if not 2 <= len(question.options) <= MAX_OPTIONS:
        raise BadRow("number_of_options", f"{len(question.options)} options, 2 to {MAX_OPTIONS} are possible")
    if not all(question.options):
        raise BadRow("empty_option", f"option {question.options.index('') + 1} has no text")
    answer_index(question)
    if len(set(question.options)) < len(question.options):
        raise BadRow("duplicate_options", "two options have the same text")
    try:
        "".join([question.question, *question.options]).encode()
    except UnicodeEncodeError as error:
        raise BadRow("invalid_unicode", f"a lone surrogate cannot be written as UTF-8 ({error.reason})") from None
