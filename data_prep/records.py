"""Read rows from where they are: the hub, local files, or data sets that are prepared already.

A record is a row as the upstream stores it, not judged yet: `(number, content)`, the number unique
in its split, content a BadRow where the line could not even be read.
"""

import csv
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, UserError
from data_prep.hub import load_splits, resolve_revision
from data_prep.prepared import open_prepared

Record = tuple[str, Any]
SPLITS = ("train", "dev", "test", "ood")
ALIASES = {"validation": "dev", "valid": "dev", "val": "dev"}
MAX_ROW = 1_000_000  # characters of a row: a longer one fits no model, and costs 200 times its size
MAX_BATCH = 256  # rows of Parquet turned into Python objects at a time
MAX_GROUP = 2 * 1024**3  # bytes of a Parquet row group, which is decompressed as a whole
HELD_OUT = 500  # most rows that data.holdout.dev=auto takes, a tenth of them at that


@dataclass(frozen=True)
class Records:
    """Upstream records by split, and for the manifest where they came from and what to know."""

    splits: dict[str, list[Record]]
    origin: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


def read_records(cfg: DictConfig) -> Records:
    """Read all records of the configured data set. Raises UserError."""
    data = cfg.data
    origin: dict[str, Any] = {"licence": data.licence}
    if data.name == "mix" or data.parts_of_mixture:
        splits, parts = mix_parts(Path(cfg.data_dir), data, cfg.seed)
        return Records(splits, {**origin, "mixture": parts})
    if data.source is not None:
        files, remarks = find_files(Path(data.source), data)
        splits = {split: read_files(named, data) for split, named in files.items()}
        held_out = choose_held_out(splits, data)
        if held_out:
            splits, remark = hold_out(splits, held_out, cfg.seed)
            origin["holdout"], remarks = held_out, [*remarks, remark]
        return Records(splits, {**origin, "source": str(data.source)}, remarks)
    if data.hub.id is None:
        needed = ", ".join(data.files.values()) or "train, dev or test files (or give one file)"
        raise UserError(
            f"data={data.name} is not on the hub: give data.source=FOLDER, a folder with {needed}"
        )
    revision = resolve_revision(data.hub.id, data.hub.revision)
    where = {"hub": data.hub.id, "revision": revision, "asked_revision": data.hub.revision}
    return Records(load_splits(data, revision), {**origin, **where})


