"""Fact tables: read dev/laptop/facts/*.yaml, and give the pairs (fact and direction) to ask about.

A table holds facts of one kind, sentences that state them, and question stems that ask for the object (given the
subject) or for the subject (given the object):

    relation: drug_adverse_effect                     # the file's name
    statements: ["{subject} may cause {object}."]     # 3 or more
    ask_object: {phrasings: [...], ood_phrasings: [...]}     # 4 and 2 or more stems with {subject}
    ask_subject: {phrasings: [...], ood_phrasings: [...]}    # stems with {object}; may be left out
    similar: [[nephrotoxicity, renal failure]]        # objects too close to be each other's distractors; optional
    facts:
      - [metformin, lactic acidosis]                  # a subject comes once
      - [gentamicin, nephrotoxicity, [ototoxicity]]   # third: further objects that are or arguably could be right
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

FACTS = Path(__file__).parent / "facts"
MIN_OPTIONS = 4
"""Every pair must have this many options: those of train, dev and test."""
LETTER_SOUND = re.compile(
    r"(?!(?:HER|JAK|MEK|MET|RAF|SERM|NOAC|SARS)(?![A-Za-z]))(?:[A-Z][A-Z0-9-]|[a-z][A-Z])"
)
"""Abbreviations that are spelt out when read, so that the name of their first letter decides the article."""
SOUNDS_LIKE_YOU = r"uni|eu|ewe|one|once|us[eu]|ur[aei]|ut[ei]|ub[ei]"
VOWEL_SOUND = re.compile(rf"(?!{SOUNDS_LIKE_YOU})[aeiouαεηιω]|hour|heir|8|11\b|18\b", re.IGNORECASE)


@dataclass(frozen=True)
class Fact:
    """`also` holds the relation's other objects that are, or arguably could be, right for this subject."""

    subject: str
    object: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wording:
    """Question stems with one placeholder: those of train, dev and test, and those that only ood uses."""

    phrasings: tuple[str, ...]
    ood_phrasings: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """One table: facts of one kind and the sentences that state them and ask for them."""

    name: str
    statements: tuple[str, ...]
    ask_object: Wording
    ask_subject: Wording | None
    similar: frozenset[frozenset[str]]
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Pair:
    """A fact and a direction. `number` counts the pairs of a relation and direction: it rotates held-out phrasings."""

    relation: Relation
    fact: Fact
    asks: Literal["object", "subject"]
    number: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.relation.name, self.fact.subject, self.asks

    @property
    def wording(self) -> Wording:
        wording = self.relation.ask_object if self.asks == "object" else self.relation.ask_subject
        assert wording is not None, self.key  # iter_pairs gives no pair without a wording
        return wording

    @property
    def dev_phrasing(self) -> int:
        return self.number % len(self.wording.phrasings)

    @property
    def test_phrasing(self) -> int:
        return (self.number + 1) % len(self.wording.phrasings)

    @property
    def train_phrasings(self) -> list[int]:
        """The in-distribution phrasings in which neither dev nor test asks for this pair."""
        held_out = (self.dev_phrasing, self.test_phrasing)
        return [number for number in range(len(self.wording.phrasings)) if number not in held_out]

    @cached_property
    def distractors(self) -> tuple[str, ...]:
        """Wrong options, one for each other fact: an object of many facts comes many times, so that an option's
        being common says nothing about its being right."""
        similar = self.relation.similar

        def is_apart(objects: tuple[str, ...], others: tuple[str, ...]) -> bool:
            return not any(a == b or frozenset((a, b)) in similar for a in objects for b in others)

        right = (self.fact.object, *self.fact.also)
        if self.asks == "object":
            return tuple(
                other.object for other in self.relation.facts if is_apart(right, (other.object,))
            )
        asked = (self.fact.object,)
        return tuple(
            other.subject
            for other in self.relation.facts
            if is_apart(asked, (other.object, *other.also))
        )

    @property
    def max_options(self) -> int:
        return len(set(self.distractors)) + 1


def load_relations(folder: Path = FACTS) -> list[Relation]:
    """Read all tables of a folder, by file name. tests/test_relations.py checks that they are sound."""
    tables = [yaml.safe_load(path.read_bytes()) for path in sorted(folder.glob("*.yaml"))]
    return [parse_relation(table) for table in tables]


def parse_relation(table: dict[str, Any]) -> Relation:
    """Build a relation from a table as YAML gives it."""
    similar = table.get("similar", [])
    return Relation(
        table["relation"],
        tuple(table["statements"]),
        parse_wording(table["ask_object"]),
        parse_wording(table["ask_subject"]) if "ask_subject" in table else None,
        frozenset(frozenset((a, b)) for group in similar for a in group for b in group if a != b),
        tuple(
            Fact(row[0], row[1], tuple(row[2]) if len(row) > 2 else ()) for row in table["facts"]
        ),
    )


def parse_wording(table: dict[str, list[str]]) -> Wording:
    """Build the wording of one direction."""
    return Wording(tuple(table["phrasings"]), tuple(table["ood_phrasings"]))


def iter_pairs(relations: Sequence[Relation]) -> Iterator[Pair]:
    """Every pair: relations in the given order, facts by subject, the object asked for before the subject."""
    for relation in relations:
        for number, fact in enumerate(sorted(relation.facts, key=lambda fact: fact.subject)):
            yield Pair(relation, fact, "object", number)
            if relation.ask_subject is not None:
                yield Pair(relation, fact, "subject", number)


def fill(sentence: str, subject: str, object_: str) -> str:
    """The sentence with its placeholders filled, `a` or `an` before them as they sound, and a capital at its start."""
    values = {"subject": subject, "object": object_}

    def replace(match: re.Match[str]) -> str:
        article, name = match.groups()
        value = values[name]
        return f"{article}{'n' if has_vowel_sound(value) else ''} {value}" if article else value

    text = re.sub(r"(?:\b([Aa])n? )?\{(subject|object)\}", replace, sentence)
    # `p53`, `mRNA` and `α1-antitrypsin` keep their first letter.
    return text[0].upper() + text[1:] if re.match(r"[a-z](?:[a-z-]|\s|$)", text) else text


def has_vowel_sound(text: str) -> bool:
    """Whether English puts `an` before the text."""
    return (
        text[0].upper() in "AEFHILMNORSX"
        if LETTER_SOUND.match(text)
        else bool(VOWEL_SOUND.match(text))
    )
