"""The question bank asked openly: the same questions without options, with the accepted forms of their answers.

python -m dev.laptop.open_bank --write data_prep/bank_open      write the open bank that is committed

Row bank_open/test/7 asks what bank/test/7 asks, so the two can be compared. Every answer that the fact tables hold for
right is accepted, each with its synonyms (dev/laptop/synonyms.yaml); the question's own answer comes first.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from data_prep.files import write_jsonl
from dev.laptop.bank import build_bank
from dev.laptop.relations import Pair, iter_pairs, load_relations
from reward_server.text import simplify

SYNONYMS = yaml.safe_load(Path(__file__).with_name("synonyms.yaml").read_text(encoding="utf-8"))
REWORDED = {
    "Which of these drugs ": "Which drug ",
    "Which drug below ": "Which drug ",
    "Which of these ": "What ",
    "which of the following?": "which condition?",
    "A professor lists signs of ": "A professor asks for a sign of ",
    "Which one is right?": "What is it?",
    "What is the right answer?": "Where is it made?",
}
"""Words of a stem that speak of its options."""


def list_answers(pair: Pair) -> list[str]:
    """List the right answers of a pair as the tables name them, the fact's own first."""
    if pair.asks == "object":
        return [pair.fact.object, *pair.fact.also]
    right = [f.subject for f in pair.relation.facts if pair.fact.object in (f.object, *f.also)]
    return list(dict.fromkeys([pair.fact.subject, *right]))


def list_references(pair: Pair) -> list[str]:
    """List the accepted forms of the pair's right answers."""
    suffix = SYNONYMS["suffixes"].get(pair.relation.name) if pair.asks == "subject" else None
    references = []
    for answer in list_answers(pair):
        forms = [answer]
        for group in SYNONYMS["groups"]:
            forms += group if answer in group else []
        references += forms + ([f"{form} {suffix}" for form in forms] if suffix else [])
    return list(dict.fromkeys(references))


def build_open_bank() -> dict[str, list[dict[str, Any]]]:
    """Build raw rows by split: the questions of the bank in their order."""
    pairs = {pair.key: pair for pair in iter_pairs(load_relations())}
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, rows in build_bank().items():
        splits[split] = []
        for row in rows:
            stem = reword(row["question"])
            pair = pairs[row["meta"]["relation"], row["meta"]["subject"], row["meta"]["asks"]]
            gold, *others = list_references(pair)
            # a form that the stem says itself would reward its echo: rubeola virus causes rubeola
            said = f" {simplify(stem)} "
            others = [form for form in others if f" {simplify(form)} " not in said]
            head = {"id": row["id"].replace("bank/", "bank_open/"), "question": stem}
            splits[split].append({**head, "references": [gold, *others], "meta": row["meta"]})
    return splits


def reword(stem: str) -> str:
    """Write a stem without a word about its options."""
    for words, new in REWORDED.items():
        stem = stem.replace(words, new)
    return stem


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the bank asked openly.")
    parser.add_argument("--write", type=Path, required=True, help="folder of a JSONL file a split")
    folder = parser.parse_args().write
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in build_open_bank().items():
        write_jsonl(folder / f"{split}.jsonl", rows)


if __name__ == "__main__":
    main()
