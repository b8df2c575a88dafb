"""Measure one rollout: pure functions of its text and its question.

What the reward hook logs (reward_server/signals.py) is measured by the same functions, with the
paper's format check whatever the run was rewarded by, so that runs can be compared.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from eval.reading import lenient_choice
from reward_server.signals import measure_signals
from reward_server.verifier import TAG, Verdict, verify

# special tokens at the end: "…</answer><|endoftext|>"
END_OF_TEXT = re.compile(r"(?:<\|[a-z_]+\|>|</s>|<eos>|<pad>)+\s*\Z")
# a sentence with its end, or a line: "So aspirin B."; not split at "0.5 mg"
SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\s|\Z)|\n|\Z|[.!?](?=\S))")
# a letter that is a word: "B", "(B)"; not "B12", "beta-B"
LETTERS = {chr(code): re.compile(rf"(?<![\w-]){chr(code)}(?![\w-])") for code in range(65, 91)}
ANY_LETTER = re.compile(r"(?<![\w-])[A-Z](?![\w-])")
# the letter that ends the text: "… so the answer (B)."
LAST_LETTER = re.compile(r"(?<![\w-])([A-Z])[)\]]?\.?\s*\Z")
CONCLUSION = 400  # characters at the end of the reasoning, in which its last choice is looked for
# a word of three letters and more: "beta-blocker", "patient's"
WORD = re.compile(r"[a-z][a-z0-9'-]{2,}")
UNKNOWN = math.nan
"""A feature that a rollout does not have; means leave it out."""


class Parts(NamedTuple):
    """A response cut at its tags. untagged: everything, where there is no `<think>`."""

    before: str
    think: str
    answer: str
    after: str
    untagged: str


def drop_end(response: str) -> str:
    """Drop the special tokens at the end (looked for in the last 200 characters: linear time)."""
    end = END_OF_TEXT.search(response, max(0, len(response) - 200))
    return response[: end.start()] if end else response


def split_parts(response: str) -> Parts:
    """Cut a response at its first tags; the special tokens at its end are no text.

    A part that is not closed continues to the next tag. Text between parts is `after`.
    """
    pieces = TAG.split(drop_end(response))
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
    response: str, answer: str, options: Sequence[str], terms: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Measure a response. answer: gold letter. options: their texts. terms: see `find_terms`.

    Returns the hook's signals and, whatever the format: words_*: of each part; characters: of all;
    first_statement: words before the choice is first stated, UNKNOWN where only the answer does;
    leak_position: the same as a fraction of the reasoning; steps: its sentences; overlap: fraction
    of the terms that it mentions; agrees: 1.0 where it names the answer's choice, UNKNOWN for none.
    """
    # of a question that was not found the options are unknown, of which there are at least two
    options = [*options, *[""] * (max(2, ord(answer) - 64) - len(options))]
    verdict = verify(response, answer, options)
    parts = split_parts(response)
    reasoning = "\n".join(
        part for part in (parts.before, parts.think, parts.untagged) if part.strip()
    )
    choice = verdict.choice
    if choice is None and not parts.think:
        choice = lenient_choice(response, options)
    stated = find_first_statement(reasoning, choice, options)
    words = len(reasoning.split())
    features = measure_signals(response, verdict, options)
    del features["accuracy"]  # by the paper's check; the run's own is in its rollouts
    for name, part in parts._asdict().items():
        features[f"words_{name}"] = float(len(part.split()))
    return features | {
        "characters": float(len(drop_end(response))),
        "first_statement": stated,
        "leak_position": stated / words if stated >= 0 else UNKNOWN,
        "steps": float(count_sentences(reasoning)),
        "overlap": measure_overlap(reasoning, terms),
        "agrees": judge_agreement(verdict, options),
    }


def find_first_statement(reasoning: str, choice: str | None, options: Sequence[str]) -> float:
    """Count the words before the sentence that first states `choice`; UNKNOWN where none does.

    A sentence states it where `lenient_choice` reads it there, or where it ends in the letter.
    """
    if choice is None or not LETTERS[choice].search(reasoning):
        return UNKNOWN
    ends = re.compile(rf"(?<![\w-])[(\[]?{choice}[)\]]?[.!]?\s*\Z")
    for match in SENTENCE.finditer(reasoning):
        sentence = match[0]
        if not LETTERS[choice].search(sentence):
            continue
        if ends.search(sentence[-8:]) or lenient_choice(sentence, options) == choice:
            return float(len(reasoning[: match.start()].split()))
    return UNKNOWN


def count_sentences(reasoning: str) -> int:
    """Count steps of reasoning: sentences and lines of three words and more."""
    return sum(len(match[0].split()) >= 3 for match in SENTENCE.finditer(reasoning))


def judge_agreement(verdict: Verdict, options: Sequence[str]) -> float:
    """Compare the choice that the reasoning names last with the answer's."""
    if verdict.choice is None or verdict.think is None:
        return UNKNOWN
    reasoning = f"{verdict.pre_think or ''}\n{verdict.think}".strip()
    end = reasoning[-CONCLUSION:]
    named = lenient_choice(end, options) if ANY_LETTER.search(end) else None
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
    """Find each question's terms: its words that at most a fraction `most` of the questions has.

    Function words, "patient" and "which" drop out by their frequency, not by a list.
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
    """Measure the fraction of `terms` that the reasoning mentions; UNKNOWN where there are none."""
    if not terms:
        return UNKNOWN
    return len(terms & frozenset(WORD.findall(reasoning.lower()))) / len(terms)