def find_files(
    source: Path, data: DictConfig
) -> tuple[dict[str, list[tuple[str, Path]]], list[str]]:
    """Find the files of each split as (part, path), part "" where a split is one file; and remarks.

    `data.files` names them inside the folder, with `{part}` for each of `data.parts`. Where it
    names none (your own data), `source` is one file, which is the split `data.split`, or a folder
    with files named after their splits. Raises UserError that names every missing file at once.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    remarks: list[str] = []
    if data.files:
        for split, name in data.files.items():
            if name is not None:
                parts = list(data.parts) or [""]
                found[split] = [(part, source / name.format(part=part)) for part in parts]
    elif source.is_dir():
        found, remarks = find_named_files(source)
    else:
        found = {data.split: [("", source)]}
        if source.suffix not in READERS:
            raise UserError(
                f"data.source={source}: cannot read {source.suffix!r}; give one of "
                f"{', '.join(READERS)}"
            )
    missing = [path for named in found.values() for _, path in named if not path.is_file()]
    if missing:
        where = "give the place of the files with data.source"
        raise UserError(*(f"{path} not found; {where}" for path in missing))
    return found, remarks


def find_named_files(source: Path) -> tuple[dict[str, list[tuple[str, Path]]], list[str]]:
    """Find the files of a folder that are named after their split, and remark on the others."""
    named: dict[str, list[Path]] = {}
    unread = []
    for path in sorted(source.iterdir()):
        split = ALIASES.get(path.stem, path.stem)
        if split in SPLITS and path.suffix in READERS and path.is_file():
            named.setdefault(split, []).append(path)
        elif not path.name.startswith("."):
            unread.append(path.name)
    problems = [
        # train.csv next to train.jsonl: we cannot know which is meant
        f"{source} holds several files for {split} ({', '.join(p.name for p in paths)}): keep one"
        for split, paths in named.items()
        if len(paths) > 1
    ]
    if not named:
        problems.append(f"{source} holds no train, dev, test or ood file ({', '.join(READERS)})")
    if problems:
        raise UserError(*problems)
    remarks = [f"not read, since it is named after no split: {name}" for name in unread]
    return {s: [("", path) for path in named[s]] for s in SPLITS if s in named}, remarks


def choose_held_out(splits: dict[str, list[Record]], data: DictConfig) -> dict[str, int]:
    """Choose how many training rows become another split: `data.holdout`. Raises UserError."""
    rows = len(splits.get("train", []))
    sizes = {}
    for split, size in data.holdout.items():
        if size == "auto":
            # training needs a dev split; a file of one row cannot give any
            size = 0 if split in splits or rows < 2 else max(1, min(HELD_OUT, rows // 10))
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise UserError(f"data.holdout.{split}={size} is no number of rows: give 0 or more")
        if size and split in splits:
            raise UserError(f"data.holdout.{split}={size}, but there is a {split} file: give 0")
        sizes[split] = size
    if sum(sizes.values()) >= max(rows, 1):
        raise UserError(
            f"data.holdout={sizes} needs a train split with more rows than that (found "
            f"{sorted(splits)}, {rows} training rows): lower it, or give a file for each split"
        )
    return {split: size for split, size in sizes.items() if size}


def hold_out(
    splits: dict[str, list[Record]], sizes: dict[str, int], seed: int
) -> tuple[dict[str, list[Record]], str]:
    """Set training rows aside, each by its own draw from seed and number; returns also a remark."""
    train = splits["train"]
    drawn = sorted(train, key=lambda record: random.Random(f"{seed}/{record[0]}").random())
    remark = f"held out of {len(train):,} training rows by the seed: " + ", ".join(
        f"{split} {size:,} (data.holdout.{split})" for split, size in sizes.items()
    )
    result, start = dict(splits), 0
    for split, size in sizes.items():
        result[split] = drawn[start : start + size]
        start += size
    taken = {number for number, _ in drawn[:start]}
    result["train"] = [record for record in train if record[0] not in taken]
    return result, remark


def read_files(named: list[tuple[str, Path]], data: DictConfig) -> list[Record]:
    """Read the records of one split, numbered from 0 in each file. Raises UserError."""
    records: list[Record] = []
    for part, path in named:
        try:
            contents = list(READERS[path.suffix](path, data))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as {path.suffix[1:]}: {error}"[:500]) from error
        prefix = f"{part}-" if part else ""
        records.extend((f"{prefix}{number}", row) for number, row in enumerate(contents))
    return records


def read_jsonl(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read one record a line; a line that is no JSON becomes a BadRow, counted as a drop."""
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                yield parse_json(line.removeprefix(b"\xef\xbb\xbf"))


