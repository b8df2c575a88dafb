"""Tags, special tokens and blank characters."""

import re

FORMAT = ["<think>", "</think>", "<answer>", "</answer>"]
"""The four tags, once each, in this order. Other spellings (`<Think>`, `<think >`) are text."""

TAG = re.compile(r"(</?(?:think|answer)>)")
"""Splitting by it is one linear scan; text and tags alternate, beginning and ending with text."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|im_start|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|end|>",
    "<|pad|>",
    "</s>",
    "<s>",
    "<pad>",
    "<eos>",
    "<bos>",
    "<end_of_turn>",
    "[PAD]",
    "<unk>",
)
"""End-of-text and padding tokens of Qwen, Llama, Mistral, Gemma and GPT-2, which OpenRLHF leaves in
the decoded response. After `</answer>` they are not text, and a body of nothing else is blank."""

_UNSEEN = (
    r"\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are not white space
    r"\xad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e"  # format characters, zero width
    r"\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    r"\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # empty letters
    r"\U000e0001\U000e0020-\U000e007f\U000e0100-\U000e01ef"  # language tags, variation selectors
)
INVISIBLE = re.compile(f"[{_UNSEEN}]")
"""A character that shows nothing and is not white space, such as the zero-width space."""

VISIBLE = re.compile(rf"[^\s{_UNSEEN}]")


def drop_special_tokens(text: str) -> str:
    """Replace every special token by a line break: what it separated must not run together."""
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "\n")
    return text


def is_blank(body: str) -> bool:
    """Find out if `body` shows nothing: white space, invisible characters, special tokens only."""
    first = VISIBLE.search(body)
    if first is None or first[0] not in "<[":  # what begins a special token
        return first is None
    return VISIBLE.search(drop_special_tokens(body)) is None
