"""The verdict: does a response follow the format, and is its choice right? Pure, stdlib only, total, linear time.

The rule, in mode `paper`: exactly one each of `<think>`, `</think>`, `<answer>`, `</answer>`, in this order, only white
space between `</think>` and `<answer>`, nothing after `</answer>` but white space and special tokens, both bodies
non-blank. Text before `<think>` is allowed, since the paper's fifth phase reasons there and is rewarded; mode `strict`
forbids it. Reward: -1 where the format is not followed, else 1 where the one stated choice is right, else 0.

docs/reward.md shows every case with its verdict; it is generated from the table that the tests check.
"""

import string
from typing import Literal, NamedTuple

from reward_server.choice import MAX_BODY, MAX_OPTIONS, Choice, lenient_choice, read_choice
from reward_server.tags import FORMAT, SPECIAL_TOKENS, TAG, drop_special_tokens, is_blank

__all__ = [
    "REASONS",
    "TAG",
    "Choice",
    "Mode",
    "Verdict",
    "leak",
    "lenient_choice",
    "read_choice",
    "verify",
]

Mode = Literal["paper", "strict"]
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
    "empty_think": "nothing to be seen inside `<think>`",
    "empty_answer": "nothing to be seen inside `<answer>`",
    "no_choice": "no option's letter in a shape that states a choice",
    "ambiguous": "two different letters, or a hedge",
    "denied": "the letter is denied",
    "out_of_range": "the letter of an option that does not exist",
    "wrong": "one choice, not the right one",
    "correct": "one choice, the right one",
}
"""Every `Verdict.reason` there is, with its meaning. The first ten mean that the format is not followed; of several
faults the first in this order is reported."""


class Verdict(NamedTuple):
    """What `verify` found.

    reward: -1.0, 0.0 or 1.0. correct implies format_ok. choice: the stated letter, None where the format is not
    followed or there is no single choice. reason: one of REASONS. think, pre_think: the text inside `<think>` and
    before it, as written; None where the four tags are not there once each and in order.
    """

    reward: float
    format_ok: bool
    correct: bool
    choice: str | None
    reason: str
    think: str | None
    pre_think: str | None


_LETTERS = frozenset(string.ascii_letters)
_VALID = frozenset(
    (chr(65 + index), num_options, mode)
    for mode in MODES
    for num_options in range(2, MAX_OPTIONS + 1)
    for index in range(num_options)
)
# Short cuts: a short response would spend half its time on building a Verdict and looking up names.
_new = tuple.__new__
_split = TAG.split


def verify(response: str, answer: str, num_options: int = 4, mode: str = "paper") -> Verdict:
    """Judge `response` (the generated text without its prompt, special tokens kept or not) against the gold letter.

    answer: a capital letter within `num_options` (2 to 26). mode: `paper` or `strict`.
    Raises ValueError for bad arguments, which are faults of the data; never for any text of a model.
    """
    if (answer, num_options, mode) not in _VALID:
        raise ValueError(check_arguments(answer, num_options, mode))
    match _split(response):
        case [
            pre_think,
            "<think>",
            think,
            "</think>",
            between,
            "<answer>",
            body,
            "</answer>",
            after,
        ]:
            pass
        case [_, *tags]:
            return Verdict(-1.0, False, False, None, _explain_tags(tags[::2]), None, None)
    if between and not between.isspace():
        reason = "text_between"
    elif after and after not in SPECIAL_TOKENS and drop_special_tokens(after).strip():
        reason = "text_after"
    elif mode == "strict" and pre_think and not pre_think.isspace():
        reason = "text_before"
    elif (think[1:2] if think[:1] == "\n" else think[:1]) not in _LETTERS and is_blank(
        think
    ):  # the first is cheap
        reason = "empty_think"
    else:
        letter, reason = read_choice(body, num_options)
        if letter == answer:
            return _new(Verdict, (1.0, True, True, letter, "correct", think, pre_think))
        if letter is not None:
            return _new(Verdict, (0.0, True, False, letter, "wrong", think, pre_think))
        if not is_blank(body):
            return Verdict(0.0, True, False, None, reason, think, pre_think)
        reason = "empty_answer"
    return Verdict(-1.0, False, False, None, reason, think, pre_think)


def leak(verdict: Verdict) -> float:
    """1.0 where the verdict's own choice is already stated before or at the very start of the reasoning, else 0.0.

    Looked at are the text before `<think>` (its last 4,000 characters) and the opening of `<think>`: its first
    sentence, and at least its first five words, within 400 characters. "Stated" is what `lenient_choice` reads of a
    capital letter. The paper's phases 4 and 5 show in it. 0.0 where there is no choice. An option's text without its
    letter is not seen: the verdict does not know the options.
    """
    if verdict.choice is None or verdict.think is None or verdict.pre_think is None:
        return 0.0
    spellings = (verdict.choice, chr(ord(verdict.choice) + 0xFEE0))  # full-width
    for place, cut in ((verdict.pre_think[-MAX_BODY:], str), (verdict.think[:400], _cut_opening)):
        # Reading a place is slow, so first: is the letter there at all?
        if (
            any(letter in place for letter in spellings)
            and lenient_choice(cut(place), MAX_OPTIONS) == verdict.choice
        ):
            return 1.0
    return 0.0


def _cut_opening(think: str) -> str:
    """The first sentence of `think`, and at least its first five words."""
    words = think.split()
    for count, word in enumerate(words, start=1):
        if count >= 5 and word[-1] in ".!?:;。":
            return " ".join(words[:count])
    return " ".join(words)


def _explain_tags(tags: list[str]) -> str:
    """The reason for tags, in the order found, that are not FORMAT."""
    if not tags:
        return "no_tags"
    think, think_end, answer, answer_end = (tags.count(tag) for tag in FORMAT)
    if max(think, think_end, answer, answer_end) > 1:
        return "repeated_tag"
    if think > think_end or answer > answer_end:
        return "unclosed_tag"
    return "tag_order" if len(tags) == len(FORMAT) else "missing_tag"


def check_arguments(answer: str, num_options: int, mode: str = "paper") -> str | None:
    """What is wrong with these arguments of `verify`; None where nothing is."""
    if (answer, num_options, mode) in _VALID:
        return None
    if mode not in MODES:
        return f"mode {mode!r} is not one of {', '.join(MODES)}"
    if not 2 <= num_options <= MAX_OPTIONS:
        return f"num_options {num_options!r} is not within 2 to {MAX_OPTIONS}"
    return f"answer {answer!r} is not one capital letter from A to {chr(64 + num_options)} ({num_options} options)"
