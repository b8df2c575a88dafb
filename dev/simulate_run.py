"""Write a run folder without training, whose rollouts go through given phases.

python -m dev.simulate_run --out runs/rlvr/simulated                      six phases, 20 steps each
python -m dev.simulate_run --out runs/rlvr/big --steps 1563 --words 300   100,000 rollouts

For tests, timing and a first look. The texts follow the descriptions of docs/dynamics.md and say
nothing true. Noise: a fraction of the rollouts is written in the manner of another phase, and every
change comes about over four steps.
"""

import argparse
import random
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.files import write_json, write_jsonl
from data_prep.prompt import LETTERS, render_prompt
from reward_server.signals import measure_signals
from reward_server.verifier import verify

RAMP = (0.1, 0.4, 0.7, 1.0)
"""Fraction of the new manner in the first steps of a change."""
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gra",
    "hy",
    "ka",
    "lo",
    "mi",
    "nal",
    "pe",
    "ro",
    "sta",
    "thi",
    "ul",
    "vor",
)


class Question(NamedTuple):
    """Hold a question with gold letter and four options."""

    id: str
    text: str
    options: list[str]
    answer: str


def make_words(rng: random.Random, count: int) -> list[str]:
    """Invent words, different from each other."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3))))] = None
    return list(words)


def make_questions(rng: random.Random, words: list[str], count: int, length: int) -> list[Question]:
    """Make questions of `length` words each, options included."""
    questions = []
    for number in range(count):
        options = rng.sample(words, 4)
        stem = " ".join(rng.sample(words, max(4, length - 4))).capitalize() + "?"
        gold = rng.choice(LETTERS[:4])
        questions.append(Question(f"simulated/train/{number}", stem, options, gold))
    return questions


def reason(rng: random.Random, words: list[str], count: int) -> str:
    """Write about `count` words of sentences; frequent words are frequent, as in any text."""
    text: list[str] = []
    while len(text) < count:
        length = rng.randint(6, 14)
        picks = [words[int(len(words) * rng.random() ** 3)] for _ in range(length)]
        text += [picks[0].capitalize(), *picks[1:-1], picks[-1] + "."]
    return " ".join(text[: max(1, count)]).rstrip(".") + "."


def write_response(
    rng: random.Random, phase: int, question: Question, words: list[str], length: int
) -> str:
    """Write a response in the manner of a phase; 0 is none of them. length: words of a question."""
    letter = question.answer
    if rng.random() >= (0.3, 0.3, 0.4, 0.45, 0.35, 0.55, 0.6)[phase]:
        letter = rng.choice([other for other in LETTERS[:4] if other != letter])
    option = question.options[LETTERS.index(letter)]

    def think(low: float, high: float) -> str:
        return f"{reason(rng, words, int(length * rng.uniform(low, high)))} So {option} {letter}."

    def follow(thinking: str) -> str:
        return f"<think> {thinking} </think>\n<answer> {letter} </answer>"

    # phase 1 mostly fails the format; in every other phase 2 in 100 still do
    if phase == 1 and rng.random() < 0.8:
        bare = [letter, f"The answer is {letter}.", f"<answer> {letter} </answer>"]
        return rng.choice([*bare, f"<think> {think(0.2, 0.4)} </think>"])
    if phase == 0 and rng.random() < 0.25:
        return f"<think> {think(0.2, 0.5)} </think>"
    if rng.random() < 0.02:
        return f"<think> {think(0.3, 0.6)} <answer> {letter} </answer>"
    if phase == 2:
        return follow(think(2.6, 4.2))
    if phase == 4:
        return follow(f"The answer is {letter}.")
    if phase == 5:
        return f"{think(0.8, 1.6)}\n{follow(f'It is {letter}.')}"
    return follow(think(0.45, 0.8))


def simulate_rollouts(
    schedule: list[int],
    per_step: int = 64,
    seed: int = 0,
    noise: float = 0.08,
    question_words: int = 20,
) -> tuple[list[dict[str, Any]], list[Question]]:
    """Simulate the rollouts of a run and its questions. schedule: the phase of each step."""
    rng = random.Random(seed)
    words = make_words(rng, 1500)
    questions = make_questions(rng, words, 2 * per_step, question_words)
    rows = []
    change, before = 0, schedule[0]
    for step, phase in enumerate(schedule, 1):
        if step > 1 and phase != schedule[step - 2]:
            change, before = step - 1, schedule[step - 2]
        place = step - change
        # a new phase comes in over some steps, in part of the responses
        share = RAMP[place] if change and place < len(RAMP) else 1.0
        for index in range(per_step):
            manner = phase if rng.random() < share else before
            if rng.random() < noise:
                manner = rng.randint(1, 6)
            question = questions[(step * per_step + index) % len(questions)]
            response = write_response(rng, manner, question, words, question_words)
            rows.append(make_row(question, response, step))
    return rows, questions


def make_row(question: Question, response: str, step: int) -> dict[str, Any]:
    """Make a row as the reward hook writes it; a token counts as three quarters of a word."""
    verdict = verify(response, question.answer, question.options)
    return {
        "id": question.id,
        "split": "train",
        "step": step,
        "episode": 1,
        "prompt_tokens": 60,
        "response_tokens": round(len(response.split()) / 0.75),
        "truncated": False,
        "temperature": 1.0,
        "response": response + "<|endoftext|>",
        "reward": verdict.reward,
        "format_ok": verdict.format_ok,
        "correct": verdict.correct,
        "choice": verdict.choice,
        "reason": verdict.reason,
        "time": 1e9 + step,
    }


def write_run(folder: Path, rows: list[dict[str, Any]], questions: list[Question]) -> None:
    """Write a run folder: rollouts, questions, the metrics that rollouts give, and run.json."""
    (folder / "rollouts").mkdir(parents=True)
    write_jsonl(folder / "rollouts" / "simulated-1.jsonl", rows)
    asked = [
        {
            "id": item.id,
            "question": item.text,
            "options": item.options,
            "answer": item.answer,
            "prompt": render_prompt(item.text, item.options),
        }
        for item in questions
    ]
    write_jsonl(folder / "train.jsonl", asked)
    # metrics of the first 64 rollouts of a step, however many were simulated
    known = {item.id: item for item in questions}
    metrics = [
        average_step(step, list(group)[:64], known)
        for step, group in groupby(rows, key=lambda row: row["step"])
    ]
    write_jsonl(folder / "metrics.jsonl", metrics)
    record = {
        "method": "ppo",
        "name": folder.name,
        "started": "simulated",
        "exit": 0,
        "total_steps": len(metrics),
    }
    write_json(folder / "run.json", record)


def average_step(
    step: int, sample: list[dict[str, Any]], questions: dict[str, Question]
) -> dict[str, Any]:
    """Average what the reward hook logs of a step's rollouts, as the engine does."""
    logged = []
    for row in sample:
        item = questions[row["id"]]
        verdict = verify(row["response"], item.answer, item.options)
        logged.append(
            {
                **measure_signals(row["response"], verdict, item.options),
                "accuracy": float(row["correct"]),
                "rollout/reward_mean": row["reward"],
                "response_length": row["response_tokens"],
            }
        )
    means = {key: sum(row[key] for row in logged) / len(logged) for key in logged[0]}
    fixed = {"time": 1e9 + step, "truncated": 0.0, "kl": 0.0005 * step, "vllm_kl": 1e-4}
    return {"kind": "train", "step": step, **fixed, **means}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--per-step", type=int, default=64)
    parser.add_argument("--words", type=int, default=20, help="of a question, the unit of lengths")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    phases = [1 + 6 * step // args.steps for step in range(args.steps)]
    made = simulate_rollouts(phases, args.per_step, args.seed, question_words=args.words)
    write_run(args.out, *made)
    print(f"{len(made[0]):,} rollouts of {args.steps} steps in {args.out}")
