"""Read upstream rows: from the hub, from local files, or from data sets that are already prepared.

A record is a row as the upstream stores it, not judged yet: `(number, content)`, the number unique
in its split, content a BadRow where the row could not even be read.
"""

import csv
import json
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from data_prep.errors import BadRow, UserError
from data_prep.files import build_object
from data_prep.hub import load_splits, resolve_revision
from data_prep.prepared import open_prepared

Splits = dict[str, list[tuple[str, Any]]]
Files = dict[str, list[tuple[str, Path]]]
"""The files of each split as (part, path), part "" where a split is one file."""

SPLITS = ("train", "dev", "test", "ood")
ALIASES = {"validation": "dev", "valid": "dev", "val": "dev", "development": "dev"}
MAX_ROW = 1_000_000  # characters of a row: a longer one fits no model, and costs 200 times its size
MAX_BATCH = 256  # rows of Parquet turned into Python objects at a time
MAX_GROUP = 2 * 1024**3  # bytes of a Parquet row group, which is decompressed as a whole
HELD_OUT = 500  # most rows that data.holdout.dev=auto takes, a tenth of them at that
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Records(NamedTuple):
    """Upstream records by split, and for the manifest where they came from and what to know."""

    splits: Splits
    origin: dict[str, Any]
    remarks: list[str]


def read_records(cfg: DictConfig) -> Records:
    """Read all records of the configured data set. Raises UserError."""
    data, origin = cfg.data, {"licence": cfg.data.licence}
    # a mixture of prepared sets, then local files, then the hub
    if data.name == "mix" or data.parts_of_mixture:
        splits, parts = mix_parts(cfg)
        return Records(splits, origin | {"mixture": parts}, [])
    if data.source is not None:
        files, remarks = find_files(Path(data.source), data)
        splits, held = hold_out({split: read_files(files[split], data) for split in files}, cfg)
        if held:
            rows = len(splits["train"]) + sum(held.values())
            sizes = [f"{split} {size:,} (data.holdout.{split})" for split, size in held.items()]
            remarks.append(f"held out of {rows:,} training rows by the seed: {', '.join(sizes)}")
            origin["holdout"] = held
        return Records(splits, origin | {"source": str(data.source)}, remarks)
    if data.hub.id is None:
        needed = ", ".join(data.files.values()) or "train, dev or test files (or give one file)"
        raise UserError(
            f"data={data.name} is not on the hub: give data.source=FOLDER, a folder with {needed}"
        )
    revision = resolve_revision(data.hub.id, data.hub.revision)
    where = {"hub": data.hub.id, "revision": revision, "asked_revision": data.hub.revision}
    return Records(load_splits(data, revision), origin | where, [])


def find_files(source: Path, data: DictConfig) -> tuple[Files, list[str]]:
    """Find the files of each split, and remark on those that are not read.

    `data.files` names them, `{part}` standing for each of `data.parts`. Without it `source` is one
    file, the split `data.split`, or a folder of files named after splits. Raises UserError.
    """
    problems, remarks = [], []
    found: Files = {}
    if data.files:
        for split, name in data.files.items():
            if name is not None:
                files = [(part, str(name).replace("{part}", part)) for part in data.parts or [""]]
                found[split] = [(part, source / file) for part, file in files]
    elif source.is_dir():
        named: dict[str, list[Path]] = {split: [] for split in SPLITS}
        for path in sorted(source.glob("[!.]*")):
            # a split is not given up because its file is a zip; notes on it may be next to it
            is_read = path.suffix.lower() in READERS
            name = path.stem if is_read else path.name.partition(".")[0]
            split = ALIASES.get(name.lower(), name.lower())
            if split in named:
                named[split].append(path)
            else:
                remarks.append(f"not read, since it is named after no split: {path.name}")
        for split, paths in named.items():
            chosen = [path for path in paths if path.suffix.lower() in READERS] or paths
            remarks += [f"not read: {path.name}" for path in paths if path not in chosen]
            if len(chosen) > 1:  # we cannot know which is meant
                both = ", ".join(path.name for path in chosen)
                problems.append(f"{source} holds several files for {split} ({both}): keep one")
            if chosen:
                found[split] = [("", path) for path in chosen]
        if not found:
            fix = f"rename them, or give one file ({', '.join(READERS)}) and its data.split"
            problems.append(f"{source} holds no file named train, dev, test or ood: {fix}")
    else:
        found[data.split] = [("", source)]
    for _, path in chain.from_iterable(found.values()):
        if path.suffix.lower() not in READERS:
            problems.append(f"{path}: cannot read {path.suffix!r}; give {', '.join(READERS)}")
        elif not path.is_file():
            problems.append(f"{path} not found; give the place of the files with data.source")
    if problems:
        raise UserError(*problems)
    return found, remarks


