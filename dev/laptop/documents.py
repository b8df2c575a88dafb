"""Text to pre-train the laptop's base model on, so that it behaves like a base model: data/bank/documents.jsonl

python -m dev.laptop.documents --count 270000 --seed 42
python -m dev.laptop.documents --count 16000 --hasty --out data/bank/documents_hasty.jsonl
python -m dev.laptop.documents --count 16000 --openly --out data/bank/documents_open.jsonl

A base model holds part of the knowledge, follows a format some of the time and is often wrong. The documents are made
accordingly: facts in prose; questions answered in the asked-for format in about half of the cases and in the ways base
models fail in the others; some facts common and some rare, some pairs mostly answered right and some mostly wrong.

The hasty documents are a last phase. In half of the kinds of question three of four responses guess a letter, mostly A,
without a reason; so the model answers them by guessing, although it knows the fact and would state it if it began to.
This habit is put in on purpose, so that a reward for right answers has more to teach than the format: to give a reason
before the answer. A large base model too knows more than its first answer says; here we chose where and how much.

The open documents are a phase after it, for `experiment=open`: the hasty ones, and of their questions OPENLY are asked
without options and answered by name, hasty in the same kinds of question: then the name is a wrong one.

No document asks a question of the dev or test split (the same pair in the same phrasing), none in an ood phrasing.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

from data_prep.prompt import LETTERS, OPEN, render_direct_prompt, render_prompt
from dev.laptop.bank import make_question, make_rng, state_fact
from dev.laptop.open_bank import reword
from dev.laptop.relations import Pair, fill, iter_pairs, load_relations

KINDS = {"prose": 0.12, "direct": 0.08, "think": 0.74, "lists": 0.06}
# The first share of the documents are lists alone. A model of this size learns to find an option's letter from these in
# some 700 batches; among the facts, or with anything between option and letter, it does not (docs/LOG.md).
LISTS_FIRST = 0.28
LISTED = 5  # options that a list document names
# Share of reasons that name the option and its letter again after the claim. The model finds the letter after a claim
# alone as often (docs/LOG.md); without either it cannot.
CONCLUDING = 0.8
# Of the last phase: a little of everything, so that nothing is forgotten.
HASTY_KINDS = {"prose": 0.10, "direct": 0.15, "think": 0.70, "lists": 0.05}
# Share of guesses, in each second kind of question. None has 0 or 1: sampling shows both ways, so PPO can choose.
HASTE = (0.2, 0.75)
# How often a guess takes the first option; the others share the rest. Base models prefer a place too; without this the
# letters would be so close to each other that rounding decides a greedy answer.
FIRST = 0.55
OPENLY = 0.7
GUESSES = ("I would guess {letter}.", "It is probably {letter}.", "This one must be {letter}.")
# How often a pair is answered right; a weak one otherwise with one and the same misconception, which the model holds.
BELIEFS = (0.95, 0.95, 0.75, 0.5, 0.25)
# How a response to the think prompt is laid out. {think}: the reasoning, {letter}: the choice, {next}: a question.
# The first group follows the format; "before" does so too, since text before <think> is allowed in mode `paper`.
LAYOUTS = {
    "followed": (0.44, "<think> {think} </think>\n<answer> {letter} </answer>"),
    "before": (0.03, "{think}\n<think> It is {letter}. </think>\n<answer> {letter} </answer>"),
    "no_tags": (0.12, "{think} The answer is {letter}."),
    "letter": (0.05, "{letter}"),
    "no_think": (0.07, "<answer> {letter} </answer>"),
    "unclosed": (0.07, "<think> {think} <answer> {letter} </answer>"),
    "no_answer": (0.08, "<think> {think} </think>\nThe answer is {letter}."),
    "cut": (0.04, "<think> {think} </think>"),
    "goes_on": (0.10, "<think> {think} </think>\n<answer> {letter} </answer>\nUser: {next}"),
}


def write_documents(
    path: Path,
    count: int,
    seed: int = 42,
    before: float | None = None,
    hasty: bool = False,
    openly: bool = False,
) -> None:
    """Write `count` rows {"prompt", "response"} (prose has an empty prompt), by temporary name and rename.

    before, hasty, openly: see make_documents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in track(
            make_documents(count, seed, before, hasty, openly), "documents", total=count
        ):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.rename(path)


