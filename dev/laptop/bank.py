"""The question bank: multiple-choice questions generated from the fact tables in dev/laptop/facts/*.yaml.

python -m dev.laptop.bank               how many facts and questions there are, and how the gold letters fall
python -m dev.laptop.bank --sample      also two questions of each relation
python -m dev.laptop.bank --write data_prep/bank      write the bank that is committed
python -m dev.laptop.bank --options 5 --write data_prep/bank_5      its five-option form

The bank is a pure function of the tables and a seed: the same bytes on every machine. A *pair* is a fact and a
direction (the object is asked for, or the subject); splits are cut by pair and by phrasing, see `build_bank`.
"""

import argparse
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.files import write_jsonl
from data_prep.prompt import LETTERS, render_question
from dev.laptop.relations import MIN_OPTIONS, Pair, Relation, fill, iter_pairs, load_relations

OOD_OPTIONS = (5, 10)
"""Fewest and most options in ood; half of its questions have the most, as nearly all of MMLU-Pro."""
SIZES = {"train": 2000, "dev": 200, "test": 500, "ood": 500}
HELD_OUT_SHARE = 0.15


def state_fact(pair: Pair, rng: random.Random) -> str:
    """Choose one of the relation's statements about the pair's fact."""
    return fill(rng.choice(pair.relation.statements), pair.fact.subject, pair.fact.object)


def make_question(
    pair: Pair, phrasing: int, num_options: int, rng: random.Random, gold: int | None = None
) -> dict[str, Any]:
    """Make a raw row without id: phrasing numbers continue from `phrasings` into `ood_phrasings`; `gold` fixes the gold's place.

    Raises ValueError where the pair has too few distractors (`pair.max_options`), IndexError for another phrasing.
    """
    if not 2 <= num_options <= pair.max_options:
        raise ValueError(
            f"{pair.key}: {num_options} options asked for, 2 to {pair.max_options} are possible"
        )
    fact = pair.fact
    stem = (*pair.wording.phrasings, *pair.wording.ood_phrasings)[phrasing]
    # two facts may have the same object: an option must not be there twice
    pool = list(pair.distractors)
    rng.shuffle(pool)
    options = list(dict.fromkeys(pool))[: num_options - 1]
    gold = rng.randrange(num_options) if gold is None else gold
    options.insert(gold, fact.object if pair.asks == "object" else fact.subject)
    return {
        "question": fill(stem, fact.subject, fact.object),
        "options": options,
        "answer": LETTERS[gold],
        "meta": {
            "relation": pair.relation.name,
            "subject": fact.subject,
            "object": fact.object,
            "asks": pair.asks,
            "phrasing": phrasing,
        },
    }


def make_rng(seed: int, purpose: str) -> random.Random:
    """Make a generator for each purpose, so that a change in one split leaves the others as they are."""
    return random.Random(
        int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest(), "big")
    )


def choose_held_out(pairs: Sequence[Pair], seed: int) -> frozenset[tuple[str, str, str]]:
    """List the keys of pairs that train never asks for: the same fraction of every relation and direction."""
    held_out: list[tuple[str, str, str]] = []
    for group in sorted({(pair.relation.name, pair.asks) for pair in pairs}):
        keys = [pair.key for pair in pairs if (pair.relation.name, pair.asks) == group]
        make_rng(seed, "held_out/" + "/".join(group)).shuffle(keys)
        held_out += keys[: round(HELD_OUT_SHARE * len(keys))]
    return frozenset(held_out)


def build_bank(seed: int = 42, num_options: int = MIN_OPTIONS) -> dict[str, list[dict[str, Any]]]:
    """Build raw rows by split, `num_options` in each but ood's. Raises UserError where the tables are wrong.

    train, dev and test ask in the same phrasings, but no pair in the same one: each pair keeps one phrasing for dev
    and one for test, and every phrasing is train's for other pairs. HELD_OUT_SHARE of the pairs are not in train at
    all (`meta.pair_in_train`). ood asks in its own phrasings, with 5 to 10 options. Smaller tables than SIZES
    needs give smaller dev, test and ood splits, since each of their questions is about another pair.
    """
    pairs = list(iter_pairs(load_relations()))
    held_out = choose_held_out(pairs, seed)
    name = "bank" if num_options == MIN_OPTIONS else f"bank_{num_options}"
    plans = {split: plan_split(split, pairs, held_out, seed, num_options) for split in SIZES}
    bank = {}
    for split, plan in plans.items():
        rng = make_rng(seed, f"questions/{split}")
        golds = balance_golds([number for *_, number in plan], rng)
        rows: list[dict[str, Any]] = []
        seen: set[tuple[str, frozenset[str]]] = set()
        for (pair, phrasing, number), gold in zip(plan, golds, strict=True):
            for _ in range(20):  # train asks for a pair several times: other distractors each time
                row = make_question(pair, phrasing, number, rng, gold)
                content = row["question"], frozenset(row["options"])
                if content not in seen:
                    break
            else:
                continue
            seen.add(content)
            row["meta"]["pair_in_train"] = pair.key not in held_out
            rows.append({"id": f"{name}/{split}/{len(rows)}", **row})
        bank[split] = rows
    return bank


