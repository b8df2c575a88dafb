"""The one table of what is logged about a response: name, unit, function, and what it shows.

A new signal is one more entry of SIGNALS. Pure, linear time.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.files import read_mapping
from reward_server.choice import LETTERS, normalise
from reward_server.tags import is_blank
from reward_server.verifier import Verdict


class Signal(NamedTuple):
    """A logged signal."""

    name: str
    unit: str
    measure: Callable[[str, Verdict, Sequence[str]], float]
    shows: str


LAST_CHARACTERS = 4000  # of the text before <think>
OPENING_CHARACTERS = 400  # of the thinking
LAST_WORDS = 128  # a loop lasts to the end once it has begun, and every word costs time
# ends of sentences, but not after the initial of a species (E. coli)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])|\n")
WORD = re.compile(r"\w+")
NEARLY_ALL = 0.75  # of an option's words, where it has four or more

TABLE = read_mapping(Path(__file__).with_suffix(".yaml"))
WORDS = {name: "|".join(alternatives) for name, alternatives in TABLE.items()}
EMPTY_WORD = re.compile(WORDS["small"])
STATES = re.compile(rf"\b(?:{WORDS['states']})\b|\A(?:{WORDS['orders']})\b")
DENIES = re.compile(rf"\b(?:{WORDS['denies']})\b|n't\b|\?")
REASON_BEGINS = re.compile(rf"\b(?:{WORDS['because']})\b")
CLAUSE_END = re.compile(r"[,;:]")


def leak(verdict: Verdict, options: Sequence[str]) -> float:
    """Return 1.0 where the choice is stated as the answer before or at the start of the reasoning.

    Stated by its letter or its option's text (nearly all words), in the text before `<think>` or
    in the opening of the thinking: its first sentence, and at least five words. To name an option
    while arguing against it, or among others, states nothing.
    """
    if verdict.choice is None or verdict.think is None or verdict.pre_think is None:
        return 0.0
    # an open answer has no letter, and no other options
    wanted = [_list_words(option) for option in options or [verdict.choice]]
    wanted.insert(0, wanted.pop(LETTERS.index(verdict.choice) if options else 0))  # the chosen one
    opening: list[str] = []
    for sentence in _split_sentences(verdict.think[:OPENING_CHARACTERS]):
        if len(" ".join(opening).split()) < 5:
            opening.append(sentence)
    # the text alone is a statement where nothing comes before it ("Measles.")
    if opening and _states_text(opening[0], wanted, alone=True):
        return 1.0
    sentences = opening + _split_sentences(verdict.pre_think[-LAST_CHARACTERS:])
    letter = verdict.choice if options else None
    stated = ((letter and _states_letter(s, letter)) or _states_text(s, wanted) for s in sentences)
    return float(any(stated))


def _split_sentences(text: str) -> list[str]:
    return [part.strip() for part in SENTENCE_END.split(normalise(text)) if part.strip()]


def _states_letter(sentence: str, letter: str) -> bool:
    """Find out if a sentence states the letter: `C`, `The answer is C.`, `C is correct.`"""
    # not "C-reactive", "C. difficile", "B12"
    bare = rf"(?<![A-Za-z0-9'-])[(\[\"']?{letter}(?![\w'-]|\. ?[a-z])[)\]\"']?"
    alone = rf"\W*(?:(?i:so|thus|therefore|hence|it is|it's|option)\W+)?{bare}\W*"
    if re.fullmatch(alone, sentence):
        return not sentence.endswith("?")
    announced, confirmed = f"(?i:{WORDS['announces']}){bare}", f" (?:{WORDS['confirms']})"
    ends = rf"(?= *(?:[.,;:!]|\Z|(?i:because|since)\b)|{confirmed})"
    found = re.search(f"{announced}{ends}|{bare}{confirmed}", sentence)
    return found is not None and not _is_denied(sentence.casefold(), *found.span())


def _states_text(sentence: str, wanted: list[list[str]], alone: bool = False) -> bool:
    """Find out if a sentence states the first of the options. alone: its bare text is enough."""
    lowered = sentence.casefold()
    start, end = _find_words(lowered, wanted[0])
    if start == end or _is_denied(lowered, start, end):
        return False
    for other in wanted[1:]:  # a sentence that names others too discusses them
        first, last = _find_words(lowered, other)
        if lowered[first:last] not in lowered[start:end]:
            return False
    rest = _list_words(lowered[:start] + " " + lowered[end:])
    return (alone and len(rest) <= 1) or STATES.search(lowered) is not None


def _list_words(text: str) -> list[str]:
    words = WORD.findall(normalise(text).casefold())
    return [word for word in words if not EMPTY_WORD.fullmatch(word)]


def _find_words(lowered: str, wanted: list[str]) -> tuple[int, int]:
    """Find where a sentence has nearly all words of an option, in any order; (0, 0) without."""
    spans = [match.span() for match in WORD.finditer(lowered) if match[0] in wanted]
    found = {lowered[start:end] for start, end in spans}
    needed = len(set(wanted)) * (NEARLY_ALL if len(wanted) >= 4 else 1)
    return (spans[0][0], spans[-1][1]) if found and len(found) >= needed else (0, 0)


def _is_denied(lowered: str, start: int, end: int) -> bool:
    """Find out if a name is taken back: in its clause before it, or after it up to a reason."""
    clause = CLAUSE_END.split(lowered[:start])[-1]
    after = REASON_BEGINS.split(lowered[end:])[0]
    return DENIES.search(clause) is not None or DENIES.search(after) is not None


def measure_repetition(response: str) -> float:
    """Return the fraction of runs of four words that recur among the last 128; prose: below 0.1."""
    words = response.rsplit(None, LAST_WORDS)[-LAST_WORDS:]
    if len(words) < 8:
        return 0.0
    # of four, since two or three words recur in any prose
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1.0 - len(set(runs)) / len(runs)


def _has_pre_think(verdict: Verdict) -> bool:
    return verdict.format_ok and not is_blank(verdict.pre_think or "")


def _count_words(text: str | None) -> int:
    return len((text or "").split())


# measure: of the response r, its verdict v and the options' texts o
SIGNALS = (
    Signal("accuracy", "0 or 1", lambda r, v, o: v.correct, "format followed, choice right"),
    Signal("format", "0 or 1", lambda r, v, o: v.format_ok, "format followed"),
    Signal("leak", "0 or 1", lambda r, v, o: leak(v, o), "choice stated before the reasoning"),
    Signal("pre_think", "0 or 1", lambda r, v, o: _has_pre_think(v), "text before `<think>`"),
    Signal("think_words", "words", lambda r, v, o: _count_words(v.think), "length of reasoning"),
    Signal(
        "pre_think_words",
        "words",
        lambda r, v, o: _count_words(v.pre_think) if v.format_ok else 0,
        "length of the text before `<think>`",
    ),
    Signal("repetition", "fraction", lambda r, v, o: measure_repetition(r), "loops"),
)


def measure_signals(response: str, verdict: Verdict, options: Sequence[str]) -> dict[str, float]:
    """Measure every signal: always the same names, or the engine cannot batch the samples."""
    return {signal.name: float(signal.measure(response, verdict, options)) for signal in SIGNALS}
