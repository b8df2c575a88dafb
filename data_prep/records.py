"""Where rows come from: the bank, a local folder in the upstream's format, or the hub at a pinned revision."""

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, PrepError


@dataclass(frozen=True)
class Records:
    """Upstream records by split (a BadRow stands for a line that is no JSON), and `origin` for the manifest."""

    splits: dict[str, list[Any]]
    origin: dict[str, Any]


def read_records(data: DictConfig, seed: int) -> Records:
    """All records of the configured data set. Raises PrepError where they cannot be had."""
    licence = data.licence
    if data.source is not None:
        return Records(read_folder(Path(data.source), dict(data.files)), {"folder": data.source, "licence": licence})
    if data.hub.id is None:
        # The one source that needs no download: generated, so the seed is all there is to say about its origin.
        build_bank = importlib.import_module("data_prep.bank").build_bank
        return Records(build_bank(seed), {"generated_by": "data_prep/bank.py", "seed": seed, "licence": licence})
    origin = {"hub": data.hub.id, "config": data.hub.config, "revision": data.hub.revision, "licence": licence}
    return Records(read_hub(data), origin)


def read_folder(folder: Path, files: dict[str, str]) -> dict[str, list[Any]]:
    """Reads the upstream's files from a folder. Raises PrepError that names every missing file at once."""
    missing = [f"{folder / name} not found: data.source must hold {name}" for name in files.values()]
    missing = [line for line, name in zip(missing, files.values(), strict=True) if not (folder / name).is_file()]
    if missing:
        raise PrepError(*missing)
    return {split: list(read_jsonl(folder / name)) for split, name in files.items()}


def read_jsonl(path: Path) -> Iterator[Any]:
    """One record a line; a line that is no JSON becomes a BadRow, so that it is counted and listed as a drop."""
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
                yield BadRow("not_json", str(error)[:200])


def read_hub(data: DictConfig) -> dict[str, list[Any]]:
    """Loads the data set's splits from the hub at its pinned revision. Raises PrepError."""
    if not re.fullmatch(r"[0-9a-f]{40}", str(data.hub.revision)):
        raise PrepError(
            f"data.hub.revision={data.hub.revision} is not a commit of {data.hub.id}: give the 40 hex digits "
            "(the data set's page, Files, History), a branch may move"
        )
    from datasets import load_dataset

    splits = {}
    for split, hub_split in data.hub.splits.items():
        try:
            rows = load_dataset(data.hub.id, data.hub.config, split=hub_split, revision=data.hub.revision)
        except Exception as error:  # the library lets aiohttp, httpx, pyarrow and its own errors through alike
            raise PrepError(
                f"{data.hub.id} ({hub_split}) at {data.hub.revision} could not be loaded: {type(error).__name__}: "
                f"{error}. Check the network, or read a local copy: data.source=FOLDER"
            ) from error
        splits[split] = list(rows)
    return splits
