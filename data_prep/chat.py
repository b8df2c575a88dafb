"""The chat template of a model's tokenizer, rendered once around a stand-in for the message.

So a prepared prompt is what `apply_chat_template(…, add_generation_prompt=True)` gives for one user message, the
template's own system message with it, while rendering a row stays joining strings. jinja2 is set up as transformers
does it (utils/chat_template_utils.py) without importing torch, but with no clock (`strftime_now`): a template that
writes today's date would make the same rows differ from day to day.
"""

import hashlib
import re
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from data_prep.errors import UserError
from data_prep.prompt import LETTERS, ChatFrame

MESSAGE, REPLY = "THE-MESSAGE-STANDS-HERE", "THE-REPLY-STANDS-HERE"
PROBES = ("<think>", *LETTERS)
"""How responses begin: PPO's, and each target of SFT."""


class Chat(NamedTuple):
    """What the manifest says of a chat template. end_of_turn: the special token that ends the assistant's turn."""

    prefix: str
    suffix: str
    end_of_turn: str
    end_of_turn_id: int
    template_sha256: str

    @property
    def frame(self) -> ChatFrame:
        """What prompts are rendered with."""
        return ChatFrame(self.prefix, self.suffix)


def find_chat(
    path: str,
    template: str | None,
    names: dict[str, str],
    tokenizer: Tokenizer,
    special_tokens: re.Pattern[str],
) -> Chat:
    """The frame and the end of turn of a template. path: of the model, for errors; names: `eos_token` and its like.

    Raises UserError where there is no template, or none that a prompt can be cut from.
    """
    if template is None:
        raise UserError(
            f"data.chat=true, but the tokenizer of model.path={path} has no chat template (chat_template.jinja, or "
            "chat_template in tokenizer_config.json): give an instruct model, or data.chat=false"
        )
    asked = {"role": "user", "content": MESSAGE}
    said = {"role": "assistant", "content": REPLY}
    prefix, suffix = cut_once(path, MESSAGE, render_template(path, template, names, [asked], True))
    _, after = cut_once(path, REPLY, render_template(path, template, names, [asked, said], False))
    if (
        "<think>" in suffix
    ):  # the reward sees the response alone, and would miss the tag in every one
        raise UserError(
            f"the chat template of model.path={path} writes <think> itself ({suffix!r}), and the reward wants it from "
            "the model: take it out of the template in a copy of the tokenizer's files, or give data.chat=false"
        )
    prompt = prefix + MESSAGE + suffix
    closed = suffix.endswith("\n") or re.search(f"(?:{special_tokens.pattern})\\Z", suffix)
    if not closed or not all(keeps_apart(tokenizer, prompt, response) for response in PROBES):
        raise UserError(
            f"the chat template of model.path={path} ends a prompt in {suffix[-20:]!r}, with which the first token of "
            "a response can merge: let it end in a line break in a copy of the tokenizer's files, or give "
            "data.chat=false"
        )
    end = special_tokens.match(after.lstrip())
    if end is None:
        raise UserError(
            f"the chat template of model.path={path} ends the assistant's turn in {after[:20]!r}, which is no special "
            "token: nothing would stop a response. Give an instruct model with an end-of-turn token, or data.chat=false"
        )
    digest = hashlib.sha256(template.encode()).hexdigest()
    return Chat(prefix, suffix, end[0], tokenizer.token_to_id(end[0]), digest)


def render_template(
    path: str,
    template: str,
    names: dict[str, str],
    messages: list[dict[str, str]],
    add_generation_prompt: bool,
) -> str:
    """The template's text for these messages. Raises UserError, with the template's own words, where it has none."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    values: dict[str, Any] = {
        **names,
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return environment.from_string(template).render(tools=None, documents=None, **values)
    except jinja2.TemplateError as error:
        raise UserError(
            f"the chat template of model.path={path} cannot be rendered ({type(error).__name__}: {error}): mend it in "
            "a copy of the tokenizer's files, or give data.chat=false"
        ) from error


def cut_once(path: str, stand_in: str, text: str) -> tuple[str, str]:
    """What stands before and after the stand-in. Raises UserError where it is not there exactly once."""
    if text.count(stand_in) != 1:
        raise UserError(
            f"the chat template of model.path={path} shows a message {text.count(stand_in)} times, not once: mend it "
            "in a copy of the tokenizer's files, or give data.chat=false"
        )
    before, _, after = text.partition(stand_in)
    return before, after


def keeps_apart(tokenizer: Tokenizer, prompt: str, response: str) -> bool:
    """Whether ids(prompt) + ids(response) == ids(prompt + response)."""
    ids = [
        tokenizer.encode(text, add_special_tokens=False).ids
        for text in (prompt, response, prompt + response)
    ]
    return bool(ids[0] + ids[1] == ids[2])