def read_json(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read the items of one JSON list, or the values of an object, each with its key as `_key`."""
    content = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if isinstance(content, list):
        yield from content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield {"_key": key, **value} if isinstance(value, dict) else value
    else:
        raise ValueError("neither a list nor an object of records")


def parse_json(text: bytes) -> Any:
    """Parse a line; a BadRow where it is too long, nested too deeply, not UTF-8 or no JSON."""
    if len(text) > MAX_ROW:
        return BadRow("row_too_long", f"{len(text):,} bytes, {MAX_ROW:,} are read")
    try:
        return json.loads(text)
    # UnicodeDecodeError and JSONDecodeError are ValueErrors
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"{str(error)[:120]}: {text[:80].decode(errors='replace')!r}")


def read_csv(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read CSV, every value as text; `data.csv_columns` names the columns of one without header."""
    csv.field_size_limit(sys.maxsize)  # a long cell is a row to drop, not the end of the file
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, fieldnames=list(data.csv_columns) or None, strict=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        for row in reader:
            yield limit_row(row)


def read_parquet(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read Parquet rows, some at a time: 1 kB of a file can hold 320 MB of repeated text."""
    import pyarrow
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    # a repeated text is then held once, whatever the number of rows
    texts = [name for name in schema.names if schema.field(name).type == pyarrow.string()]
    file = parquet.ParquetFile(path, read_dictionary=texts)
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP:
            raise ValueError(f"a row group holds {size:,} bytes: write it in smaller groups")
    for batch in file.iter_batches(MAX_BATCH):
        for index in range(batch.num_rows) if batch.nbytes > MAX_ROW else [None]:
            part = batch if index is None else batch.slice(index, 1)
            columns = [list_values(column) for column in part.columns]
            for values in zip(*columns, strict=True):
                yield limit_row(dict(zip(batch.schema.names, values, strict=True)))


def list_values(column: Any) -> list[Any]:
    """Return a column's values; as text where Python has no such value (a date in year 30,000)."""
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError):
        values = column.cast("string").to_pylist()
    return list(values)


def limit_row(row: dict[str, Any]) -> dict[str, Any] | BadRow:
    """Return a row, or a BadRow for one of more than MAX_ROW characters."""
    for key, value in row.items():
        if isinstance(value, str | list) and len(value) > MAX_ROW:
            return BadRow("row_too_long", f"{key} has {len(value):,} characters")
    return row


READERS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}


def mix_parts(
    data_dir: Path, data: DictConfig, seed: int
) -> tuple[dict[str, list[Record]], dict[str, Any]]:
    """Mix prepared data sets: records by split, and for the manifest what each part gave.

    Weights are proportions of the training rows: `data.weights=[1,3]` gives one row of the first
    part to three of the second. No row is taken twice: the part that runs out first sets the size.
    Raises UserError with every problem at once.
    """
    names, weights = list(data.parts_of_mixture), list(data.weights or [])
    if not names:
        raise UserError(
            "data=mix has no parts: name prepared data sets, as in make prep data=[medqa,medmcqa]"
        )
    if weights and (len(weights) != len(names) or not all(weight > 0 for weight in weights)):
        raise UserError(
            f"data.weights={weights} must be one positive number for each of "
            f"data.parts_of_mixture={names}"
        )
    problems: list[str] = []
    rows: dict[str, dict[str, list[Any]]] = {}
    parts: dict[str, Any] = {}
    for name in names:
        try:
            prepared = open_prepared(data_dir / name)
            rows[name] = {split: prepared.read_rows(split) for split in prepared.splits}
            parts[name] = {key: prepared.manifest[key] for key in ("origin", "files")}
            if weights and "train" not in rows[name]:
                problems.append(f"data.parts_of_mixture: {name} has no training rows to weigh")
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)

    train = {name: splits["train"] for name, splits in rows.items() if "train" in splits}
    if weights:
        unit = min(len(train[name]) / weight for name, weight in zip(names, weights, strict=True))
        for name, weight in zip(names, weights, strict=True):
            train[name] = random.Random(f"{seed}/{name}").sample(train[name], round(unit * weight))
    mixed = [row for part in train.values() for row in part]
    random.Random(seed).shuffle(mixed)
    splits = {"train": mixed}
    for split in SPLITS[1:]:
        splits[split] = [row for part in rows.values() for row in part.get(split, [])]
    for name, facts in parts.items():
        facts["train_rows_taken"] = len(train.get(name, []))
    numbered = {s: [(str(n), row) for n, row in enumerate(joined)] for s, joined in splits.items()}
    return {split: records for split, records in numbered.items() if records}, parts
