"""A prepared data set, data/<name>/: written whole, its hashes checked, read by every later stage.

All files are written under a temporary name, the manifest last, then one rename: a folder under `data/` is always
whole, and its manifest exists if and only if every file was written. `open_prepared` is the one way to read it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import hash_file, read_jsonl
from data_prep.prompt import ChatFrame

MANIFEST = "manifest.json"
FORMAT = 2
"""Of the manifest; raise it when a key changes its meaning."""


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder beside `folder` to write into, and puts it in its place when the block ends well.

    Whatever goes wrong in the block, the old folder stays as it was and the new one is removed. Raises UserError
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
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; what was there before is untouched. Free some space "
            "or choose another place: data_dir=FOLDER"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest. It holds no time and no absolute path of ours: same input, same bytes."""
    (folder / MANIFEST).write_text(
        json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


@dataclass(frozen=True)
class Prepared:
    """A prepared data set. prepare: the command that makes it anew, for messages."""

    folder: Path
    manifest: dict[str, Any]
    prepare: str
    _checked: set[str] = field(default_factory=set)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the manifest's order."""
        return [Path(name).stem for name in self.manifest["files"]]

    @property
    def frame(self) -> ChatFrame | None:
        """Chat markup round the prompts; None for plain ones."""
        chat = self.manifest.get("chat")
        return ChatFrame(chat["prefix"], chat["suffix"]) if chat else None

    def find_file(self, split: str) -> Path:
        """Find a split's file and compare its SHA-256 with the manifest's, once. Raises UserError."""
        path = self.folder / f"{split}.jsonl"
        known = self.manifest["files"].get(path.name)
        if known is None:
            raise UserError(
                f"{self.folder} has no split {split!r}, it has {', '.join(self.splits)}"
            )
        if split not in self._checked:
            if not path.is_file() or hash_file(path) != known["sha256"]:
                raise UserError(f"{path} is not what its manifest says: run `{self.prepare}` again")
            self._checked.add(split)
        return path

    def read_rows(self, split: str) -> list[dict[str, Any]]:
        """Read a split's rows after checking its hash. Raises UserError."""
        return read_jsonl(self.find_file(split))


def open_prepared(folder: Path, prepare: str | None = None) -> Prepared:
    """Open a prepared data set by its manifest; files are hashed when a split is asked for.

    prepare: the command to name in errors (default `make prep data=NAME`). Raises UserError where there is no
    manifest, or one that cannot be read or is of another format.
    """
    prepare = prepare or f"make prep data={folder.name}"
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path} not found: run `{prepare}`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        form = manifest["format"]
        files = {
            name: (facts["sha256"], facts["rows"]) for name, facts in manifest["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error!r:.200}): run `{prepare}` again") from error
    if form != FORMAT or not files:
        raise UserError(
            f"{path} has format {form!r}, this version reads {FORMAT}: run `{prepare}` again"
        )
    return Prepared(folder, manifest, prepare)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared data set. Raises UserError where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path} not found: run `make prep data={folder.name}` first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is no JSON ({error}): remove {folder} and run `make prep data={folder.name}`"
        ) from error
    return dict(manifest)
