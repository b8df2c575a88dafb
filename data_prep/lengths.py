"""Token lengths by the model's own tokenizer, and the limit on a prompt.

OpenRLHF cuts a prompt that is too long from the left and says so in a log line only; what is cut first is the
instruction. So rows over the limit are dropped here, by name. The `tokenizers` library reads the model's
tokenizer.json as `transformers` does, and imports no torch.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from data_prep.errors import PrepError
from data_prep.hub import explain_errors

QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer: `path` as the user gave it, `sha256` of tokenizer.json."""

    path: str
    tokenizer: Tokenizer
    eos_token: str
    special_tokens: re.Pattern[str]
    sha256: str

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without any that the tokenizer would add of itself (OpenRLHF adds none either)."""
        return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def load_tokenizer(path: str, revision: str | None) -> ModelTokenizer:
    """The tokenizer of a model folder, or of a hub model where `revision` names its commit (40 hex digits).

    Raises PrepError where the folder or the tokenizer's files are missing or do not name an EOS token.
    """
    if Path(path).is_dir():
        file, config_file = Path(path) / "tokenizer.json", Path(path) / "tokenizer_config.json"
    elif revision is None:
        raise PrepError(
            f"model.path={path} is not a folder: give a model's folder, or a hub id together with "
            "model.revision=<its commit, 40 hex digits>"
        )
    else:
        file, config_file = download_tokenizer(path, revision)
    missing = [
        f"{needed} not found: model.path must hold the tokenizer that the model is trained with"
        for needed in (file, config_file)
        if not needed.is_file()
    ]
    if missing:
        raise PrepError(*missing)
    eos_token = json.loads(config_file.read_text(encoding="utf-8")).get("eos_token")
    if isinstance(eos_token, dict):  # older files give the token with its flags
        eos_token = eos_token.get("content")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if not isinstance(eos_token, str) or tokenizer.token_to_id(eos_token) is None:
        raise PrepError(f"{config_file}: eos_token {eos_token!r} is not a token of {file.name}; SFT targets need one")
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    pattern = re.compile("|".join(map(re.escape, {*special, eos_token})))
    return ModelTokenizer(path, tokenizer, eos_token, pattern, hashlib.sha256(file.read_bytes()).hexdigest())


def download_tokenizer(hub_id: str, revision: str) -> tuple[Path, Path]:
    """Fetches the two tokenizer files of a hub model, nothing else of it. Raises PrepError."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise PrepError(f"model.revision={revision} is not a commit: give the 40 hex digits, a branch may move")
    from huggingface_hub import hf_hub_download

    with explain_errors(hub_id, revision):
        names = ("tokenizer.json", "tokenizer_config.json")
        file, config_file = (Path(hf_hub_download(hub_id, name, revision=revision)) for name in names)
    return file, config_file


def measure_quantiles(counts: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles of token counts; empty for no counts."""
    if not counts:
        return {}
    ordered = sorted(counts)
    return {name: ordered[round(q * (len(ordered) - 1))] for name, q in QUANTILES.items()}
