"""Features of one rollout: pure functions of its text and its question.

Those that the reward hook logs too (format, leak, pre_think, think_words, pre_think_words, repetition) have its names
and its definitions, with the paper's format check whatever the run was rewarded by, so that runs can be compared.
"""

import re
from typing import NamedTuple

from reward_server.lenient import lenient_choice
from reward_server.signals import leak, measure_repetition
from reward_server.verifier import TAG, Verdict, verify

END_OF_TEXT = re.compile(r"(?:<\|[a-z_]+\|>|</s>|<eos>|<pad>)+\s*\Z")
SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\s|\Z)|\n|\Z|[.!?](?=\S))")
LETTERS = {chr(code): re.compile(rf"(?<![\w-]){chr(code)}(?![\w-])") for code in range(65, 91)}
ANY_LETTER = re.compile(r"(?<![\w-])[A-Z](?![\w-])")
LAST_LETTER = re.compile(r"(?<![\w-])([A-Z])[)\]]?\.?\s*\Z")
CONCLUSION = 400  # characters at the end of the reasoning, in which its last choice is looked for
WORD = re.compile(r"[a-z][a-z0-9'-]{2,}")
UNKNOWN = -1.0
"""A feature that this rollout does not have, such as the agreement of thinking that names no choice."""


class Parts(NamedTuple):
    """A response cut at its tags, those missing included. untagged: everything, where there is no `<think>`."""

    before: str
    think: str
    answer: str
    after: str
    untagged: str


class Features(NamedTuple):
    """One rollout's features.

    format, pre_think, leak: 0.0 or 1.0. think_words, pre_think_words: as the hook counts them, 0 where the four tags
    are not in order. words_*: words of each part, whatever the format. first_statement: words of the response before
    its choice is first stated, UNKNOWN where that is in the answer only or there is no choice. leak_position: the same
    as a share of the words before the answer. steps: sentences of reasoning. repetition: 0.0 to 1.0. overlap: share of
    the question's terms that the reasoning mentions. agrees: 1.0 where reasoning and answer name the same choice, 0.0
    where not, UNKNOWN where either names none.
    """

    format: float
    pre_think: float
    leak: float
    think_words: float
    pre_think_words: float
    words_before: float
    words_think: float
    words_answer: float
    words_after: float
    words_untagged: float
    first_statement: float
    leak_position: float
    steps: float
    repetition: float
    overlap: float
    agrees: float


def split_parts(response: str) -> Parts:
    """Cut a response at its first tags; the special tokens at its end are no text.

    A part that is not closed goes on to the next tag. Text outside every part, after the first, is `after`.
    """
    end = END_OF_TEXT.search(response, max(0, len(response) - 200))
    pieces = TAG.split(response[: end.start()] if end else response)
    has_think = "<think>" in pieces
    parts = {"before": "", "think": "", "answer": "", "after": "", "untagged": ""}
    place = "before" if has_think else "untagged"
    opened = set()
    parts[place] = pieces[0]
    for tag, text in zip(pieces[1::2], pieces[2::2], strict=True):
        name = tag.strip("</>")
        if not tag.startswith("</") and name not in opened:
            opened.add(name)
            place = name
        elif place != "untagged" or "answer" in opened:
            place = "after"
        parts[place] = f"{parts[place]} {text}" if parts[place] and text else parts[place] or text
    return Parts(**parts)


