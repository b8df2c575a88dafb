"""Ask in a mode (think, direct, cot, loglikelihood) and read the answer strictly and leniently.

Each mode has a strict and a lenient reading; both are reported, never the better of the two.

think          the trained format. strict: the reward's verdict on the whole response.
direct         the letter alone, as the SFT baseline was trained. strict: nothing but one choice.
cot            free reasoning, then `Answer: X` on a last line. strict: that line states one choice.
loglikelihood  nothing is generated: the letter that is most probable after the direct prompt.
               Always a choice, so strict and lenient agree.

`think@5`, `direct@5`, `cot@5` show 5 answered questions of dev first. Lenient is in all three the
choice that is clearly stated anywhere (eval/reading.py). What is behind the model's own answer, a
next question or turn that it made up, is never read; in think it also breaks the format, as in
training.

Open answers are asked in think and direct, a choice is then the answer's text. Lenient reads the
last line inside the last `<answer>`, or of a whole response without one.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.prompt import (
    DIRECT_RESPONSES,
    LETTERS,
    PLAIN,
    ChatFrame,
    Instruction,
    Template,
    render_instruction,
)
from eval.reading import cut_runaway, lenient_choice, mmlu_pro_choice
from reward_server.verifier import find_reader, read_choice, verify, verify_open

MODES = ("think", "direct", "cot", "loglikelihood")
NEED_OPTIONS = ("cot", "loglikelihood")
"""Modes that ask for a letter."""
PUBLISHED = ("mmlu_pro_health",)
"""Benchmarks whose own rules of reading an answer are a third column in mode cot."""

COT = Instruction(
    plain="A conversation between User and Assistant. "
    "The User asks a multiple-choice medical question. "
    "The Assistant first thinks step by step, then writes on a last line of its own: "
    "Answer: the letter of the one best option.",
    chat="Answer the multiple-choice medical question below. First think step by step, "
    "then write on a last line of its own: Answer: the letter of the one best option.",
)

_TURNS = ["\nUser:", "\nHuman:", "\nQuestion:"]
STOP: dict[str, list[str]] = {
    "think": [f"</answer>{gap}{turn}" for gap in ("", "\n") for turn in _TURNS[:2]],
    "direct": ["\n\n", *_TURNS],
    "cot": [*_TURNS, "<|im_start|>"],
    "loglikelihood": [],
}
"""Where generation ends, before a next turn; at most 4 strings: some endpoints refuse more.

