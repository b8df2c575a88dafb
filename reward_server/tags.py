"""What the verdict takes for a tag, for a special token and for a blank."""

import re

ANSWER_OPEN = "<answer>"
FORMAT = ["<think>", "</think>", ANSWER_OPEN, "</answer>"]
"""The four tags, once each, in this order. Other spellings (`<Think>`, `<think >`, `<answer id=1>`) are text."""

TAG = re.compile(r"(</?(?:think|answer)>)")
"""Splitting by it is one linear scan; text and tags alternate, beginning and ending with text."""

SPECIAL_TOKENS = (
    *(
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|end|>",
        "<|pad|>",
    ),
    *("</s>", "<s>", "<pad>", "<eos>", "<bos>", "<end_of_turn>", "[PAD]", "<unk>"),
)
"""End-of-text and padding tokens of the usual tokenizers (Qwen, Llama, Mistral, Gemma, GPT-2), which OpenRLHF leaves in
the decoded response. After `</answer>` they are not text, and a body of nothing else is blank."""


def _chars(*ranges: tuple[int, int]) -> str:
    return "".join(chr(code) for first, last in ranges for code in range(first, last + 1))


BLANK = "".join(char for char in map(chr, range(0x3001)) if char.isspace()) + _chars(
    *(
        (0x00, 0x08),
        (0x0E, 0x1B),
        (0x7F, 0x84),
        (0x86, 0x9F),
    ),  # control characters that are not white space
    *(
        (0xAD, 0xAD),
        (0x34F, 0x34F),
        (0x61C, 0x61C),
        (0x180B, 0x180F),
        (0x200B, 0x200F),
        (0x202A, 0x202E),
    ),
    *(
        (0x2060, 0x206F),
        (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF),
        (0xFFF9, 0xFFFB),
    ),  # format characters, zero width
    *(
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x2800, 0x2800),
        (0x3164, 0x3164),
        (0xFFA0, 0xFFA0),
    ),  # empty letters
    *(
        (0xE0001, 0xE0001),
        (0xE0020, 0xE007F),
        (0xE0100, 0xE01EF),
    ),  # language tags, variation selectors
)
"""White space and every character that shows nothing: a body of these alone is blank."""


def drop_special_tokens(text: str) -> str:
    """`text` with every special token replaced by a line break, so that what stood apart does not run together."""
    if "<" in text or "[" in text:
        for token in SPECIAL_TOKENS:
            text = text.replace(token, "\n")
    return text


def is_blank(body: str) -> bool:
    """Whether nothing in `body` can be seen: white space, invisible characters and special tokens only."""
    text = body.strip(BLANK)
    return not text or not drop_special_tokens(text).strip(BLANK)
