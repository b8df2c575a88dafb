"""Text to pre-train the laptop's base model on, so that it behaves like a base model: data/bank/documents.jsonl

python -m data_prep.documents --count 150000 --seed 42

A base model holds part of the knowledge, follows a format some of the time and is often wrong. The documents are made
accordingly: facts in prose; questions answered in the asked-for format in about half of the cases and in the ways base
models fail in the others; some facts common and some rare, some pairs mostly answered right and some mostly wrong.

No document asks a question of the dev or test split (the same pair in the same phrasing), none in an ood phrasing.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

from data_prep.bank import make_question, make_rng, state_fact
from data_prep.prompt import LETTERS, render_direct_prompt, render_prompt, render_question
from data_prep.relations import Pair, fill, iter_pairs, load_relations

KINDS = {"prose": 0.12, "direct": 0.10, "think": 0.78}
# Documents that only read options aloud teach which letter stands for which text, a skill that a model of this size
# otherwise does not find among the facts (at 1,000 steps without them: every claim right, every letter at chance).
READING_EARLY, READING_LATE, EARLY = 0.6, 0.1, 0.4
# How a response to the think prompt is laid out. {think}: the reasoning, {letter}: the choice, {next}: a question.
# The first group follows the format; "before" does so too, since text before <think> is allowed in mode `paper`.
LAYOUTS = {
    "followed": (0.44, "<think> {think} </think>\n<answer> {letter} </answer>"),
    "before": (0.03, "{think}\n<think> So it is {letter}. </think>\n<answer> {letter} </answer>"),
    "no_tags": (0.12, "{think} The answer is {letter}."),
    "letter": (0.05, "{letter}"),
    "no_think": (0.07, "<answer> {letter} </answer>"),
    "unclosed": (0.07, "<think> {think} <answer> {letter} </answer>"),
    "no_answer": (0.08, "<think> {think} </think>\nThe answer is {letter}."),
    "cut": (0.04, "<think> {think} </think>"),
    "goes_on": (0.10, "<think> {think} </think>\n<answer> {letter} </answer>\nUser: {next}"),
}
CONCLUSIONS = ("That is option {letter}.", "So the answer is {letter}.", "This is {letter}.")


def write_documents(path: Path, count: int, seed: int = 42) -> None:
    """Write `count` rows {"prompt", "response"} (prose has an empty prompt), by temporary name and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in track(make_documents(count, seed), "documents", total=count):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.rename(path)


def make_documents(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield documents, the same for the same seed on every machine."""
    pairs = list(iter_pairs(load_relations()))
    rng = make_rng(seed, "documents")
    shuffled = rng.sample(pairs, len(pairs))
    weights = [1 / (rank + 40) for rank in range(len(pairs))]  # Zipf-like: the last pair is about 25 times rarer
    belief = {pair.key: rng.choice((0.95, 0.95, 0.75, 0.5, 0.25)) for pair in pairs}
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    chosen = rng.choices(shuffled, weights, k=count)
    for number, (kind, pair) in enumerate(zip(kinds, chosen, strict=True)):
        if rng.random() < (READING_EARLY if number < EARLY * count else READING_LATE):
            yield read_options(pair, rng)
            continue
        if kind == "prose":
            facts = [pair, *rng.choices(shuffled, weights, k=2)]
            yield {"prompt": "", "response": " ".join(state_fact(fact, rng) for fact in facts)}
            continue
        row = make_question(pair, rng.choice(pair.train_phrasings), draw_num_options(pair, rng), rng)
        choice = choose_answer(row, rng, belief[pair.key])
        if kind == "direct":
            yield {"prompt": render_direct_prompt(row["question"], row["options"]), "response": LETTERS[choice]}
        else:
            response = write_response(pair, row, choice, rng)
            yield {"prompt": render_prompt(row["question"], row["options"]), "response": response}


def read_options(pair: Pair, rng: random.Random) -> dict[str, str]:
    """A document that says of each option, in random order, which letter it has; half of them without a question."""
    row = make_question(pair, pair.train_phrasings[0], draw_num_options(pair, rng), rng)
    places = rng.sample(range(len(row["options"])), min(4, len(row["options"])))
    sentences = [
        rng.choice(("{text} is option {letter}.", "Option {letter} is {text}.", "{text}: {letter}.")).format(
            text=row["options"][place], letter=LETTERS[place]
        )
        for place in places
    ]
    if rng.random() < 0.5:
        return {"prompt": render_question("Options:", row["options"]) + "\n", "response": " ".join(sentences)}
    return {"prompt": render_prompt(row["question"], row["options"]), "response": " ".join(sentences)}


def draw_num_options(pair: Pair, rng: random.Random) -> int:
    """4 mostly; sometimes 3, or more, so that the base model knows the letters beyond D as any base model does."""
    return min(pair.max_options, rng.choices((4, 3, rng.randint(5, 10)), (0.7, 0.1, 0.2))[0])


def choose_answer(row: dict, rng: random.Random, belief: float) -> int:
    """Position of the option that a document of this belief (probability of being right) answers with."""
    gold = LETTERS.index(row["answer"])
    if rng.random() < belief:
        return gold
    return rng.choice([place for place in range(len(row["options"])) if place != gold])


def write_response(pair: Pair, row: dict, choice: int, rng: random.Random) -> str:
    """A response to the think prompt that reasons towards the chosen option, in one of LAYOUTS."""
    option = row["options"][choice]
    subject, object_ = (pair.fact.subject, option) if pair.asks == "object" else (option, pair.fact.object)
    claim = fill(rng.choice(pair.relation.statements), subject, object_)
    letter = LETTERS[choice]
    sentences = [claim]
    if rng.random() < 0.15:  # some ramble
        sentences.append(f"{LETTERS[(choice + 1) % len(row['options'])]} is not right.")
    if rng.random() < 0.7:
        sentences.append(rng.choice(CONCLUSIONS).format(letter=letter))
    names, shares = list(LAYOUTS), [share for share, _ in LAYOUTS.values()]
    layout = LAYOUTS[rng.choices(names, shares)[0]][1]
    return layout.format(think=" ".join(sentences), letter=letter, next=row["question"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, default=Path("data/bank/documents.jsonl"))
    args = parser.parse_args()
    write_documents(args.out, args.count, args.seed)
