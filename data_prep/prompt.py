"""THE prompt: the one place that turns a question and its options into the text a model sees.

PPO, SFT and evaluation all use these strings as they are (OpenRLHF gets no template), so that a model is never
trained on one wording and tested on another.

Without a frame the prompt is plain text: a base model does not stop at `<|im_end|>` (QwenLM/Qwen3#927). With one
(`data.chat=true`) it is a user's message in the model's own chat template, see data_prep/chat.py. Every prompt ends in
a newline, or in a special token of a frame, and never in a space, since a trailing space would merge with the first
token of the response and PPO, which tokenises the prompt alone, would train on other ids than it sampled
(OpenRLHF#705); tests/test_prompt.py and tests/test_chat.py lock this.
"""

from string import ascii_uppercase
from typing import NamedTuple

PROMPT_VERSION = 1
"""Goes into every manifest and result. Raise it with any change of wording: scores are then not comparable."""

LETTERS = ascii_uppercase
MAX_OPTIONS = len(LETTERS)


class ChatFrame(NamedTuple):
    """What a model's chat template puts before a user's message, and after it up to where the response begins."""

    prefix: str
    suffix: str


class Instruction(NamedTuple):
    """One task in two wordings. plain: describes a conversation to a base model; chat: is said to a chat model."""

    plain: str
    chat: str


THINK = Instruction(
    plain="A conversation between User and Assistant. The User asks a multiple-choice medical question. "
    "The Assistant first thinks about it inside <think> </think> tags, "
    "then gives the letter of the one best option inside <answer> </answer> tags.",
    chat="Answer the multiple-choice medical question below. "
    "First think about it inside <think> </think> tags, "
    "then give the letter of the one best option inside <answer> </answer> tags.",
)
DIRECT = Instruction(
    plain="A conversation between User and Assistant. The User asks a multiple-choice medical question. "
    "The Assistant gives the letter of the one best option.",
    chat="Answer the multiple-choice medical question below. Give the letter of the one best option and nothing else.",
)


def render_question(question: str, options: list[str]) -> str:
    """The question and its lettered options, one a line: `A. text`.

    Raises ValueError where there are fewer than 2 or more than 26 options.
    """
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise ValueError(f"a question needs 2 to {MAX_OPTIONS} options, got {len(options)}")
    return "\n".join(
        [question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))]
    )


def render_instruction(
    instruction: Instruction, question: str, options: list[str], frame: ChatFrame | None
) -> str:
    """The prompt of any instruction: in the frame of a chat template, or plain where there is none."""
    asked = render_question(question, options)
    if frame is None:
        return f"{instruction.plain}\n\nUser: {asked}\nAssistant:\n"
    return f"{frame.prefix}{instruction.chat}\n\n{asked}{frame.suffix}"


def render_prompt(question: str, options: list[str], frame: ChatFrame | None = None) -> str:
    """The *think* prompt of PPO and of evaluation: the model is to reason, then answer, each inside its tags."""
    return render_instruction(THINK, question, options, frame)


def render_direct_prompt(question: str, options: list[str], frame: ChatFrame | None = None) -> str:
    """The *direct* prompt of the SFT baseline: the response is the letter alone."""
    return render_instruction(DIRECT, question, options, frame)
