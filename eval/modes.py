"""The ways to ask a question and to read the answer: think, direct, cot, loglikelihood.

Every mode has a strict and a lenient reading, which are reported side by side; the better of the two is never taken.

think          the trained format. strict: reward_server's verdict.
direct         the letter alone, as the SFT baseline was trained. strict: the response as a whole states one choice.
cot            free reasoning, then `Answer: X` on a last line. strict: that line announces and states one choice.
loglikelihood  nothing is generated: the letter to which the model gives the highest probability after the direct
               prompt, as in lm-evaluation-harness. Always a choice, so strict and lenient agree.
lenient        in the first three: the last choice clearly stated anywhere in the response.
"""

import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from data_prep.prompt import ChatFrame, Instruction, render_instruction
from reward_server.verifier import lenient_choice, read_choice, verify

MODES = ("think", "direct", "cot", "loglikelihood")

COT = Instruction(
    plain="A conversation between User and Assistant. The User asks a multiple-choice medical question. "
    "The Assistant first thinks step by step, then writes on a last line of its own: "
    "Answer: the letter of the one best option.",
    chat="Answer the multiple-choice medical question below. First think step by step, "
    "then write on a last line of its own: Answer: the letter of the one best option.",
)

STOP: dict[str, list[str]] = {
    "think": [],  # PPO trains without stop strings, so what a model adds after </answer> counts here too
    "direct": ["\n\n", "\nUser:"],  # a base model goes on with a conversation of its own
    "cot": ["\nUser:"],
    "loglikelihood": [],
}

ANNOUNCES = re.compile(
    r"[\W_]*(?:(?:so|thus|therefore|hence),? )?(?:the |my )?(?:final |correct |best )?answer\b",
    re.I,
)
"""How the last line of mode cot begins."""


class Judgement(NamedTuple):
    """What a response says. choice, choice_lenient: a letter within the options, or None; never a guess."""

    format_ok: bool
    reason: str
    choice: str | None
    choice_lenient: str | None
    choice_published: str | None = None


def split_mode(mode: str) -> tuple[str, int]:
    """Split `cot@5` into its mode and its number of examples. Raises ValueError."""
    if mode not in MODES:
        raise ValueError(f"{mode!r} is not one of {', '.join(MODES)}")
    return mode, 0


def has_published(mode: str, datasource: str) -> bool:
    """Say if a benchmark's own rules read this mode too."""
    return False


def get_stop(mode: str) -> list[str]:
    """Strings at which an answer ends."""
    return STOP[split_mode(mode)[0]]


def draw_examples(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw the examples of a few-shot mode."""
    return random.Random(seed).sample(rows, count)


def render(
    row: dict[str, Any], mode: str, frame: ChatFrame | None = None, examples: Sequence[Any] = ()
) -> str:
    """The prompt of a prepared row in this mode, exactly as the model sees it. frame: that of the row's own prompts."""
    if mode == "think":
        return str(row["prompt"])
    if mode == "cot":
        return render_instruction(COT, row["question"], row["options"], frame)
    return str(row["direct_prompt"])


def judge(
    response: str, answer: str, options: Sequence[str], mode: str, datasource: str = ""
) -> Judgement:
    """Reads a response strictly and leniently. Never raises for any text of a model."""
    num_options = len(options)
    if mode == "loglikelihood":
        return Judgement(True, "stated", response, response)
    lenient = lenient_choice(response, num_options)
    if mode == "think":
        verdict = verify(response, answer, num_options)
        return Judgement(verdict.format_ok, verdict.reason, verdict.choice, lenient)
    if mode == "cot":
        line = response.rstrip().rpartition("\n")[2]
        if not ANNOUNCES.match(line):  # else the last line of a list of options would be a choice
            return Judgement(False, "no_answer_line", None, lenient)
        response = line
    choice = read_choice(response, num_options)
    return Judgement(choice.letter is not None, choice.reason, choice.letter, lenient)
