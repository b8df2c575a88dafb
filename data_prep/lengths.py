"""Token lengths by the model's own tokenizer, and the limit on a prompt.

OpenRLHF cuts a prompt that is too long from the left and says so in a log line only; what is cut first is the
instruction. So rows over the limit are dropped here, by name. The `tokenizers` library reads the model's
tokenizer.json as `transformers` does, and imports no torch.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data_prep.chat import Chat, find_chat
from data_prep.errors import UserError
from data_prep.hub import explain_errors
from data_prep.prompt import ChatFrame

QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer: `path` as the user gave it, `sha256` of tokenizer.json, `chat` where it was asked for."""

    path: str
    tokenizer: Tokenizer
    eos_token: str
    special_tokens: re.Pattern[str]
    sha256: str
    chat: Chat | None

    @property
    def frame(self) -> ChatFrame | None:
        """What prompts are rendered in, None for plain ones."""
        return self.chat.frame if self.chat else None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without any that the tokenizer would add of itself (OpenRLHF adds none either)."""
        return [
            len(encoding)
            for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]


def load_tokenizer(path: str, revision: str | None, chat: bool) -> ModelTokenizer:
    """The tokenizer of a model folder, or of a hub model where `revision` names its commit (40 hex digits).

    Raises UserError where the folder or the tokenizer's files are missing or do not name an EOS token, and with `chat`
    where prompts cannot be rendered in its chat template.
    """
    if Path(path).is_dir():
        folder = Path(path)
    elif revision is None:
        raise UserError(
            f"model.path={path} is not a folder: give a model's folder, or a hub id together with "
            "model.revision=<its commit, 40 hex digits>"
        )
    else:
        folder = download_tokenizer(path, revision, chat)
    file, config_file = folder / "tokenizer.json", folder / CONFIG
    missing = [
        f"{needed} not found: model.path must hold the tokenizer that the model is trained with"
        for needed in (file, config_file)
        if not needed.is_file()
    ]
    if missing:
        raise UserError(*missing)
    config = json.loads(config_file.read_text(encoding="utf-8"))
    names = read_named_tokens(config)
    eos_token = names.get("eos_token")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if eos_token is None or tokenizer.token_to_id(eos_token) is None:
        raise UserError(
            f"{config_file}: eos_token {eos_token!r} is not a token of {file.name}; SFT targets need one"
        )
    special = [
        token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
    ]
    pattern = re.compile("|".join(map(re.escape, {*special, eos_token})))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    found = (
        find_chat(path, read_template(folder, config), names, tokenizer, pattern) if chat else None
    )
    return ModelTokenizer(path, tokenizer, eos_token, pattern, sha256, found)


def read_named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The tokens that tokenizer_config.json names: eos_token, bos_token and their like."""
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    # older files give a token with its flags
    texts = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in named.items()
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def read_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template, or None: the file before the key, as transformers reads them; of several, `default`."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def download_tokenizer(hub_id: str, revision: str, chat: bool) -> Path:
    """Fetches the tokenizer's files of a hub model, nothing else of it; returns their folder. Raises UserError."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(
            f"model.revision={revision} is not a commit: give the 40 hex digits, a branch may move"
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explain_errors(hub_id, revision):
        for name in ("tokenizer.json", CONFIG):
            file = Path(hf_hub_download(hub_id, name, revision=revision))
        # None: not known yet; else its path, or the mark that this commit has none, which needs no network again
        if chat and try_to_load_from_cache(hub_id, TEMPLATE, revision=revision) is None:
            with suppress(
                RemoteEntryNotFoundError
            ):  # most older models keep it in tokenizer_config.json
                hf_hub_download(hub_id, TEMPLATE, revision=revision)
    return file.parent


def measure_quantiles(counts: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles of token counts; empty for no counts."""
    if not counts:
        return {}
    ordered = sorted(counts)
    return {name: ordered[round(q * (len(ordered) - 1))] for name, q in QUANTILES.items()}