PPO trains without them. In think each begins with `</answer>`: what follows breaks the format in
any case, and a server that drops the string leaves an unclosed `<answer>`, which fails too.
"""

ANNOUNCES = re.compile(
    r"[\W_]*(?:(?:so|thus|therefore|hence),? )?(?:the |my )?(?:final |correct |best )?answer\b",
    re.I,
)
"""Begins the last line of mode cot: "**Final answer:** C"."""


class Judgement(NamedTuple):
    """The reading of a response. choice, choice_lenient, choice_published: a letter, or None."""

    format_ok: bool
    reason: str
    choice: str | None
    choice_lenient: str | None
    choice_published: str | None = None


def split_mode(mode: str) -> tuple[str, int]:
    """Split `cot@5` into (`cot`, 5), `cot` into (`cot`, 0). Raises UserError if unknown."""
    name, at, count = mode.partition("@")
    few_shot = at and name != "loglikelihood" and re.fullmatch("[1-9][0-9]?", count)
    if name not in MODES or (at and not few_shot):
        known = f"{', '.join(MODES)}, think@5, direct@5, cot@5"
        raise UserError(f"modes: mode {mode!r} is not one of {known}")
    return name, int(count or 0)


def draw_examples(rows: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw `count` rows, the same for each model. Raises ValueError if there are too few."""
    if len(rows) < count:
        raise ValueError(f"{count} examples are asked for, and dev has {len(rows)} rows")

    def draw(row: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{seed}/{row['id']}".encode()).digest()

    return sorted(rows, key=draw)[:count]


def render(
    row: dict[str, Any],
    mode: str,
    frame: ChatFrame | None = None,
    examples: Sequence[dict[str, Any]] = (),
    template: Template = PLAIN,
) -> str:
    """Render the prompt of a prepared row in this mode, exactly as the model sees it.

    frame, template: those of the row's own prompts. examples: as many rows as the mode says,
    answered by their gold letters, after a neutral sentence where the mode wants reasoning: real
    data has none.
    """
    name, count = split_mode(mode)
    if len(examples) != count:
        raise ValueError(f"mode {mode} needs {count} examples, got {len(examples)}")
    prompt = str(row["prompt" if name == "think" else "direct_prompt"])
    if name == "cot":
        prompt = render_instruction(COT, row["question"], row["options"], frame, template)
    if not examples:
        return prompt
    # in a frame the examples are part of the one user's message
    prefix, suffix = frame or ("", "")
    gap = "\n" if frame else ""  # a plain prompt ends in a line break itself
    shown = prefix
    for example in examples:
        asked = render(example, name, frame, template=template)
        asked = asked.removeprefix(prefix).removesuffix(suffix)
        shown += f"{asked}{gap}{write_answer(example, name)}\n\n"
    return shown + prompt.removeprefix(prefix)


def write_answer(row: dict[str, Any], name: str) -> str:
    """Write the answer of an example in the format of its mode."""
    letter, options = str(row["answer"]), row["options"]
    gold = options[ord(letter) - 65] if options else letter
    reasoning = f"The {'option' if options else 'answer'} that fits the question best is: {gold}."
    if name == "think":
        return f"<think>{reasoning}</think>\n<answer>{letter}</answer>"
    return f"{reasoning}\nAnswer: {letter}" if name == "cot" else letter


def has_published(mode: str, datasource: str) -> bool:
    """Find out if the benchmark's own rules apply: mode cot on a benchmark of PUBLISHED."""
    return split_mode(mode)[0] == "cot" and datasource in PUBLISHED


def find_named(text: str, options: Sequence[str]) -> str | None:
    """Find the letter of SFT's other target, `So <option> <letter>.`, in exactly these words."""
    targets = {
        DIRECT_RESPONSES["named"].format(gold=option, answer=letter): letter
        for letter, option in zip(LETTERS, options, strict=False)
    }
    return targets.get(text.strip())


def judge(
    response: str, answer: str, options: Sequence[str], mode: str, datasource: str = ""
) -> Judgement:
    """Read a response strictly and leniently. Never raises for any text of a model.

    datasource: of the row; in mode cot those of PUBLISHED have choice_published.
    """
    name, _ = split_mode(mode)
    if name == "loglikelihood":
        return Judgement(True, "stated", response, response)
    lenient = lenient_choice(response, options)
    if name == "think":
        # The whole response: what follows </answer> is text_after in training, so it is here.
        verdict = verify(response, answer, options)
        return Judgement(verdict.format_ok, verdict.reason, verdict.choice, lenient)
    published = mmlu_pro_choice(response)[0] if has_published(mode, datasource) else None
    own = cut_runaway(response, options)
    if name == "cot":
        own = own.rstrip().rpartition("\n")[2]
        if not ANNOUNCES.match(own):  # else the last line of a list of options would be a choice
            return Judgement(False, "no_answer_line", None, lenient, published)
    elif named := find_named(own, options):
        return Judgement(True, "stated", named, named)
    choice = read_choice(own, options)
    return Judgement(choice.letter is not None, choice.reason, choice.letter, lenient, published)


def judge_open(response: str, label: dict[str, Any], mode: str) -> Judgement:
    """Read an open answer strictly and leniently. label: the row's, which says what is right."""
    read, own = find_reader(label), cut_runaway(response)
    inside = own.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    lenient, _ = read(inside.rpartition("\n")[2])
    if split_mode(mode)[0] == "think":
        verdict = verify_open(response, read)
        return Judgement(verdict.format_ok, verdict.reason, verdict.choice, lenient)
    answer, reason = read(own)
    return Judgement(answer is not None, reason, answer, lenient)
