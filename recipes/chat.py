"""Prompts in a chat template: the data fits the run and the model, and the model stops where the template ends a turn.

The template was rendered when the data was prepared (data_prep/chat.py); here its manifest and the model's files are
compared, so no tokenizer is loaded.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.model import find_folder


def find_problems(cfg: Any, method: str, manifest: dict[str, Any], prepare: str) -> Iterator[str]:
    """One line for each. prepare: the command that prepares this run's data; a model not here yet is not looked at."""
    folder = Path(cfg.data_dir) / cfg.data.name
    chat = manifest.get("chat")  # data from before there was the key has plain prompts
    if (chat is not None) != cfg.data.chat:
        plainly = "" if cfg.data.chat else " data.chat=false"
        yield (
            f"{folder} holds {'plain' if chat is None else 'chat'} prompts, but data.chat="
            f"{str(cfg.data.chat).lower()}: run `{prepare}{plainly}`"
        )
        return
    model = find_folder(cfg)
    if chat is None or model is None or not (model / "config.json").is_file():
        return
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    template = read_template(model, config)
    if template is None or hashlib.sha256(template.encode()).hexdigest() != chat["template_sha256"]:
        found = "has no chat template" if template is None else "has another chat template"
        yield (
            f"{folder} was prepared with the chat template of {manifest['tokenizer']['path']}, the tokenizer of "
            f"{cfg.model.path} {found}: run `{prepare} model.path={cfg.model.path}`"
        )
        return
    eos_token = config.get("eos_token")
    if isinstance(eos_token, dict):  # older files give the token with its flags
        eos_token = eos_token.get("content")
    end, end_id = chat["end_of_turn"], chat["end_of_turn_id"]
    # vLLM stops at the tokenizer's EOS and at these (SamplingParams.update_from_generation_config)
    file, stops = read_stop_ids(model)
    if end != eos_token and end_id not in stops:
        yield (
            f"the chat template of {cfg.model.path} ends a turn in {end} (token {end_id}), at which it does not stop "
            f"(eos_token {eos_token}; eos_token_id {stops} in {file}), so responses would run to their longest: take "
            f"an instruct model, or set eos_token_id to {[*stops, end_id]} in a copy's generation_config.json"
        )
    elif (
        end != eos_token and method == "sft"
    ):  # sft_dataset.py:176 and :195 put the tokenizer's EOS at the end
        yield (
            f"SFT ends each response in the tokenizer's eos_token {eos_token}, but the chat template of "
            f"{cfg.model.path} ends a turn in {end}: set eos_token to {end} in a copy's tokenizer_config.json, and "
            f"run `{prepare} model.path=COPY`"
        )


def read_template(model: Path, config: dict[str, Any]) -> str | None:
    """The text of the chat template, found as data_prep/lengths.py finds it; None without one."""
    if (model / "chat_template.jinja").is_file():
        return (model / "chat_template.jinja").read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def read_stop_ids(model: Path) -> tuple[str, list[int]]:
    """The file that vLLM takes eos_token_id from, and its ids: config.json only without a generation_config.json."""
    name = (
        "generation_config.json" if (model / "generation_config.json").is_file() else "config.json"
    )
    ids = json.loads((model / name).read_text(encoding="utf-8")).get("eos_token_id")
    return name, [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
