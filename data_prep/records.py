"""Where rows come from: the bank, a mixture of prepared sets, local files in the upstream's format, or the hub.

A record is what the upstream stores for a row, read but not judged: `(number, content)`, where the number is unique in
its split and content is a BadRow if the line could not even be read.
"""

import csv
import importlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, UserError
from data_prep.hub import load_splits, resolve_revision
from data_prep.mixture import read_parts

Record = tuple[str, Any]
SPLITS = ("train", "dev", "test", "ood")


@dataclass(frozen=True)
class Records:
    """Upstream records by split, and for the manifest where they came from."""

    splits: dict[str, list[Record]]
    origin: dict[str, Any]


def read_records(cfg: DictConfig) -> Records:
    """All records of the configured data set. Raises UserError where they cannot be had."""
    data = cfg.data
    origin: dict[str, Any] = {"licence": data.licence}
    if data.parts_of_mixture:
        splits, parts = read_parts(Path(cfg.data_dir), data, cfg.seed)
        return Records(splits, {**origin, "mixture": parts})
    if data.generated:
        build_bank = importlib.import_module("dev.laptop.bank").build_bank
        bank = {
            split: [(str(n), row) for n, row in enumerate(rows)]
            for split, rows in build_bank(cfg.seed).items()
        }
        return Records(bank, {**origin, "generated_by": "dev/laptop/bank.py"})
    if data.source is not None:
        files = find_files(Path(data.source), data)
        splits = {split: read_files(named, data) for split, named in files.items()}
        if data.holdout:
            splits = hold_out(splits, data, cfg.seed)
        return Records(splits, {**origin, "source": str(data.source)})
    if data.hub.id is None:
        if data.reader == "native":
            raise UserError(
                "data=mix has no parts: name prepared data sets, as in make prep data=[medqa,medmcqa]"
            )
        needed = ", ".join(data.files.values()) or "train, dev or test files (or give one file)"
        raise UserError(
            f"data={data.name} is not on the hub: give data.source=FOLDER, a folder with {needed}"
        )
    revision = resolve_revision(data.hub.id, data.hub.revision)
    return Records(
        load_splits(data, revision),
        {**origin, "hub": data.hub.id, "revision": revision, "asked_revision": data.hub.revision},
    )


def find_files(source: Path, data: DictConfig) -> dict[str, list[tuple[str, Path]]]:
    """The files of each split as (part, path), part "" where a split is one file.

    `data.files` names them inside the folder, with `{part}` for each of `data.parts`. Where it names none (your own
    data), `source` is one file, which is the split `data.split`, or a folder with files named after their splits.
    Raises UserError that names every missing file at once.
    """
    if data.files:
        parts = list(data.parts) or [""]
        wanted = {split: name for split, name in data.files.items() if name is not None}
        found = {
            s: [(part, source / name.format(part=part)) for part in parts]
            for s, name in wanted.items()
        }
    elif source.is_dir():
        found = {
            s: [("", path) for path in sorted(source.glob(f"{s}.*")) if path.suffix in READERS]
            for s in SPLITS
        }
        found = {split: named for split, named in found.items() if named}
        double = [
            f"{source} holds several files for {s}: leave one"
            for s, named in found.items()
            if len(named) > 1
        ]
        if double or not found:
            kinds = ", ".join(READERS)
            raise UserError(
                *(
                    double
                    or [
                        f"{source} holds no train, dev, test or ood file ({kinds}); see data.source"
                    ]
                )
            )
    else:
        found = {data.split: [("", source)]}
        if source.suffix not in READERS:
            raise UserError(
                f"data.source={source}: cannot read {source.suffix!r}; give one of {', '.join(READERS)}"
            )
    missing = [path for named in found.values() for _, path in named if not path.is_file()]
    if missing:
        raise UserError(
            *(f"{path} not found; give the place of the files with data.source" for path in missing)
        )
    return found


def hold_out(
    splits: dict[str, list[Record]], data: DictConfig, seed: int
) -> dict[str, list[Record]]:
    """Sets rows of the one split aside as `data.holdout` says, each row by its own draw from seed and number."""
    sizes = {split: size for split, size in data.holdout.items() if size}
    if not sizes:
        return splits
    [(name, records)] = splits.items() if len(splits) == 1 else [("", [])]
    if name in {*sizes, ""} or sum(sizes.values()) >= len(records):
        raise UserError(
            f"data.holdout={sizes} needs one file with more rows than that (found {sorted(splits)}, {len(records)} "
            "rows): lower it, or give a folder with a file for each split"
        )
    drawn = sorted(records, key=lambda record: random.Random(f"{seed}/{record[0]}").random())
    result = {}
    for split, size in sizes.items():
        result[split], drawn = drawn[:size], drawn[size:]
    return {name: drawn, **result}


def read_files(named: list[tuple[str, Path]], data: DictConfig) -> list[Record]:
    """The records of one split, numbered from 0 in each file."""
    records: list[Record] = []
    for part, path in named:
        try:
            contents = list(READERS[path.suffix](path, data))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as {path.suffix[1:]}: {error}"[:500]) from error
        records.extend(
            (f"{part}-{number}" if part else str(number), row)
            for number, row in enumerate(contents)
        )
    return records


def read_jsonl(path: Path, data: DictConfig) -> Iterator[Any]:
    """One record a line; a line that is no JSON becomes a BadRow, so that it is counted and listed as a drop."""
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                yield parse_json(line.removeprefix(b"\xef\xbb\xbf"))


def read_json(path: Path, data: DictConfig) -> Iterator[Any]:
    """The items of one JSON list, or the values of one JSON object, each with its key as `_key`."""
    content = parse_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if isinstance(content, BadRow):
        raise ValueError(content.detail)
    if isinstance(content, list):
        yield from content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield {"_key": key, **value} if isinstance(value, dict) else value
    else:
        raise ValueError("neither a list nor an object of records")


def parse_json(text: bytes) -> Any:
    """The value, or a BadRow for text that is no JSON (too deeply nested, not UTF-8, a number of 5,000 digits)."""
    try:
        return json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return BadRow("not_json", str(error)[:200])


def read_csv(path: Path, data: DictConfig) -> Iterator[dict[str, Any]]:
    """CSV, every value as text; without a header where `data.csv_columns` names the columns."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines, fieldnames=list(data.csv_columns) or None, strict=True)


def read_parquet(path: Path, data: DictConfig) -> Iterator[dict[str, Any]]:
    """Parquet rows, a batch at a time."""
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(10_000):
        yield from batch.to_pylist()


READERS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}
