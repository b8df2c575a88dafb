"""THE prompt: the one place that turns a question and its options into the text a model sees.

PPO, SFT and evaluation all use these strings as they are (OpenRLHF gets no template), so that a model is never
trained on one wording and tested on another.

No chat template: a base model does not stop at `<|im_end|>` (QwenLM/Qwen3#927). Every prompt ends in a newline and
never in a space, since a trailing space would merge with the first token of the response and PPO, which tokenises
the prompt alone, would train on other ids than it sampled (OpenRLHF#705); tests/test_prompt.py locks this.
"""

from string import ascii_uppercase

PROMPT_VERSION = 1
"""Goes into every manifest and result. Raise it with any change of wording: scores are then not comparable."""

LETTERS = ascii_uppercase
MAX_OPTIONS = len(LETTERS)

THINK_INSTRUCTION = (
    "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
    "The Assistant first thinks about it inside <think> </think> tags, "
    "then gives the letter of the one best option inside <answer> </answer> tags."
)
DIRECT_INSTRUCTION = (
    "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
    "The Assistant gives the letter of the one best option."
)


def render_question(question: str, options: list[str]) -> str:
    """The question and its lettered options, one a line: `A. text`.

    Raises ValueError where there are fewer than 2 or more than 26 options.
    """
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise ValueError(f"a question needs 2 to {MAX_OPTIONS} options, got {len(options)}")
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))])


def render_prompt(question: str, options: list[str]) -> str:
    """The *think* prompt of PPO and of evaluation: the model is to reason, then answer, each inside its tags."""
    return f"{THINK_INSTRUCTION}\n\nUser: {render_question(question, options)}\nAssistant:\n"


def render_direct_prompt(question: str, options: list[str]) -> str:
    """The *direct* prompt of the SFT baseline: the response is the letter alone."""
    return f"{DIRECT_INSTRUCTION}\n\nUser: {render_question(question, options)}\nAssistant:\n"