def plan_split(
    split: str,
    pairs: Sequence[Pair],
    held_out: frozenset[tuple[str, str, str]],
    seed: int,
    num_options: int,
) -> list[tuple[Pair, int, int]]:
    """List (pair, phrasing, number of options) for the questions of a split, in the order of its rows."""
    rng = make_rng(seed, f"plan/{split}")
    fewest, most = OOD_OPTIONS
    if split == "train":
        pairs = [pair for pair in pairs if pair.key not in held_out]
    elif split == "ood":
        pairs = [pair for pair in pairs if pair.max_options >= fewest]
    pairs = list(pairs)
    rng.shuffle(pairs)
    size = SIZES[split]
    plan = []
    if split == "train":
        for question in range(size):
            turn, place = divmod(question, len(pairs))
            phrasings = pairs[place].train_phrasings
            plan.append((pairs[place], phrasings[(turn + place) % len(phrasings)], num_options))
    elif split == "ood":
        size = min(size, len(pairs))
        pairs.sort(
            key=lambda pair: pair.max_options < most
        )  # stable: those that can have the most options first
        for question, pair in enumerate(pairs[:size]):
            wanted = most if question < size // 2 else fewest + question % (most - fewest)
            phrasing = len(pair.wording.phrasings) + rng.randrange(len(pair.wording.ood_phrasings))
            plan.append((pair, phrasing, min(wanted, pair.max_options)))
    else:
        phrasings = [pair.dev_phrasing if split == "dev" else pair.test_phrasing for pair in pairs]
        plan = [
            (pair, phrasing, num_options) for pair, phrasing in zip(pairs, phrasings, strict=True)
        ][:size]
    rng.shuffle(plan)
    return plan


def balance_golds(nums_options: Sequence[int], rng: random.Random) -> list[int]:
    """A place for each question's gold: among questions of one number of options, each place equally often."""
    places = {}
    for number in sorted(set(nums_options)):
        places[number] = [place % number for place in range(nums_options.count(number))]
        rng.shuffle(places[number])
    return [places[number].pop() for number in nums_options]


def print_bank(
    relations: Sequence[Relation], bank: dict[str, list[dict[str, Any]]], sample: bool
) -> None:
    """Print tables of the facts and of the splits; with `sample`, two train questions of each relation."""
    console = Console()
    facts = Table("relation", "facts", "objects", "pairs", "questions", title="Fact tables")
    for relation in relations:
        asked = sum(
            row["meta"]["relation"] == relation.name for rows in bank.values() for row in rows
        )
        objects = len({fact.object for fact in relation.facts})
        counts = (len(relation.facts), objects, len(list(iter_pairs([relation]))), asked)
        facts.add_row(relation.name, *map(str, counts))
    totals = (
        sum(len(relation.facts) for relation in relations),
        "",
        len(list(iter_pairs(relations))),
        "",
    )
    facts.add_row("all", *map(str, totals), style="bold")
    console.print(facts)
    splits = Table(
        "split",
        "questions",
        "pairs not in train",
        "options: questions",
        "gold letters",
        title="Splits",
    )
    for split, rows in bank.items():
        options = Counter(len(row["options"]) for row in rows)
        letters = Counter(row["answer"] for row in rows)
        splits.add_row(
            split,
            str(len(rows)),
            str(sum(not row["meta"]["pair_in_train"] for row in rows)),
            "  ".join(f"{number}: {count}" for number, count in sorted(options.items())),
            " ".join(f"{letter} {count}" for letter, count in sorted(letters.items())),
        )
    console.print(splits)
    # two questions to read of each relation: wrong grammar shows only in the text
    for relation in relations if sample else []:
        rows = [row for row in bank["train"] if row["meta"]["relation"] == relation.name]
        for row in rows[:2]:
            text = render_question(row["question"], row["options"])
            console.print(
                f"\n[bold]{relation.name}[/bold]  {row['id']}\n{escape(text)}\nAnswer: {row['answer']}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the question bank and says what is in it.")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--sample", action="store_true", help="print two train questions of each relation"
    )
    parser.add_argument("--options", type=int, default=MIN_OPTIONS, help="of train, dev and test")
    parser.add_argument("--write", type=Path, help="folder to write a JSONL file a split into")
    args = parser.parse_args()
    bank = build_bank(args.seed, args.options)
    print_bank(load_relations(), bank, args.sample)
    if args.write:
        args.write.mkdir(parents=True, exist_ok=True)
    for split, rows in bank.items() if args.write else []:
        write_jsonl(args.write / f"{split}.jsonl", rows)


if __name__ == "__main__":
    main()
