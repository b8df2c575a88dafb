"""Measure one rollout: pure functions of its text and its question.

What the reward hook logs (reward_server/signals.py) is measured by the same functions, with the
paper's format check whatever the run was rewarded by, so that runs can be compared.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from eval.reading import lenient_choice
from reward_server.signals import measure_signals
from reward_server.verifier import TAG, Verdict, verify

# special tokens at the end: "…</answer><|endoftext|>"
END_OF_TEXT = re.compile(r"(?:<\|[a-z_]+\|>|</s>|<eos>|<pad>)+\s*\Z")
# a sentence with its end, or a line: "So aspirin B."; not split at "0.5 mg"
SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\s|\Z)|\n|\Z|[.!?](?=\S))")
# a letter that is a word: "B", "(B)"; not "B12", "beta-B"
LETTER = re.compile(r"(?<![\w-])[A-Z](?![\w-])")
# the letter that ends the text: "… so the answer (B)."
LAST_LETTER = re.compile(r"(?<![\w-])([A-Z])[)\]]?[.!]?\s*\Z")
CONCLUSION = 400  # characters at the end of the reasoning, in which its last choice is looked for
# a word of three letters and more: "beta-blocker", "patient's"
WORD = re.compile(r"[a-z][a-z0-9'-]{2,}")
UNKNOWN = math.nan
"""A feature that a rollout does not have; means leave it out."""
PARTS = ("before", "think", "answer", "after", "untagged")
"""Of a response: before, inside and after its tags; all is untagged where there is no `<think>`."""


def label_pieces(response: str) -> list[tuple[str, str]]:
    """Cut a response at its first tags: (part, text) in order; a tag's part is `tag`.

    A part that is not closed continues to the next tag. Text between parts is `after`. The last
    piece is the special tokens at the end, which are no text (of 200 characters: linear time).
    """
    end = END_OF_TEXT.search(response, max(0, len(response) - 200))
    texts = TAG.split(response[: end.start()] if end else response)
    place = "before" if "<think>" in texts else "untagged"
    pieces = [(place, texts[0])]
    opened = set()
    for tag, text in zip(texts[1::2], texts[2::2], strict=True):
        name = tag.strip("</>")
        if not tag.startswith("</") and name not in opened:
            opened.add(name)
            place = name
        elif place != "untagged" or "answer" in opened:
            place = "after"
        pieces += [("tag", tag), (place, text)]
    return [*pieces, ("tag", end[0] if end else "")]


def join_parts(pieces: list[tuple[str, str]]) -> dict[str, str]:
    """Join the pieces of each part."""
    return {of: " ".join(text for part, text in pieces if part == of and text) for of in PARTS}


def extract_features(
    response: str, answer: str, options: Sequence[str], terms: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Measure a response: the hook's signals, and the features of docs/dynamics.md.

    answer: gold letter. options: their texts. terms: of the question, see `find_terms`.
    """
    # of a question that was not found the options are unknown, of which there are at least two
    options = [*options, *[""] * (max(2, ord(answer) - 64) - len(options))]
    verdict = verify(response, answer, options)
    pieces = label_pieces(response)
    parts = join_parts(pieces)
    reasoned = (parts["before"], parts["think"], parts["untagged"])
    reasoning = "\n".join(part for part in reasoned if part.strip())
    choice = verdict.choice
    if choice is None and not parts["think"]:
        choice = lenient_choice(response, options)
    stated = find_first_statement(reasoning, choice, options)
    mentioned = terms & frozenset(WORD.findall(reasoning.lower()))
    features = measure_signals(response, verdict, options)
    del features["accuracy"]  # by the paper's check; the run's own is in its rollouts
    features |= {f"words_{name}": float(len(part.split())) for name, part in parts.items()}
    return features | {
        "characters": float(len(response) - len(pieces[-1][1])),
        "first_statement": stated,
        "leak_position": stated / len(reasoning.split()) if stated >= 0 else UNKNOWN,
        "steps": float(sum(len(match[0].split()) >= 3 for match in SENTENCE.finditer(reasoning))),
        "overlap": len(mentioned) / len(terms) if terms else UNKNOWN,
        "agrees": judge_agreement(verdict, options),
    }


def find_first_statement(reasoning: str, choice: str | None, options: Sequence[str]) -> float:
    """Count the words before the sentence that first states `choice`; UNKNOWN where none does.

    A sentence states it where `lenient_choice` reads it there, or where it ends in the letter.
    """
    for match in SENTENCE.finditer(reasoning):
        if choice in LETTER.findall(match[0]):
            last = LAST_LETTER.search(match[0][-8:])
            if (last and last[1] == choice) or lenient_choice(match[0], options) == choice:
                return float(len(reasoning[: match.start()].split()))
    return UNKNOWN


def judge_agreement(verdict: Verdict, options: Sequence[str]) -> float:
    """Compare the choice that the reasoning names last with the answer's."""
    if verdict.choice is None or verdict.think is None:
        return UNKNOWN
    reasoning = f"{verdict.pre_think or ''}\n{verdict.think}".strip()
    end = reasoning[-CONCLUSION:]
    named = lenient_choice(end, options) if LETTER.search(end) else None
    if named is None and (match := LAST_LETTER.search(end[-8:])):
        named = match[1]
    if named is None:
        text = reasoning.lower()
        places = [text.rfind(option.lower()) if option else -1 for option in options]
        if max(places) < 0:
            return UNKNOWN
        named = chr(65 + places.index(max(places)))
    return float(named == verdict.choice)


def find_terms(questions: dict[str, str]) -> dict[str, frozenset[str]]:
    """Find each question's terms: its words that at most 5 % of the questions have.

    Function words, "patient" and "which" drop out by their frequency, not by a list.
    """
    words = {key: frozenset(WORD.findall(text.lower())) for key, text in questions.items()}
    counts = Counter(word for found in words.values() for word in found)
    limit = max(1.0, 0.05 * len(words))
    frequent = {word for word, count in counts.items() if count > limit}
    return {key: found - frequent for key, found in words.items()}
