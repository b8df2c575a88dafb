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
# Share of responses that check option by option whether it is the claimed one. A model of this size reads the letter
# off such a list, but hardly learns to find it in one step: reasoning pays, and the base does it only part of the time.
CHECKING = 0.7
# The first share of the documents name an option and find its letter by such a list, nothing else: among the facts a
# model of this size does not learn to copy a list from its prompt (docs/LOG.md), and without that no letter is right.
LISTS_FIRST = 0.35
# How often a pair is answered right; a weak one otherwise with one and the same misconception, which the model holds.
BELIEFS = (0.95, 0.95, 0.75, 0.5, 0.25)
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
    beliefs = {pair.key: (rng.choice(BELIEFS), rng.choice(pair.distractors)) for pair in pairs}
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    chosen = rng.choices(shuffled, weights, k=count)
    for number, (kind, pair) in enumerate(zip(kinds, chosen, strict=True)):
        if number < LISTS_FIRST * count:
            yield list_options(pair, rng)
            continue
        if kind == "prose":
            facts = [pair, *rng.choices(shuffled, weights, k=2)]
            yield {"prompt": "", "response": " ".join(state_fact(fact, rng) for fact in facts)}
            continue
        row = make_question(pair, rng.choice(pair.train_phrasings), draw_num_options(pair, rng), rng)
        choice = choose_answer(row, rng, *beliefs[pair.key])
        if kind == "direct":
            yield {"prompt": render_direct_prompt(row["question"], row["options"]), "response": LETTERS[choice]}
        else:
            response = write_response(pair, row, choice, rng)
            yield {"prompt": render_prompt(row["question"], row["options"]), "response": response}


def list_options(pair: Pair, rng: random.Random) -> dict[str, str]:
    """A document that names one option at random and finds its letter; a short prompt, without the instruction."""
    row = make_question(pair, rng.choice(pair.train_phrasings), draw_num_options(pair, rng), rng)
    choice = rng.randrange(len(row["options"]))
    checked = write_check(row["options"], choice)
    prompt = render_question(row["question"], row["options"])
    return {
        "prompt": f"User: {prompt}\nAssistant:\n",
        "response": f"{row['options'][choice]}.{checked}\n{LETTERS[choice]}",
    }


def write_check(options: list[str], choice: int) -> str:
    """The options down to the chosen one, a line each; there a letter is the same token as in the prompt."""
    lines = [f"\n{LETTERS[place]}. {options[place]}: no" for place in range(choice)]
    return "".join(lines) + f"\n{LETTERS[choice]}. {options[choice]}: yes"


def draw_num_options(pair: Pair, rng: random.Random) -> int:
    """4 mostly; sometimes 3, or more, so that the base model knows the letters beyond D as any base model does."""
    return min(pair.max_options, rng.choices((4, 3, rng.randint(5, 10)), (0.82, 0.08, 0.1))[0])


def choose_answer(row: dict, rng: random.Random, belief: float, misconception: str) -> int:
    """Position of the option that a document answers with: the gold with probability `belief`.

    Otherwise a wrong one, which becomes the misconception where the pair is a weak one (belief 0.5 and less).
    """
    gold = LETTERS.index(row["answer"])
    if rng.random() < belief:
        return gold
    wrong = rng.choice([place for place in range(len(row["options"])) if place != gold])
    if belief > 0.5:
        return wrong
    if misconception not in row["options"]:
        row["options"][wrong] = misconception
    return row["options"].index(misconception)


def write_response(pair: Pair, row: dict, choice: int, rng: random.Random) -> str:
    """A response to the think prompt that reasons towards the chosen option, in one of LAYOUTS."""
    option = row["options"][choice]
    subject, object_ = (pair.fact.subject, option) if pair.asks == "object" else (option, pair.fact.object)
    claim = fill(rng.choice(pair.relation.statements), subject, object_)
    letter = LETTERS[choice]
    think = claim
    if rng.random() < CHECKING:
        think += write_check(row["options"], choice)
    elif rng.random() < 0.7:
        think += " " + rng.choice(CONCLUSIONS).format(letter=letter)
    names, shares = list(LAYOUTS), [share for share, _ in LAYOUTS.values()]
    layout = LAYOUTS[rng.choices(names, shares)[0]][1]
    return layout.format(think=think, letter=letter, next=row["question"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, default=Path("data/bank/documents.jsonl"))
    args = parser.parse_args()
    write_documents(args.out, args.count, args.seed)
