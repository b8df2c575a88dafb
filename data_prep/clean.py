"""Clean a row: each rule fixes it, rejects it, or warns of it under a name; the manifest lists ids.

Warnings  absent_figure         the stem speaks of an image that is not there (1 MedQA row in 20)
          absent_text           the same for a summary, an abstract or a question "above"
          duplicate_distractor  two wrong options have the same text (`Aa` and `AA` are different)
          cyrillic              Cyrillic letters that were not fixed
          reward_tag            <think>, <answer> or their ends; the reward reads the response alone

`data.drop=[absent_figure,…]` drops rows with a warning.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data_prep.errors import BadRow
from data_prep.files import read_mapping
from data_prep.options import strip_labels
from data_prep.prompt import LETTERS, MAX_OPTIONS
from data_prep.rows import Question

LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТХУаеѕіјкорсухһԁԛԝ", "ABESIJKMHOPCTXYaesijkopcyxhdqw")
"""Cyrillic letters that print like Latin ones; MedQA has some of them ("55-уеаr-old")."""
CYRILLIC = re.compile(r"[\u0400-\u052f]")
WORD = re.compile(r"[^\W\d_]+")
# Invisible characters that no medical text needs; joiners (U+200C, U+200D) stay for other scripts.
INVISIBLE = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# MedQA's option E with the end of a CSV field: 'Propranolol\n"'
CSV_END = re.compile(r'\s*\n\s*"$')
OPTION_BREAK = re.compile(r"[ \t]*\n\s*")
SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")

TABLE = read_mapping(Path(__file__).with_suffix(".yaml"))
FIGURE, TEXT = ("|".join(TABLE[name]).format(**TABLE["words"]) for name in ("figure", "text"))
ABSENT_FIGURE = re.compile(rf"\b(?:{FIGURE})(?! findings)", re.IGNORECASE)
ABSENT_TEXT = re.compile(rf"\b(?:{TEXT})\b", re.IGNORECASE)
REWARD_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def clean_question(question: Question) -> tuple[Question, list[str], list[str]]:
    """Return the cleaned question, the rules that changed it, and its warnings. Raises BadRow."""
    texts, fixed = [question.question, *question.options], list(question.notes)
    mixed = has_mixed_words(texts)
    # each rule: name, and what it makes of stem and options
    rules: dict[str, Callable[[list[str]], list[str]]] = {
        "unicode_nfc": lambda texts: [unicodedata.normalize("NFC", text) for text in texts],
        # every kind of line break becomes a newline
        "control_characters": lambda texts: [
            CONTROL.sub("", INVISIBLE.sub("", LINE_BREAK.sub("\n", text))) for text in texts
        ],
        "unicode_spaces": lambda texts: [SPACE.sub(" ", text) for text in texts],
        "look_alikes": lambda texts: [t.translate(LOOK_ALIKES) for t in texts] if mixed else texts,
        "outer_blanks": lambda texts: [text.strip() for text in texts],
        "stray_quotes": remove_stray_quotes,
        # the prompt gives an option one line: a line break inside could pass for a further option
        "option_line_breaks": lambda texts: [
            texts[0],
            *(OPTION_BREAK.sub(" ", text) for text in texts[1:]),
        ],
        # "A. A. rest" would give a letter twice, and a wrong one once options are shuffled
        "own_labels": lambda texts: [texts[0], *strip_labels(texts[1:])],
    }
    for rule, fix in rules.items():
        new = fix(texts)
        if new != texts:
            fixed.append(rule)
        texts = new
    # No line separator anywhere in a row: readers by str.splitlines would cut it there.
    meta = {
        key: CONTROL.sub("", LINE_BREAK.sub("\n", value)) if isinstance(value, str) else value
        for key, value in question.meta.items()
    }
    cleaned = replace(question, question=texts[0], options=texts[1:], meta=meta, notes=[])
    check_question(cleaned)
    whole = "\n".join(texts)
    return cleaned, fixed, [name for name, find in WARNINGS.items() if find(cleaned, whole)]


def remove_stray_quotes(texts: list[str]) -> list[str]:
    """Remove a quote that opens nowhere: at the end of a stem, after a line break in an option."""
    stem, *options = [CSV_END.sub("", text) for text in texts]
    if texts[0].endswith(('?"', '."', ':"')) and texts[0].count('"') % 2:
        stem = texts[0][:-1]
    return [stem, *options]


def has_mixed_words(texts: list[str]) -> bool:
    """Find out if Cyrillic letters replace Latin ones: words mix them, and none is really Cyrillic.

    A word is really Cyrillic if it has a Cyrillic letter that does not print like a Latin one; then
    a mixed word may be right ("mРНК"). A Cyrillic letter on its own is left: a lone "к" is a kappa.
    """
    found = [word for text in texts if not text.isascii() for word in WORD.findall(text)]
    letters = {letter for word in found if CYRILLIC.search(word) for letter in word}
    cyrillic = {ord(letter) for letter in letters if CYRILLIC.match(letter)}
    return cyrillic <= set(LOOK_ALIKES) and len(cyrillic) < len(letters)


def check_question(question: Question) -> None:
    """Refuse a cleaned question that cannot be asked or marked. Raises BadRow."""
    options = question.options
    texts = [question.id, question.question, *options, *map(str, question.meta.values())]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        detail = f"a lone surrogate cannot be written as UTF-8 ({error.reason})"
        raise BadRow("invalid_unicode", detail) from None
    if not question.question:
        raise BadRow("empty_question", "the stem has no text")
    if question.target:
        if not all(text.strip() for text in question.target.get("references", ["a number"])):
            raise BadRow("empty_reference", "an accepted form has no text")
        return
    if not 2 <= len(options) <= MAX_OPTIONS:
        detail = f"{len(options)} options, 2 to {MAX_OPTIONS} are possible"
        raise BadRow("number_of_options", detail)
    if not all(options):
        raise BadRow("empty_option", f"option {options.index('') + 1} has no text")
    if question.answer not in list(LETTERS[: len(options)]):
        detail = f"answer {question.answer!r} with {len(options)} options"
        raise BadRow("gold_not_among_options", detail)
    if options.count(question.gold) > 1:
        detail = f"a second option has the text of the gold option, {question.gold!r:.100}"
        raise BadRow("duplicate_gold", detail)


# name → what finds it in a cleaned question q, whose stem and options are the text w
WARNINGS: dict[str, Callable[[Question, str], object]] = {
    "absent_figure": lambda q, w: ABSENT_FIGURE.search(q.question),
    "absent_text": lambda q, w: ABSENT_TEXT.search(q.question),
    "duplicate_distractor": lambda q, w: len(set(q.options)) < len(q.options),
    "cyrillic": lambda q, w: not w.isascii() and CYRILLIC.search(w),
    "reward_tag": lambda q, w: REWARD_TAG.search(w),
}
