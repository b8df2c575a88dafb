"""Fact tables: reads dev/laptop/facts/*.yaml strictly, and gives the pairs (fact and direction) to ask about.

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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from data_prep.errors import UserError

FACTS = Path(__file__).parent / "facts"
MIN_STATEMENTS, MIN_PHRASINGS, MIN_OOD_PHRASINGS = 3, 4, 2
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
    """All tables of a folder, by file name. Raises UserError (a ValueError) that lists every problem of every file."""
    problems: list[str] = []
    relations = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            relations.append(
                parse_relation(yaml.safe_load(path.read_text(encoding="utf-8")), path.stem)
            )
        except UserError as error:
            problems += [f"{path.name}: {problem}" for problem in error.problems]
        except yaml.YAMLError as error:
            problems.append(f"{path.name}: no YAML: {' '.join(str(error).split())}")
    problems += [f"{name}.yaml: {problem}" for name, problem in check_relations(relations)]
    if not problems and not relations:
        problems.append(f"{folder}: no fact table (*.yaml) there")
    if problems:
        raise UserError(*problems)
    return relations


def parse_relation(table: Any, name: str) -> Relation:
    """A table as YAML gives it. Raises UserError for unknown or missing keys and for values of the wrong type."""
    problems: list[str] = []

    def get_texts(value: Any, where: str, least: int = 0) -> tuple[str, ...]:
        if (
            not isinstance(value, list)
            or not all(isinstance(text, str) for text in value)
            or len(value) < least
        ):
            problems.append(f"{where}: needs a list of {least} or more texts, got {value!r}")
            return ()
        return tuple(value)

    def get_wording(key: str) -> Wording:
        value = table.get(key)
        if not isinstance(value, dict) or set(value) != {"phrasings", "ood_phrasings"}:
            problems.append(f"{key}: needs the keys phrasings and ood_phrasings, got {value!r}")
            return Wording((), ())
        least = {"phrasings": MIN_PHRASINGS, "ood_phrasings": MIN_OOD_PHRASINGS}
        return Wording(
            **{
                kind: get_texts(value[kind], f"{key}.{kind}", number)
                for kind, number in least.items()
            }
        )

    if not isinstance(table, dict):
        raise UserError(f"needs a mapping, got {table!r}")
    known = {"relation", "statements", "ask_object", "ask_subject", "similar", "facts"}
    problems += [f"unknown key {key!r}" for key in table if key not in known]
    if table.get("relation") != name:
        problems.append(
            f"relation: must be the file's name {name!r}, got {table.get('relation')!r}"
        )
    facts = []
    for row in table.get("facts") or [None]:
        if (
            not isinstance(row, list)
            or not 2 <= len(row) <= 3
            or not all(isinstance(text, str) for text in row[:2])
        ):
            problems.append(
                f"facts: needs [subject, object] or [subject, object, [also, ...]], got {row!r}"
            )
            continue
        facts.append(
            Fact(row[0], row[1], get_texts(row[2], f"facts: {row[0]}", 1) if len(row) == 3 else ())
        )
    similar = [get_texts(group, "similar", 2) for group in table.get("similar") or []]
    relation = Relation(
        name,
        get_texts(table.get("statements"), "statements", MIN_STATEMENTS),
        get_wording("ask_object"),
        get_wording("ask_subject") if "ask_subject" in table else None,
        frozenset(frozenset((a, b)) for group in similar for a in group for b in group if a != b),
        tuple(facts),
    )
    if problems:
        raise UserError(*problems)
    return relation


def check_relations(relations: Sequence[Relation]) -> list[tuple[str, str]]:
    """Every (relation, problem) of well-formed tables: texts, placeholders, duplicates, too few distractors."""
    return [
        (relation.name, problem) for relation in relations for problem in find_problems(relation)
    ]


def find_problems(relation: Relation) -> Iterator[str]:
    """What is wrong with one table, one line each with the value."""
    both = {"subject", "object"}
    sentences = [(text, both) for text in relation.statements]
    for wording, placeholder in (
        (relation.ask_object, "subject"),
        (relation.ask_subject, "object"),
    ):
        stems = [] if wording is None else [*wording.phrasings, *wording.ood_phrasings]
        sentences += [(text, {placeholder}) for text in stems]
    for text, placeholders in sentences:
        if sorted(re.findall(r"\{(.*?)\}", text)) != sorted(placeholders) or re.search(
            r"[{}]", fill(text, "x", "x")
        ):
            yield f"{text!r}: needs {' and '.join(f'{{{name}}}' for name in sorted(placeholders))} once, nothing else"
    values = [text for fact in relation.facts for text in (fact.subject, fact.object, *fact.also)]
    for text in [sentence for sentence, _ in sentences] + sorted(set(values)):
        if not text or text != " ".join(text.split()):
            yield f"{text!r}: empty, or with blanks at its ends or in a row"
    yield from (
        f"{text!r}: a brace in a fact" for text in sorted(set(values)) if re.search(r"[{}]", text)
    )
    for kind, texts in (
        ("sentence", [text for text, _ in sentences]),
        ("subject", [fact.subject for fact in relation.facts]),
        ("object in another spelling", sorted({fact.object for fact in relation.facts})),
    ):
        counts = Counter(text.casefold() for text in texts)
        yield from (
            f"{text!r}: {kind} given {count} times" for text, count in counts.items() if count > 1
        )
    objects = {fact.object for fact in relation.facts}
    for text in sorted({text for two in relation.similar for text in two} - objects):
        yield f"{text!r}: similar, but no fact has this object"
    for fact in relation.facts:
        if fact.object in fact.also:
            yield f"{fact.subject!r}: {fact.object!r} is given as its object and again as also right"
        for text in sorted(set(fact.also) - objects):
            yield f"{fact.subject!r}: also {text!r}, but no fact has this object"
    for pair in iter_pairs([relation]):
        if pair.max_options < MIN_OPTIONS:
            yield (
                f"{pair.fact.subject!r} - {pair.fact.object!r}, asked for the {pair.asks}: only "
                f"{pair.max_options} options are possible, {MIN_OPTIONS} are needed"
            )


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
