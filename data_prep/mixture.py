"""Mixtures: the rows of data sets that are prepared already, weighted, under one manifest.

Weights are proportions of the training rows: `data.weights=[1,3]` gives one row of the first part to three of the
second. No row is taken twice: the part that runs out first sets the size.
"""

import json
import random
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import hash_file
from data_prep.prepared import read_manifest


def read_parts(
    data_dir: Path, data: DictConfig, seed: int
) -> tuple[dict[str, list[tuple[str, Any]]], dict[str, Any]]:
    """Records by split, and for the manifest what each part gave. Raises UserError with every problem at once."""
    names, weights = list(data.parts_of_mixture), list(data.weights or [])
    if weights and (len(weights) != len(names) or not all(weight > 0 for weight in weights)):
        raise UserError(
            f"data.weights={weights} must be one positive number for each of data.parts_of_mixture={names}"
        )
    problems: list[str] = []
    rows: dict[str, dict[str, list[Any]]] = {}
    parts: dict[str, Any] = {}
    for name in names:
        try:
            manifest = read_manifest(data_dir / name)
            rows[name] = {
                Path(file).stem: read_rows(data_dir / name / file, facts["sha256"])
                for file, facts in manifest["files"].items()
            }
            parts[name] = {"origin": manifest["origin"], "files": manifest["files"]}
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    train = {name: splits["train"] for name, splits in rows.items() if "train" in splits}
    if weights:
        untrained = [
            f"data.parts_of_mixture: {name} has no training rows to weigh"
            for name in names
            if name not in train
        ]
        if untrained:
            raise UserError(*untrained)
        unit = min(len(train[name]) / weight for name, weight in zip(names, weights, strict=True))
        for name, weight in zip(names, weights, strict=True):
            train[name] = random.Random(f"{seed}/{name}").sample(train[name], round(unit * weight))
    mixed = [row for part in train.values() for row in part]
    random.Random(seed).shuffle(mixed)
    splits = {"train": mixed} if mixed else {}
    for split in ("dev", "test", "ood"):
        joined = [row for part in rows.values() for row in part.get(split, [])]
        if joined:
            splits[split] = joined
    for name, facts in parts.items():
        facts["train_rows_taken"] = len(train.get(name, []))
    return {
        split: [(str(n), row) for n, row in enumerate(joined)] for split, joined in splits.items()
    }, parts


def read_rows(path: Path, sha256: str) -> list[Any]:
    """The rows of a prepared file. Raises UserError where it is not the file that its manifest describes."""
    if not path.is_file() or hash_file(path) != sha256:
        raise UserError(
            f"{path} is not the file that its manifest describes: run `make prep data={path.parent.name}`"
        )
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
