"""A chat template like Qwen's, and model folders that have it: the laptop model's, as an instruct and a base model."""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = "<|im_start|>system\nYou are a model of the tests.<|im_end|>\n"
TEMPLATE = (
    "{%- if messages[0].role != 'system' %}\n"
    f"    {{{{- {SYSTEM!r} }}}}\n"
    "{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{% if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)
PREFIX, SUFFIX = f"{SYSTEM}<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
END, END_ID = "<|im_end|>", 2


def write_model(
    folder: Path, template: str | None = TEMPLATE, eos_token: str = END, stops: object = (2, 0)
) -> Path:
    """A copy of the laptop model whose tokenizer_config.json has the template. stops: of generation_config.json."""
    shutil.copytree(ROOT / "recipes" / "laptop_model", folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos_token,
        "pad_token": "<|endoftext|>",
    }
    config |= {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return folder


def write_base_model(folder: Path) -> Path:
    """As Qwen's base models are published: with a chat template, and stopping at <|endoftext|> alone."""
    return write_model(folder, eos_token="<|endoftext|>", stops=0)


def begin_with_bos(folder: Path, token: str = "<|im_start|>") -> Path:
    """Let a model's tokenizer begin every text with a token, as Llama's and Gemma's do."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    ids = {one["content"]: one["id"] for one in content["added_tokens"]}
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    pieces = [first, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]}},
    }
    path.write_text(json.dumps(content))
    name_bos(folder, token)
    return folder


def name_bos(folder: Path, token: str = "<|im_start|>", **settings: object) -> None:
    """Name a model's BOS in its tokenizer_config.json, which alone gives it to no text."""
    path = folder / "tokenizer_config.json"
    named = {"bos_token": token, **settings}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
