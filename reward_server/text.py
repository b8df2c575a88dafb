"""Read a short answer in words and compare it with its accepted forms.

The whole answer, after one announcement (`The answer is …`), must be one of the references, where
case, markup, accents, articles, punctuation, Greek letters, British and American spelling, plural
and the order of commas need not agree: spellings.yaml. There is no partial credit: a part of a
reference, a list of candidates, a sentence or an answer with a question mark is not the reference.
Pure, total on any text, linear time.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_prep.files import read_mapping
from reward_server.choice import normalise

TABLE = read_mapping(Path(__file__).with_name("spellings.yaml"))
PATTERNS = {name: re.compile(text, re.I) for name, text in TABLE["patterns"].items()}
ANNOUNCED = PATTERNS["announced"]
RULES = [(re.compile(pattern), new) for pattern, new, _ in TABLE["rules"]]
GREEK = str.maketrans({letter: f" {name} " for letter, name in TABLE["greek"].items()})
LETTERS = str.maketrans(TABLE["letters"])


class Stated(NamedTuple):
    """answer: what is stated, None where no single answer is. reason: of verifier.REASONS."""

    answer: str | None
    reason: str


def read_text(body: str, references: Sequence[str]) -> Stated:
    """Read the answer that `body`, as a whole, states; a right one is given as the first reference.

    A name with a synonym in brackets is one answer where both are accepted; several answers of
    which one is accepted are none.
    """
    text = normalise(body).strip(" .,;:!\"'")
    # whatever is longer is a list or an explanation; it is not read, so that time stays linear
    if len(text) > 2 * max(map(len, references)) + 100:
        return Stated(None, "too_long")
    text = ANNOUNCED.sub("", text)
    accepted = frozenset[str]().union(*map(list_forms, references))
    pair = PATTERNS["bracketed"].fullmatch(text)
    stated = [text] if not pair or accepted & list_forms(text) else pair.groups()
    if all(accepted & list_forms(part) for part in stated):
        return Stated(references[0], "correct")
    parts = [part for part in PATTERNS["several"].split(text) if part.strip()]
    if len(parts) > 1 and any(accepted & list_forms(part) for part in parts):
        return Stated(None, "several")
    simple = simplify(text)
    return Stated(simple, "wrong") if simple else Stated(None, "no_answer")


@lru_cache(maxsize=4096)
def list_forms(text: str) -> frozenset[str]:
    """List the forms in which an answer is compared; two answers agree where they share one.

    As written; in the other order of commas (`leukemia, acute` is acute leukemia); and a list in
    any order (`fever and rash`).
    """
    parts = [simplify(part) for part in PATTERNS["comma"].split(text)]
    forms = {simplify(text), " ".join(reversed(parts))}
    listed = [simplify(part) for part in PATTERNS["listed"].split(text)]
    if len(listed) > 1:
        forms.add(", ".join(sorted(listed)))
    return frozenset(forms - {""})


def simplify(text: str) -> str:
    """Drop what need not agree in one name; "" where there is nothing but punctuation."""
    text = PATTERNS["hyphen"].sub(" ", unicodedata.normalize("NFKC", text))
    text = text.translate(GREEK).casefold().translate(LETTERS)
    # in this form an accent is a character of its own: Sjögren → Sjogren; class 1 strikes through
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.combining(c) < 2)
    text = PATTERNS["article"].sub(" ", PATTERNS["possessive"].sub("", text))
    words = PATTERNS["token"].findall(text)
    pairs = zip(["", *words], words, strict=False)  # each word with the one before it
    return " ".join(_simplify_word(before, word) for before, word in pairs)


@lru_cache(maxsize=16_384)
def _simplify_word(before: str, word: str) -> str:
    """Return a word in American spelling and singular, a Roman numeral in digits."""
    # a lone i, v or x is a numeral only after a word such as type
    if word in TABLE["roman"] and (len(word) > 1 or before in TABLE["numbered"]):
        return str(TABLE["roman"][word])
    for pattern, new in RULES:
        word = pattern.sub(new, word)
    word = TABLE["irregular"].get(word, word)
    if len(word) > 3 and word not in TABLE["no_plural"]:
        for ending in filter(word.endswith, TABLE["plural"]):
            word = word.removesuffix(ending) + TABLE["plural"][ending]
            break
    return TABLE["names"].get(word, word)