def hold_out(splits: Splits, cfg: DictConfig) -> tuple[Splits, dict[str, int]]:
    """Set training rows aside as splits that have no file; return also how many of each."""
    train = splits.get("train", [])
    sizes: dict[str, int] = {}
    for split, size in (cfg.data.holdout or {}).items():
        if size == "auto":
            # training needs a dev split; a file of one row cannot give any
            missing = split not in splits and len(train) > 1
            size = max(1, min(HELD_OUT, len(train) // 10)) if missing else 0
        if type(size) is not int or size < 0 or (size and split in splits):
            fix = "give a number of rows, 0 where the split has a file"
            raise UserError(f"data.holdout.{split}={size}: {fix}")
        if size:
            sizes[split] = size
    if not sizes:
        return splits, {}
    if sum(sizes.values()) >= len(train):
        raise UserError(
            f"data.holdout={sizes} needs more training rows than that, of {len(train)}: lower it, "
            "or give a file for each split"
        )
    # each row by its own draw from seed and number, so that other rows do not change it
    drawn = sorted(train, key=lambda record: random.Random(f"{cfg.seed}/{record[0]}").random())
    held: Splits = {}
    for split, size in sizes.items():
        held[split], drawn = drawn[:size], drawn[size:]
    # training rows keep the order of the file
    kept = {number for number, _ in drawn}
    held["train"] = [record for record in train if record[0] in kept]
    return splits | held, sizes


def read_files(named: list[tuple[str, Path]], data: DictConfig) -> list[tuple[str, Any]]:
    """Read the records of one split, numbered from 0 in each file. Raises UserError."""
    records: list[tuple[str, Any]] = []
    for part, path in named:
        prefix = f"{part}-" if part else ""
        try:
            for number, row in enumerate(READERS[kind := path.suffix.lower()](path, data)):
                records.append((f"{prefix}{number}", limit_row(row)))
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            said = f"{path} cannot be read as {kind[1:]}: {error}"[:400]
            raise UserError(said + FORMS.get(kind, "")) from error
    return records


def limit_row(row: Any) -> Any:
    """Return a row, or a BadRow for one with a text or a list of more than MAX_ROW."""
    for key, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, str | list) and len(value) > MAX_ROW:
            return BadRow("row_too_long", f"{key} has {len(value):,} characters")
    return row


def read_jsonl(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read one record a line; a line that is no JSON becomes a BadRow, counted as a drop."""
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                yield parse_json(line.removeprefix(BYTE_ORDER_MARK))


def parse_json(text: bytes) -> Any:
    """Parse a line; a BadRow where it is too long, nested too deeply, not UTF-8 or no JSON."""
    if len(text) > MAX_ROW:
        return BadRow("row_too_long", f"{len(text):,} bytes, {MAX_ROW:,} are read")
    try:
        return json.loads(text.decode(), object_pairs_hook=build_object)
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"{str(error)[:120]}: {text[:80].decode(errors='replace')!r}")


def read_json(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read the items of one JSON list, or the values of an object, each with its key as `_key`."""
    content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    content = json.loads(content, object_pairs_hook=build_object)
    if isinstance(content, list):
        yield from content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield {"_key": key, **value} if isinstance(value, dict) else value
    else:
        raise ValueError("neither a list nor an object of records")


def check_columns(names: list[str]) -> None:
    """Refuse two columns of one name, of which a row would keep the last. Raises ValueError."""
    if double := {name for name in names if name and names.count(name) > 1}:
        raise ValueError(f"two columns are named {', '.join(map(repr, sorted(double)))}")


def read_csv(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read CSV, every value as text; `data.csv_columns` names the columns of one without header.

    A row with more or fewer cells is a BadRow: a comma without quotes has moved its values.
    """
    csv.field_size_limit(sys.maxsize)  # a long cell is a row to drop, not the end of the file
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, fieldnames=list(data.csv_columns) or None, strict=True)
        reader.fieldnames = names = [name.strip() for name in reader.fieldnames or []]
        check_columns(names)
        try:
            for row in reader:
                if None in row or None in row.values():
                    yield BadRow("number_of_cells", f"not {len(names)}: {row!r:.100}")
                else:
                    yield row
        except csv.Error as error:
            raise ValueError(f"line {reader.reader.line_num}: {error}") from error


def read_parquet(path: Path, data: DictConfig) -> Iterator[Any]:
    """Read Parquet rows, some at a time: 1 kB of a file can hold 320 MB of repeated text."""
    import pyarrow
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    check_columns(schema.names)
    # a repeated text is then held once, whatever the number of rows
    texts = [field.name for field in schema if field.type == pyarrow.string()]
    file = parquet.ParquetFile(path, read_dictionary=texts)
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP:
            raise ValueError(f"a row group holds {size:,} bytes: write it in smaller groups")
    for batch in file.iter_batches(MAX_BATCH):
        # one long row must not multiply with 255 others in memory
        step = 1 if batch.nbytes > MAX_ROW else MAX_BATCH
        for start in range(0, batch.num_rows, step):
            columns = map(list_values, batch.slice(start, step).columns)
            for values in zip(*columns, strict=True):
                yield dict(zip(batch.schema.names, values, strict=True))


def list_values(column: Any) -> list[Any]:
    """Return a column's values; null where Python has no such value (a date in year 30,000)."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        ones = (column.slice(place, 1) for place in range(len(column)))
        return [None] if len(column) == 1 else [list_values(one)[0] for one in ones]


FORMS = {
    ".json": ". It must be one list of rows; a file with a row a line is named .jsonl",
    ".csv": ". Save it in UTF-8, its cells in double quotes and a quote inside a cell twice",
}
READERS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}


def mix_parts(cfg: DictConfig) -> tuple[Splits, dict[str, Any]]:
    """Mix prepared data sets: records by split, and for the manifest what each part gave.

    Weights are proportions of the training rows. No row is taken twice: the part that runs out
    first sets the size. Raises UserError with every problem at once.
    """
    data, problems = cfg.data, []
    names, weights = list(dict.fromkeys(data.parts_of_mixture)), list(data.weights or [])
    if not names:
        fix = "name prepared data sets, as in make prep data=[medqa,medmcqa]"
        raise UserError(f"data=mix has no parts: {fix}")
    if weights and (len(weights) != len(names) or min(weights) <= 0):
        problems.append(f"data.weights={weights} must be one positive number for each of {names}")
    mixed: dict[str, list[Any]] = {split: [] for split in SPLITS}
    train: dict[str, list[Any]] = {}
    parts: dict[str, Any] = {}
    for name in names:
        try:
            prepared = open_prepared(Path(cfg.data_dir) / name)
            rows = {split: prepared.read_rows(split) for split in prepared.splits}
        except UserError as error:
            problems.extend(error.problems)
            continue
        parts[name] = {key: prepared.manifest[key] for key in ("origin", "files")}
        train[name] = rows.pop("train", [])
        if weights and not train[name]:
            problems.append(f"data.parts_of_mixture: {name} has no training rows to weigh")
        for split, others in rows.items():
            mixed[split] += others
    if problems:
        raise UserError(*problems)

    if weights:
        weight_of = dict(zip(names, weights, strict=True))
        unit = min(len(train[name]) / weight_of[name] for name in names)  # rows for a weight of 1
        for name in names:
            # by name, so that the rows of one part do not depend on the others
            draw = random.Random(f"{cfg.seed}/{name}")
            train[name] = draw.sample(train[name], round(unit * weight_of[name]))
    for name, taken in train.items():
        parts[name]["train_rows_taken"] = len(taken)
        mixed["train"] += taken
    random.Random(cfg.seed).shuffle(mixed["train"])
    # numbered again: the reader `native` keeps each row's own id
    numbered = {split: [(str(n), row) for n, row in enumerate(mixed[split])] for split in SPLITS}
    return {split: rows for split, rows in numbered.items() if rows}, parts
