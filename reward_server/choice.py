"""Read the one choice that an answer states: a whitelist of three forms of the whole text.

1. a letter                        `C`  `(C)`  `**C**`  `\\boxed{C}`
2. an announcement and a letter    `The correct answer is C`  `Option C`  `Answer: C`
3. a letter and its option's text  `C. Metformin`  `C: Metformin`  `C (Metformin)`

Everything else is no choice: prose, lists, hedges, conditions, an option's text without its letter.
A list of hedges to refuse would never be complete; a list of forms to accept is. Linear time.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase as LETTERS
from typing import NamedTuple

from reward_server.tags import INVISIBLE


class Choice(NamedTuple):
    """letter: of one of the options, or None. reason: `stated`, or why there is no letter."""

    letter: str | None
    reason: str


# Full-width and typographic forms, as East Asian keyboards and word processors write them.
# Look-alikes such as Cyrillic С are absent: they would be two ways to be right.
TO_ASCII: dict[int, str] = {0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)}
TO_ASCII |= dict(zip(map(ord, "。、【】「」“”‘’–—"), ".,[][]\"\"''--", strict=True))

# \boxed{\text{C}} → C    **C.** Metformin → C. Metformin    $C$ → C
MARKUP = re.compile(
    r"\\(?:boxed|fbox|mbox|text|textbf|textrm|textit|mathrm|mathbf|mathsf)\b|[*_`$\\{}]"
)
LETTER = r"""["'(\[]{0,3}\ ?(?P<letter>[A-Za-z])"""
TAIL = r"""[\s.:;,!"')\]]{0,6}"""  # closing brackets, quotes, a full stop; never a question mark

# C    (C).    "c"    C)
LETTER_ALONE = re.compile(LETTER + TAIL)

# The correct answer is C.    Option (C)    Final answer: C    answer C
ANNOUNCED = re.compile(
    r"""["'(\[]{0,2}(?i:(?:the )?(?:(?:correct|best|final|right) )?"""
    rf"(?:answer|option|choice)(?: is)?)(?:\s?:\s?|\s|(?=[(\[])){LETTER}{TAIL}"
)
# what comes before the text in: C. Metformin    (C) Metformin    C - Metformin    C (Metformin)
LABEL = re.compile(
    r"""["'(\[]{0,2}(?P<letter>[A-Za-z])(?:\ ?["')\]]{0,2}\ ?[.):\]-]{1,2}\s?|\n|\ (?=[(\[]))"""
)


def read_choice(body: str, options: Sequence[str]) -> Choice:
    """Read the choice that `body`, an `<answer>` or a direct answer, states as a whole.

    A letter with another option's text is `ambiguous`, one beyond the options `out_of_range`.
    """
    text = normalise(body)
    if match := LETTER_ALONE.fullmatch(text) or ANNOUNCED.fullmatch(text):
        letter = match["letter"].upper()
        in_range = LETTERS.index(letter) < len(options)
        return Choice(letter, "stated") if in_range else Choice(None, "out_of_range")

    label = LABEL.match(text)
    if label is None:
        return Choice(None, "no_choice")
    letter, stated = label["letter"].upper(), _simplify(text[label.end() :])
    reduced = [_simplify(normalise(option)) for option in options]
    named = [LETTERS[place] for place, option in enumerate(reduced) if stated == option]
    if letter in named:
        return Choice(letter, "stated")
    # `C. Insulin` where insulin is D: two answers in one
    return Choice(None, "ambiguous" if named else "no_choice")


def normalise(text: str) -> str:
    """Write `text` as a reader sees it: no markup or invisible characters, ASCII forms."""
    if not text.isascii() or not text.isprintable():
        text = INVISIBLE.sub("", text).translate(TO_ASCII)
    text = MARKUP.sub("", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _simplify(text: str) -> str:
    """Drop what need not agree: case, white space, outer brackets and quotes, final punctuation."""
    return " ".join(text.casefold().split()).strip(" .,;:!\"'()[]")
