"""Read and write files so that each is whole or not there: temporary name first, then rename."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.errors import UserError


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file under a temporary name: renamed to `path` when the block ends well, else gone."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    with replace_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole; half an emoji (a lone surrogate) is written as `\\udXXX`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises ValueError for NaN or infinity, which JSON lacks."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write one row a line (UTF-8) and return what a manifest says of the file: rows and sha256."""
    digest, count = hashlib.sha256(), 0
    with replace_file(path) as file:
        for row in rows:
            text = json.dumps(row, ensure_ascii=False) + "\n"
            line = text.encode("utf-8", "backslashreplace")
            digest.update(line)
            file.write(line)
            count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def read_jsonl(path: Path) -> list[Any]:
    """Read the rows of a JSONL file. Raises ValueError for a line that is no JSON."""
    # not splitlines: a text may hold U+2028, which would split a row in two
    return [json.loads(line) for line in path.read_bytes().decode("utf-8").split("\n") if line]


def read_mapping(path: Path, fix: str = "take it from the repository again") -> dict[str, Any]:
    """Read a JSON or YAML mapping. Raises UserError, which ends in `fix`, for any other file."""
    import yaml

    read: Any = json.loads if path.suffix == ".json" else yaml.safe_load
    if not path.is_file():  # a FIFO would wait, /dev/zero would never end
        raise UserError(f"{path} is no regular file: {fix}")
    try:
        mapping = dict(read(path.read_bytes()).items())
        json.dumps(mapping, default=str, skipkeys=True)  # ValueError of an anchor within itself
        return mapping
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a mapping ({said}): {fix}") from error


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON (`object_pairs_hook`). Raises ValueError for a key given twice."""
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return fields


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Hold a lock on `path`; yields its descriptor. Raises BlockingIOError where it is taken."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file.fileno()
