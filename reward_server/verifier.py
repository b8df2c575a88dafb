"""Judge one response: is the format followed, and is the choice right?

Format, mode `paper`: exactly one each of `<think>`, `</think>`, `<answer>`, `</answer>`, in this
order, only white space between `</think>` and `<answer>`, nothing after `</answer>` but white space
and special tokens, both bodies non-blank. Text before `<think>` is allowed, since the paper's fifth
phase reasons there and is rewarded; mode `strict` forbids it. Answers: choice, text, number.py.

Pure, total on any text, linear time. docs/reward.md and docs/open_reward.md show every case.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from reward_server.choice import LETTERS, Choice, read_choice
from reward_server.tags import FORMAT, TAG, drop_special_tokens, is_blank

__all__ = ["MODES", "REASONS", "TAG", "Choice", "Verdict", "find_reader", "read_choice", "verify"]

Reader = Callable[[str], tuple[str | None, str]]  # body of an answer -> what it states, reason

MODES = ("paper", "strict")

REASONS = {
    "no_tags": "none of the four tags",
    "missing_tag": "an opening tag, or a pair of tags, is missing",
    "unclosed_tag": "an opening tag without its closing tag; a truncated response ends like this",
    "repeated_tag": "one of the tags twice or more, quoted ones too",
    "tag_order": "each tag once, but in another order, nested or overlapping",
    "text_between": "something other than white space between `</think>` and `<answer>`",
    "text_after": "something other than white space and special tokens after `</answer>`",
    "text_before": "something other than white space before `<think>`; in mode `strict` only",
    "empty_think": "nothing visible inside `<think>`",
    "empty_answer": "nothing visible inside `<answer>`",
    "no_choice": "none of the three forms that state a choice",
    "ambiguous": "a letter with the text of another option",
    "out_of_range": "the letter of an option that does not exist",
    "no_answer": "of an open answer: nothing but punctuation",
    "too_long": "longer than any answer: a list or an explanation",
    "several": "more than one answer, or more than one number",
    "no_number": "no number, or one beyond all measure",
    "range": "a range or an inequality",
    "date": "a date or a time of day",
    "unknown_unit": "behind the number is no unit of the table",
    "wrong_unit": "the unit of another quantity",
    "wrong": "one choice or answer, not the right one",
    "correct": "one choice or answer, the right one",
}
"""Every `Verdict.reason`. The first ten: the format is not followed; the first one counts."""


class Verdict(NamedTuple):
    """Hold what `verify` found. reward: -1.0, 0.0 or 1.0. correct implies format_ok.

    choice: the letter, None without format or a single choice. reason: one of REASONS. think,
    pre_think: the text inside and before `<think>`; None without the four tags in order.
    """

    reward: float
    format_ok: bool
    correct: bool
    choice: str | None
    reason: str
    think: str | None
    pre_think: str | None


def verify(response: str, answer: str, options: Sequence[str], mode: str = "paper") -> Verdict:
    """Judge `response`, the generated text without its prompt. answer: the gold letter.

    options: texts of the 2 to 26 options. Raises ValueError for bad arguments, never for a text.
    """
    if fault := check_arguments(answer, options, mode):
        raise ValueError(fault)
    return verify_open(response, lambda body: read_choice(body, options), answer, mode)


def find_reader(label: Mapping[str, Any]) -> Reader:
    """Find what reads an open answer, by the row's label: its accepted forms, or its number."""
    # their tables are YAML, and the verdict on a choice needs nothing but the standard library
    from reward_server.number import Target, read_number
    from reward_server.text import read_text

    if label["kind"] == "text":
        return lambda body: read_text(body, label["references"])
    lower, upper = label["tolerance"]
    target = Target(label["value"], lower, upper, label["unit"], label.get("substance"))
    return lambda body: read_number(body, target)


def verify_open(response: str, read: Reader, answer: str = "", mode: str = "paper") -> Verdict:
    """Judge `response` by what `read` finds in its answer.

    answer: what is right where `read` only says what is stated.
    """
    parts = TAG.split(response)  # text and tags in turn, beginning and ending with text
    texts, tags = parts[0::2], parts[1::2]
    if tags != FORMAT:
        return Verdict(-1.0, False, False, None, _explain_tags(tags), None, None)

    pre_think, think, between, body, after = texts
    faults = {  # of several, the first is reported
        "text_between": between.strip(),
        "text_after": drop_special_tokens(after).strip(),
        "text_before": mode == "strict" and pre_think.strip(),
        "empty_think": is_blank(think),
        "empty_answer": is_blank(body),
    }
    for reason, found in faults.items():
        if found:
            return Verdict(-1.0, False, False, None, reason, think, pre_think)

    choice, reason = read(body)
    if reason == "stated":
        reason = "correct" if choice == answer else "wrong"
    correct = reason == "correct"
    return Verdict(float(correct), True, correct, choice, reason, think, pre_think)


def check_arguments(answer: str, options: Sequence[str], mode: str = "paper") -> str | None:
    """Return what is wrong with these arguments of `verify`, None where nothing is."""
    count = len(options)
    if mode not in MODES:
        return f"mode {mode!r} is not one of {', '.join(MODES)}"
    if isinstance(options, str) or not 2 <= count <= len(LETTERS):
        return f"options {options!r:.200} are not 2 to {len(LETTERS)} texts"
    if len(answer) != 1 or answer not in LETTERS[:count]:
        last = LETTERS[count - 1]
        return f"answer {answer!r} is not one capital letter from A to {last} ({count} options)"
    return None


def _explain_tags(tags: list[str]) -> str:
    """Return the reason for tags, in the order found, that are not FORMAT."""
    if not tags:
        return "no_tags"
    think, think_end, answer, answer_end = (tags.count(tag) for tag in FORMAT)
    if max(think, think_end, answer, answer_end) > 1:
        return "repeated_tag"
    if think > think_end or answer > answer_end:
        return "unclosed_tag"
    return "tag_order" if len(tags) == len(FORMAT) else "missing_tag"
