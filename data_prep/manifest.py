"""Writing a prepared data set: all files under a temporary name, the manifest last, then one rename.

So a folder under `data/` is always whole: its manifest exists if and only if every file was written.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError

MANIFEST = "manifest.json"
FORMAT = 2
"""Of the manifest; raise it when a key changes its meaning."""


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder beside `folder` to write into, and puts it in its place when the block ends well.

    Whatever goes wrong in the block, the old folder stays as it was and the new one is removed. Raises PrepError
    where the disk is full or not writable.
    """
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        partial.chmod(0o755)
        yield partial
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(partial, folder)
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    except OSError as error:
        raise PrepError(
            f"cannot write {folder}: {error.strerror or error}; what was there before is untouched. Free some space "
            "or choose another place: data_dir=FOLDER"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Writes one row a line (UTF-8, `\\n`) and returns what the manifest says of the file: rows and sha256."""
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest. It holds no time and no absolute path of ours: same input, same bytes."""
    (folder / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared data set. Raises PrepError where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise PrepError(f"{path} not found: run `make prep data={folder.name}` first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PrepError(
            f"{path} is no JSON ({error}): remove {folder} and run `make prep data={folder.name}`"
        ) from error
    return dict(manifest)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
            digest.update(block)
    return digest.hexdigest()