def extract_features(
    response: str, answer: str, options: list[str], terms: frozenset[str] = frozenset()
) -> Features:
    """Every feature of a response. answer: gold letter. options: their texts. terms: see `find_terms`."""
    num_options = max(2, len(options), ord(answer) - 64)
    padded = [
        *options,
        *[""] * (num_options - len(options)),
    ]  # of a run whose questions are not here
    verdict = verify(response, answer, padded, "paper")
    parts = split_parts(response)
    reasoning = "\n".join(
        part for part in (parts.before, parts.think, parts.untagged) if part.strip()
    )
    choice = verdict.choice or (None if parts.think else lenient_choice(response, num_options))
    stated = find_first_statement(reasoning, choice)
    words = len(reasoning.split())
    before = verdict.pre_think if verdict.format_ok else None
    return Features(
        format=float(verdict.format_ok),
        pre_think=float(bool(before and before.strip())),
        leak=leak(verdict, padded),
        think_words=float(len((verdict.think or "").split())),
        pre_think_words=float(len((before or "").split())),
        words_before=float(len(parts.before.split())),
        words_think=float(len(parts.think.split())),
        words_answer=float(len(parts.answer.split())),
        words_after=float(len(parts.after.split())),
        words_untagged=float(len(parts.untagged.split())),
        first_statement=stated,
        leak_position=stated / words if stated >= 0 else UNKNOWN,
        steps=float(count_steps(reasoning)),
        repetition=measure_repetition(response),
        overlap=measure_overlap(reasoning, terms),
        agrees=judge_agreement(verdict, options),
    )


def find_first_statement(reasoning: str, choice: str | None) -> float:
    """Words before the sentence that first states `choice`; UNKNOWN where none does.

    A sentence states it where `lenient_choice` reads it there, or where it ends in the letter alone ("So aspirin B.").
    """
    if choice is None or not LETTERS[choice].search(reasoning):
        return UNKNOWN
    ends = re.compile(rf"(?<![\w-])[(\[]?{choice}[)\]]?[.!]?\s*\Z")
    for match in SENTENCE.finditer(reasoning):
        sentence = match[0]
        if not LETTERS[choice].search(sentence):
            continue
        if ends.search(sentence[-8:]) or lenient_choice(sentence, 26) == choice:
            return float(len(reasoning[: match.start()].split()))
    return UNKNOWN


def count_steps(reasoning: str) -> int:
    """Steps of reasoning: sentences and lines of three words and more."""
    return sum(len(match[0].split()) >= 3 for match in SENTENCE.finditer(reasoning))


def judge_agreement(verdict: Verdict, options: list[str]) -> float:
    """Whether the reasoning's last named choice, by letter or else by an option's text, is the answer's."""
    if verdict.choice is None or verdict.think is None:
        return UNKNOWN
    reasoning = f"{verdict.pre_think or ''}\n{verdict.think}".strip()
    end = reasoning[-CONCLUSION:]
    named = lenient_choice(end, 26) if ANY_LETTER.search(end) else None
    if named is None and (match := LAST_LETTER.search(end[-8:])):
        named = match[1]
    if named is None:
        text = reasoning.lower()
        places = {
            chr(65 + index): text.rfind(option.lower())
            for index, option in enumerate(options)
            if option
        }
        last = max(places, key=lambda letter: places[letter], default=None)
        named = last if last is not None and places[last] >= 0 else None
    return UNKNOWN if named is None else float(named == verdict.choice)


def find_terms(questions: dict[str, str], most: float = 0.05) -> dict[str, frozenset[str]]:
    """The terms of each question: its words that at most a share `most` of the questions (or one) has.

    What is common to the questions (function words, "patient", "which") drops out by its frequency, not by a list.
    questions: id -> question with options.
    """
    words = {key: frozenset(WORD.findall(text.lower())) for key, text in questions.items()}
    counts: dict[str, int] = {}
    for found in words.values():
        for word in found:
            counts[word] = counts.get(word, 0) + 1
    limit = max(1.0, most * len(words))
    return {
        key: frozenset(word for word in found if counts[word] <= limit)
        for key, found in words.items()
    }


def measure_overlap(reasoning: str, terms: frozenset[str]) -> float:
    """Share of `terms` that the reasoning mentions; UNKNOWN where there are none, 0.0 for no reasoning."""
    if not terms:
        return UNKNOWN
    return len(terms & frozenset(WORD.findall(reasoning.lower()))) / len(terms)
