"""Read the model of a recipe before the engine does, and fetch it at its pinned commit.

OpenRLHF takes no revision, so a hub model is downloaded before the engine starts.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.files import read_mapping

REVISION = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")  # Qwen/Qwen2.5-3B
AGAIN = "fetch the model again"
# Weights as safetensors only: .bin files are pickles, which run code when loaded.
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]


class Shape(NamedTuple):
    """Sizes that memory follows from, as in `model.shape`; tied: head and embedding are one."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def linear_parameters(self) -> int:
        """Count the weights of the blocks' linear layers, which LoRA on all-linear adapts."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """Count all weights: linear, biases of q, k, v, norms, embedding, head (as Qwen2)."""
        biases = self.layers * self.head_dim * (self.heads + 2 * self.kv_heads)
        norms = (2 * self.layers + 1) * self.hidden
        return self.linear_parameters + biases + norms + self.vocab * self.hidden * (2 - self.tied)

    @property
    def tensors(self) -> int:
        """Count the tensors of a weight sync: 12 a block in Qwen2, embedding, last norm, head."""
        return 12 * self.layers + 3 - self.tied

    @property
    def kv_bytes(self) -> int:
        """Compute the bytes of KV cache for one token, in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def count_lora(self, rank: int) -> int:
        """Count the trained weights of LoRA with this rank on all linear layers of the blocks."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + query) + 2 * (self.hidden + key)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))


def find_folder(cfg: Any) -> Path | None:
    """Find the model's folder: model.path itself, or the hub id's snapshot in the local cache."""
    name, revision = str(cfg.model.path), str(cfg.model.revision)
    if Path(name).is_dir():
        return Path(name)
    if not HUB_ID.fullmatch(name) or not REVISION.fullmatch(revision):
        return None
    from huggingface_hub import constants

    # The cache's own layout is looked up, since snapshot_download would want the network.
    cached = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    folder = cached / "snapshots" / revision
    whole = (folder / "config.json").is_file() and list(folder.glob("*.safetensors"))
    return folder if whole else None


def read_shape(cfg: Any) -> Shape | None:
    """Read the shape from config.json, else model.shape; None without either. Raises UserError."""
    folder = find_folder(cfg)
    is_here = folder is not None and (folder / "config.json").is_file()
    if not is_here and not cfg.model.shape:
        return None
    source, fix, config = "model.shape", "see recipes/configs/model/*.yaml", {}
    if is_here:
        source, fix = f"{folder}/config.json", AGAIN
        config = read_mapping(Path(source), fix)
    try:
        sizes = list_sizes(config) if is_here else dict(cfg.model.shape)
        for name, size in sizes.items():
            if name != "tied" and (type(size) is not int or not 0 < size < 2**31):
                raise ValueError(f"{name} is {size!r:.40}")
        return Shape(**sizes)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        said = f"has no sizes of a model that we know ({error})"
        raise UserError(f"{source} {said}: {fix}") from error


def list_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """List the sizes that config.json names. Raises KeyError, or what odd values lead to."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return {
        "layers": config["num_hidden_layers"],
        "hidden": hidden,
        "intermediate": config["intermediate_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads", heads),  # absent: no head is shared
        "head_dim": config.get("head_dim") or hidden // heads,
        "vocab": config["vocab_size"],
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def list_code(folder: Path) -> Iterator[str]:
    """List what would run as code in a model folder: *.py files, and `auto_map` in any JSON."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".py":
            yield name
        # the weights' index and the vocabulary are large and hold no settings
        elif path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
            with suppress(ValueError, RecursionError):  # no loader can read it either
                if "auto_map" in json.dumps(json.loads(path.read_text(encoding="utf-8"))):
                    yield f"auto_map in {name}"


def read_template(folder: Path) -> tuple[str | None, str | None]:
    """Read the chat template, found as transformers finds it, and the end-of-sequence token."""
    path, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = read_mapping(path, AGAIN) if path.is_file() else {}
    template, token = config.get("chat_template"), config.get("eos_token")
    if own.is_file():
        template = own.read_text(encoding="utf-8")
    elif isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    # older files give the token's flags with it
    return template, token.get("content") if isinstance(token, dict) else token


def check_chat(
    folder: Path, name: str, method: str, manifest: dict[str, Any], prepare: str
) -> Iterator[str]:
    """Check that the model has the prepared prompts' chat template and stops where a turn ends.

    The manifest and the model's files are compared, so no tokenizer is loaded. name: `model.path`;
    prepare: the command that prepares this run's data for this model.
    """
    chat, source = manifest["chat"], manifest["tokenizer"]["path"]
    template, eos_token = read_template(folder)
    if template is None or hashlib.sha256(template.encode()).hexdigest() != chat["template_sha256"]:
        yield (
            f"the data was prepared with the chat template of {source}, the tokenizer of {name} "
            f"has {'no' if template is None else 'another'} chat template: run `{prepare}`"
        )
        return
    # vLLM stops at the tokenizer's EOS and at these (SamplingParams.update_from_generation_config)
    files = ("generation_config.json", "config.json")
    file = next(file for file in files if (folder / file).is_file())
    ids = read_mapping(folder / file, AGAIN).get("eos_token_id")
    stops = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    end, end_id = chat["end_of_turn"], chat["end_of_turn_id"]
    if end != eos_token and end_id not in stops:
        yield (
            f"the chat template of {name} ends a turn in {end} (token {end_id}), at which it does "
            f"not stop (eos_token {eos_token}; eos_token_id {stops} in {file}), so responses "
            "would run to their longest: take an instruct model, or set eos_token_id to "
            f"{[*stops, end_id]} in a copy's generation_config.json"
        )
    elif end != eos_token and method == "sft":
        # sft_dataset.py:176 and :195 put the tokenizer's EOS at the end
        yield (
            f"SFT ends each response in the tokenizer's eos_token {eos_token}, but the chat "
            f"template of {name} ends a turn in {end}: set eos_token to {end} in a copy's "
            f"tokenizer_config.json, and run `{prepare}` with model.path=COPY"
        )


def fetch_model(cfg: Any) -> Path:
    """Fetch `model.path` at `model.revision` from the hub or its cache. Raises UserError."""
    import httpx
    from huggingface_hub import errors, snapshot_download

    path, revision = cfg.model.path, cfg.model.revision
    name = f"model.path={path} at model.revision={revision}"
    offline = "the hub cannot be reached; give a local copy, model.path=FOLDER"
    # the more special classes first: RepositoryNotFoundError is an HfHubHTTPError
    advice: dict[type[Exception], str] = {
        errors.GatedRepoError: "is gated: accept its terms on its page and run `hf auth login`",
        errors.RevisionNotFoundError: "has no such commit: take one from the model's page",
        errors.RepositoryNotFoundError: "does not exist or is private: check it, `hf auth login`",
        errors.HFValidationError: "is no id of the hub: org/name",
        errors.LocalEntryNotFoundError: f"is not here and {offline}",
        httpx.TransportError: f"cannot be fetched: {offline}",
    }
    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=PATTERNS))
    except (errors.HfHubHTTPError, httpx.TransportError, OSError, ValueError) as error:
        known = [text for kind, text in advice.items() if isinstance(error, kind)]
        other = f"cannot be fetched: {error}. Run it again, a download resumes"
        raise UserError(f"{name} {[*known, other][0]}") from error
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{name} has no *.safetensors: convert its weights first, .bin files can run code"
        )
    return folder
