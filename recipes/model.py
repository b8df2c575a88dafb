"""The model of a recipe before it is fetched: its folder or its snapshot in the hub's cache, and its shape."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

REVISION = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


class Shape(NamedTuple):
    """What memory and cost follow from; the names of `model.shape`. tied: LM head and embedding are one matrix."""

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
        """Weights of all linear layers of the blocks, which LoRA on all-linear adapts (embedding and head excluded)."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """Weights of the whole model: linear layers, biases of q, k, v, norms, embedding, head (as Qwen2)."""
        biases = self.layers * self.head_dim * (self.heads + 2 * self.kv_heads)
        norms = (2 * self.layers + 1) * self.hidden
        return (
            self.linear_parameters
            + biases
            + norms
            + self.vocab * self.hidden * (1 if self.tied else 2)
        )

    @property
    def tensors(self) -> int:
        """Weights that a sync sends one by one: 12 a block in Qwen2, then embedding, last norm, head."""
        return 12 * self.layers + (2 if self.tied else 3)

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache for one token, in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def count_lora(self, rank: int) -> int:
        """Trained weights of LoRA with this rank on all linear layers of the blocks."""
        attention = 2 * (self.hidden + self.heads * self.head_dim) + 2 * (
            self.hidden + self.kv_heads * self.head_dim
        )
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))


def find_folder(cfg: Any) -> Path | None:
    """The model's folder: model.path itself, or the hub id's snapshot in the local cache; None where it is neither."""
    path = Path(str(cfg.model.path))
    if path.is_dir():
        return path
    if not HUB_ID.fullmatch(str(cfg.model.path)) or not REVISION.fullmatch(str(cfg.model.revision)):
        return None
    from huggingface_hub import constants

    # The cache's own layout, looked up rather than asked for: snapshot_download would want the network.
    name = "models--" + str(cfg.model.path).replace("/", "--")
    folder = Path(constants.HF_HUB_CACHE) / name / "snapshots" / str(cfg.model.revision)
    return (
        folder
        if (folder / "config.json").is_file() and list(folder.glob("*.safetensors"))
        else None
    )


def read_shape(cfg: Any) -> Shape | None:
    """The model's shape from its config.json, else from model.shape; None where neither is there."""
    folder = find_folder(cfg)
    if folder is None or not (folder / "config.json").is_file():
        return Shape(**cfg.model.shape) if cfg.model.shape else None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads", config["num_attention_heads"]),
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )
