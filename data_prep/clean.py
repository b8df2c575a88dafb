"""Cleaning: each rule mends a row under a name, rejects it under a name, or flags it; the manifest lists all with ids.

Mended    unicode_nfc, control_characters, unicode_spaces, look_alikes, outer_blanks, stray_quotes, option_line_breaks
Rejected  empty_question, empty_option, number_of_options, gold_not_among_options, duplicate_gold, invalid_unicode
Flagged   see flags.py
"""

import re
import unicodedata
from collections.abc import Callable

from data_prep.errors import BadRow
from data_prep.flags import CYRILLIC, find_flags
from data_prep.prompt import MAX_OPTIONS
from data_prep.rows import Question, check_answer

LOOK_ALIKES = dict(
    zip("АВЕЅІЈКМНОРСТХУаеѕіјкорсухһԁԛԝ", "ABESIJKMHOPCTXYaesijkopcyxhdqw", strict=True)
)
"""Cyrillic letters that print like Latin ones, found in MedQA ("55-уеаr-old") and the rest of that alphabet."""
WORD = re.compile(r"[^\W\d_]+")
# Invisible characters that no medical text needs; joiners (U+200C, U+200D) stay, some scripts need them.
INVISIBLE = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")

# MedQA's option E with the end of a CSV field: 'Propranolol\n"'.
CSV_END = re.compile(r'\s*\n\s*"$')


def clean_question(question: Question) -> tuple[Question, list[str], list[str]]:
    """The cleaned question, the rules that changed something, and its flags. Raises BadRow for a row to drop."""
    texts, mended = [question.question, *question.options], []
    mixed = has_mixed_words(texts)
    rules: dict[str, Callable[[str], str]] = {
        "unicode_nfc": lambda text: unicodedata.normalize("NFC", text),
        "control_characters": lambda text: CONTROL.sub(
            "", INVISIBLE.sub("", LINE_BREAK.sub("\n", text))
        ),
        "unicode_spaces": lambda text: SPACE.sub(" ", text),
        "look_alikes": lambda text: "".join(LOOK_ALIKES.get(c, c) for c in text) if mixed else text,
        "outer_blanks": str.strip,
    }
    for rule, mend in rules.items():
        new = [mend(text) for text in texts]
        if new != texts:
            mended.append(rule)
        texts = new
    # A quote that opens nowhere, at the end of a stem or behind a line break in an option.
    new = [CSV_END.sub("", text) for text in texts]
    if texts[0].endswith(('?"', '."', ':"')) and texts[0].count('"') % 2:
        new[0] = texts[0][:-1]
    if new != texts:
        mended.append("stray_quotes")
    texts = new
    # The prompt gives an option one line: a line break inside could pass for a further option.
    stem, options = texts[0], [re.sub(r"[ \t]*\n\s*", " ", text) for text in texts[1:]]
    if options != texts[1:]:
        mended.append("option_line_breaks")
    # No line separator anywhere in a row: some readers of JSONL (str.splitlines) would cut it there.
    meta = {
        key: CONTROL.sub("", LINE_BREAK.sub("\n", value)) if isinstance(value, str) else value
        for key, value in question.meta.items()
    }
    cleaned = Question(question.id, stem, options, question.answer, meta)
    check_question(cleaned)
    return cleaned, mended, find_flags(cleaned)


def has_mixed_words(texts: list[str]) -> bool:
    """Whether Cyrillic letters stand for Latin ones in these texts: some word mixes them, and none is really Cyrillic.

    A word is really Cyrillic if it has a Cyrillic letter that does not print like a Latin one; then a mixed word may
    be right ("mРНК"), and nothing is mended. A Cyrillic letter on its own is left, too: in MedQA a lone "к" is a kappa.
    """
    words = [
        word
        for text in texts
        if not text.isascii() and CYRILLIC.search(text)
        for word in WORD.findall(text)
        if CYRILLIC.search(word)
    ]
    foreign = any(
        CYRILLIC.match(letter) and letter not in LOOK_ALIKES for word in words for letter in word
    )
    return not foreign and any(not CYRILLIC.match(letter) for word in words for letter in word)


def check_question(question: Question) -> None:
    """Raises BadRow where the cleaned question cannot be asked or marked."""
    options = question.options
    try:
        "".join(
            [question.id, question.question, *options, *map(str, question.meta.values())]
        ).encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            "invalid_unicode", f"a lone surrogate cannot be written as UTF-8 ({error.reason})"
        ) from None
    if not question.question:
        raise BadRow("empty_question", "the stem has no text")
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise BadRow(
            "number_of_options", f"{len(options)} options, 2 to {MAX_OPTIONS} are possible"
        )
    if not all(options):
        raise BadRow("empty_option", f"option {options.index('') + 1} has no text")
    check_answer(question)
    if options.count(question.gold) > 1:
        raise BadRow(
            "duplicate_gold",
            "a second option has the text of the gold option: two letters are right",
        )
