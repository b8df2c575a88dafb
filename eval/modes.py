"""The ways to ask a question and to read the answer: think, direct, cot, loglikelihood.

Every mode has a strict and a lenient reading, which are reported side by side; the better of the two is never taken.

think          the trained format. strict: reward_server's verdict.
direct         the letter alone, as the SFT baseline was trained. strict: the response as a whole states one choice.
cot            free reasoning, then `Answer: X` on a last line. strict: that last line states one choice.
loglikelihood  nothing is generated: the letter to which the model gives the highest probability after the direct
               prompt, as in lm-evaluation-harness. Always a choice, so strict and lenient agree.
lenient        in the first three: the last choice clearly stated anywhere in the response.
"""

from typing import Any, NamedTuple

from data_prep.prompt import render_question
from reward_server.verifier import lenient_choice, read_choice, verify

MODES = ("think", "direct", "cot", "loglikelihood")

COT_INSTRUCTION = (
    "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
    "The Assistant first thinks step by step, then writes on a last line of its own: "
    "Answer: the letter of the one best option."
)

STOP: dict[str, list[str]] = {
    "think": [],  # PPO trains without stop strings, so what a model adds after </answer> counts here too
    "direct": ["\n\n", "\nUser:"],  # a base model goes on with a conversation of its own
    "cot": ["\nUser:"],
    "loglikelihood": [],
}


class Judgement(NamedTuple):
    """What a response says. choice, choice_lenient: a letter within the options, or None; never a guess."""

    format_ok: bool
    reason: str
    choice: str | None
    choice_lenient: str | None


def render(row: dict[str, Any], mode: str) -> str:
    """The prompt of a prepared row in this mode, exactly as the model sees it."""
    if mode == "think":
        return str(row["prompt"])
    if mode == "cot":
        return f"{COT_INSTRUCTION}\n\nUser: {render_question(row['question'], row['options'])}\nAssistant:\n"
    return str(row["direct_prompt"])


def judge(response: str, answer: str, num_options: int, mode: str) -> Judgement:
    """Reads a response strictly and leniently. Never raises for any text of a model."""
    if mode == "loglikelihood":
        return Judgement(True, "stated", response, response)
    lenient = lenient_choice(response, num_options)
    if mode == "think":
        verdict = verify(response, answer, num_options)
        return Judgement(verdict.format_ok, verdict.reason, verdict.choice, lenient)
    choice = read_choice(last_line(response) if mode == "cot" else response, num_options)
    return Judgement(choice.letter is not None, choice.reason, choice.letter, lenient)


def last_line(text: str) -> str:
    """The last line that is not blank; empty where there is none."""
    return text.rstrip().rpartition("\n")[2]
