"""THE prompt: the one place that turns a question and its options into the text a model sees.

Its wording is in prompt.yaml; PPO, SFT and evaluation use these strings as they are. Our prompts
end in a newline or a chat's special token, never in a space: it would merge with the response's
first token, and PPO, which tokenises the prompt alone, would train on other ids than it sampled
(OpenRLHF#705).
"""

import hashlib
import re
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.files import read_mapping

PROMPT_VERSION = 1  # of manifests and results: raise it with any change of wording
LETTERS = ascii_uppercase
MAX_OPTIONS = len(LETTERS)
# What SFT is to write. A tiny model cannot say a letter before it has said the option.
DIRECT_RESPONSES = {"letter": "{answer}", "named": "So {gold} {answer}."}
CONVERSATION = "{instruction}\n\nUser: {asked}\nAssistant:\n"


class ChatFrame(NamedTuple):
    """Text of a chat template before a user's message, and after it up to the response."""

    prefix: str
    suffix: str


class Instruction(NamedTuple):
    """One task in two wordings: a conversation for a base model, a request to a chat model."""

    plain: str
    chat: str


class Template(NamedTuple):
    """A named way to ask. file, text: a user's own prompt, which replaces it in mode think."""

    name: str
    layout: str
    think: Instruction
    direct: Instruction
    file: str | None = None
    text: str | None = None

    @property
    def has_options(self) -> bool:
        """Find out if the layout lists options; without them the answer is open."""
        return "{options}" in self.layout

    def describe(self) -> dict[str, Any]:
        """Return name, file and SHA-256 of the think template, for manifests and results."""
        text = self.text or CONVERSATION.format(instruction=self.think.plain, asked=self.layout)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"name": self.name, "file": self.file, "sha256": digest}


TEMPLATES = {
    name: Template(
        name, facts["layout"], Instruction(**facts["think"]), Instruction(**facts["direct"])
    )
    for name, facts in read_mapping(Path(__file__).with_suffix(".yaml")).items()
}
PLAIN, PAPER, OPEN = TEMPLATES["plain"], TEMPLATES["paper"], TEMPLATES["open"]


def find_template(name: str, file: str | None = None) -> Template:
    """Find the template that `data.prompt` names, with its file's prompt. Raises UserError."""
    if name not in TEMPLATES:
        raise UserError(f"data.prompt.name={name} is not one of {', '.join(TEMPLATES)}")
    if file is None:
        return TEMPLATES[name]
    try:
        if not Path(file).is_file():  # /dev/zero has no end
            raise OSError("no such file")
        text = Path(file).read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.prompt.file={file} cannot be read as UTF-8 text: {error}") from error
    wanted = [key for key in ("{question}", "{options}") if key in TEMPLATES[name].layout]
    problems = [f"has no {key}" for key in wanted if key not in text]
    if re.search("[{}]", text.replace("{question}", "").replace("{options}", "")):
        problems.append("has braces other than those of {question} and {options}: take them out")
    if text.endswith((" ", "\t")):
        problems.append("ends in a blank, which would merge with the response: remove it")
    elif not text.endswith(("\n", "Assistant:")):
        problems.append(f"ends in {text[-10:]!r}: end it in a line break or in `Assistant:`")
    if problems:
        raise UserError(*(f"data.prompt.file={file} {problem}" for problem in problems))
    return TEMPLATES[name]._replace(file=Path(file).name, text=text)


def render_question(question: str, options: list[str], layout: str = PLAIN.layout) -> str:
    """Render the question and its 2 to 26 options, one a line: `A. text`. Raises ValueError."""
    if "{options}" in layout and not 2 <= len(options) <= MAX_OPTIONS:
        raise ValueError(f"a question needs 2 to {MAX_OPTIONS} options, got {len(options)}")
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    # format() does not look into the values: braces in a question stay as they are
    return layout.format(question=question, options="\n".join(lines))


def render_instruction(
    instruction: Instruction,
    question: str,
    options: list[str],
    frame: ChatFrame | None = None,
    template: Template = PLAIN,
) -> str:
    """Render any instruction over a question, in a chat's frame or plain."""
    asked = render_question(question, options, template.layout)
    if frame is None:
        return CONVERSATION.format(instruction=instruction.plain, asked=asked)
    return f"{frame.prefix}{instruction.chat}\n\n{asked}{frame.suffix}"


def render_prompt(
    question: str, options: list[str], frame: ChatFrame | None = None, template: Template = PLAIN
) -> str:
    """Render the *think* prompt of PPO and evaluation: reason, then answer, each in its tags."""
    if template.text is None:
        return render_instruction(template.think, question, options, frame, template)
    text = render_question(question, options, template.text)
    return text if frame is None else f"{frame.prefix}{text.rstrip()}{frame.suffix}"


def render_direct_prompt(
    question: str, options: list[str], frame: ChatFrame | None = None, template: Template = PLAIN
) -> str:
    """Render the *direct* prompt of the SFT baseline: the response is the letter alone."""
    return render_instruction(template.direct, question, options, frame, template)