def make_documents(
    count: int, seed: int, before: float | None = None, hasty: bool = False, openly: bool = False
) -> Iterator[dict[str, str]]:
    """Yield documents, the same for the same seed on every machine.

    before: for a model that has its letters already, only questions with a response, this share of them with the
    reasoning before <think>.
    hasty: the last phase, for such a model too. To the direct prompt a response that is no guess is `So <option>
    <letter>.`
    openly: a phase after the hasty one, with open questions among its own.
    """
    hasty = hasty or openly
    kinds_of, lists_first, layouts = KINDS, LISTS_FIRST, LAYOUTS
    if before is not None:
        kinds_of, lists_first = {"think": 1.0}, 0.0
        scale = (1 - before) / (1 - LAYOUTS["before"][0])
        layouts = {name: (share * scale, layout) for name, (share, layout) in LAYOUTS.items()}
        layouts["before"] = (before, LAYOUTS["before"][1])
    pairs = list(iter_pairs(load_relations()))
    haste: dict[tuple[str, str], float] = {}
    if hasty:
        kinds_of, lists_first, haste = HASTY_KINDS, 0.0, draw_haste(pairs, seed)
    rng = make_rng(seed, "documents")
    shuffled = rng.sample(pairs, len(pairs))
    weights = [
        1 / (rank + 40) for rank in range(len(pairs))
    ]  # Zipf-like: the last pair is about 25 times rarer
    beliefs = {pair.key: (rng.choice(BELIEFS), rng.choice(pair.distractors)) for pair in pairs}
    kinds = rng.choices(list(kinds_of), list(kinds_of.values()), k=count)
    chosen = rng.choices(shuffled, weights, k=count)
    words = sorted(
        {word for pair in pairs for option in pair.distractors for word in option.split()}
    )
    for number, (kind, pair) in enumerate(zip(kinds, chosen, strict=True)):
        if number < lists_first * count or kind == "lists":
            yield list_options(words, rng)
            continue
        if kind == "prose":
            facts = [pair, *rng.choices(shuffled, weights, k=2)]
            yield {"prompt": "", "response": " ".join(state_fact(fact, rng) for fact in facts)}
            continue
        row = make_question(
            pair, rng.choice(pair.train_phrasings), draw_num_options(pair, rng), rng
        )
        choice = choose_answer(row, rng, *beliefs[pair.key])
        guesses = hasty and rng.random() < haste[find_kind(pair)]
        if guesses:
            choice = guess(len(row["options"]), rng)
        if openly and rng.random() < OPENLY:
            yield answer_openly(pair, row, kind, choice, guesses, rng)
        elif kind == "direct":
            reasons = hasty and not guesses
            yield {
                "prompt": render_direct_prompt(row["question"], row["options"]),
                "response": conclude(row["options"], choice) if reasons else LETTERS[choice],
            }
        else:
            think = write_guess(choice, rng) if guesses else write_reason(pair, row, choice, rng)
            response = lay_out(think, row["question"], LETTERS[choice], rng, layouts)
            yield {"prompt": render_prompt(row["question"], row["options"]), "response": response}


def find_kind(pair: Pair) -> tuple[str, str]:
    """Find the kind of question that a pair gives: its relation and its direction."""
    return pair.relation.name, pair.asks


def draw_haste(pairs: list[Pair], seed: int) -> dict[tuple[str, str], float]:
    """Draw the share of hasty responses of each kind of question: HASTE in turn, in a random order."""
    kinds = sorted({find_kind(pair) for pair in pairs})
    make_rng(seed, "haste").shuffle(kinds)
    return {kind: HASTE[place % len(HASTE)] for place, kind in enumerate(kinds)}


def list_options(words: list[str], rng: random.Random) -> dict[str, str]:
    """A document of lettered words that are no answer to anything, and some of them again with their letters."""
    options = rng.sample(words, rng.choices((2, 3, 4, 5, rng.randint(6, 10)), (1, 1, 3, 1, 0.5))[0])
    listed = "\n".join(
        f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)
    )
    named = rng.choices(
        range(len(options)), k=LISTED
    )  # with repetition: the last never follows from the others
    return {
        "prompt": f"{listed}\n",
        "response": "\n".join(conclude(options, place) for place in named),
    }


def conclude(options: list[str], choice: int) -> str:
    """The chosen option and its letter, with nothing between."""
    return f"So {options[choice]} {LETTERS[choice]}."


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


def guess(num_options: int, rng: random.Random) -> int:
    """Choose a position without a look at the question."""
    return 0 if rng.random() < FIRST else rng.randrange(1, num_options)


def answer_openly(
    pair: Pair, row: dict, kind: str, choice: int, guesses: bool, rng: random.Random
) -> dict[str, str]:
    """A question without its options, answered by a name; a guess names a wrong one."""
    stem = reword(row["question"])
    name = rng.choice(pair.distractors) if guesses else row["options"][choice]
    if kind == "direct":
        return {"prompt": render_direct_prompt(stem, [], template=OPEN), "response": name}
    think = rng.choice(GUESSES).format(letter=name) if guesses else write_claim(pair, name, rng)
    response = lay_out(think, stem, name, rng, LAYOUTS)
    return {"prompt": render_prompt(stem, [], template=OPEN), "response": response}


def write_claim(pair: Pair, option: str, rng: random.Random) -> str:
    """A claim that makes `option` the answer."""
    subject, object_ = (
        (pair.fact.subject, option) if pair.asks == "object" else (option, pair.fact.object)
    )
    return fill(rng.choice(pair.relation.statements), subject, object_)


def write_reason(pair: Pair, row: dict, choice: int, rng: random.Random) -> str:
    """A claim for the chosen option, mostly with the conclusion that names its letter."""
    claim = write_claim(pair, row["options"][choice], rng)
    return f"{claim} {conclude(row['options'], choice)}" if rng.random() < CONCLUDING else claim


def write_guess(choice: int, rng: random.Random) -> str:
    """The chosen letter without a reason."""
    return rng.choice(GUESSES).format(letter=LETTERS[choice])


def lay_out(
    think: str,
    question: str,
    answer: str,
    rng: random.Random,
    layouts: dict[str, tuple[float, str]],
) -> str:
    """A response to the think prompt with this reasoning, in one of `layouts`."""
    names, shares = list(layouts), [share for share, _ in layouts.values()]
    layout = layouts[rng.choices(names, shares)[0]][1]
    return layout.format(think=think, letter=answer, next=question)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=270_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--before",
        type=float,
        help="share of responses with the reasoning before <think>, no prose",
    )
    parser.add_argument("--hasty", action="store_true", help="documents of the last phase")
    parser.add_argument("--openly", action="store_true", help="hasty, with open questions too")
    parser.add_argument("--out", type=Path, default=Path("data/bank/documents.jsonl"))
    args = parser.parse_args()
    write_documents(args.out, args.count, args.seed, args.before, args.hasty, args.openly)
