"""A prepared data set, data/<name>/: written whole, its hashes checked, read by every later stage.

A folder is written under a temporary name, the manifest last, then renamed: one under `data/` is
always whole. `open_prepared` is the one way to read it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import hash_file, lock_file, read_jsonl, read_mapping
from data_prep.prompt import LETTERS, MAX_OPTIONS, TEMPLATES, ChatFrame, Template

MANIFEST = "manifest.json"
FORMAT = 3  # of the manifest: raise it when a key changes its meaning
# What later stages look up in a manifest, where it has the section; * is every key.
FACTS: dict[str, type] = {
    "files.*.rows": int,
    "files.*.sha256": str,
    "splits.*.prompt_tokens.max": int,
    "origin": dict,
    "overlap": dict,
    "views": dict,
    "max_prompt_tokens.found": int,
    "tokenizer.path": str,
    "tokenizer.sha256": str,
    "chat.prefix": str,
    "chat.suffix": str,
    "chat.end_of_turn": str,
    "chat.end_of_turn_id": int,
    "chat.template_sha256": str,
    "prompt.name": str,
}


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to write into, which replaces `folder` when the block ends well.

    On any error in the block the old folder stays as it was and the new one is removed.
    Raises UserError where the disk is full or not writable, or another preparation runs.
    """
    folder = folder.resolve()  # where it is a link, its target is replaced
    partial, old, lock = (
        folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old", "lock")
    )

    def repair() -> None:
        """Remove what an interrupted preparation left; a folder that was set aside returns."""
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for rest in (partial, old):
            shutil.rmtree(rest, ignore_errors=True)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(lock):
            try:
                repair()
                partial.mkdir()
                yield partial
                if folder.exists():
                    os.replace(folder, old)
                os.replace(partial, folder)
            finally:
                repair()
                lock.unlink()
    except BlockingIOError as error:
        fix = "wait for it, or give another place with data_dir=FOLDER"
        raise UserError(f"another preparation of {folder} is running: {fix}") from error
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; what was there before is "
            "untouched. Free some space or give another place with data_dir=FOLDER"
        ) from error


@dataclass(frozen=True)
class Prepared:
    """A prepared data set. prepare: the command that makes it again, for messages."""

    folder: Path
    manifest: dict[str, Any]
    prepare: str

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the manifest's order."""
        return [Path(name).stem for name in self.manifest["files"]]

    @property
    def frame(self) -> ChatFrame | None:
        """Chat markup around the prompts; None for plain ones."""
        chat = self.manifest.get("chat")
        return ChatFrame(chat["prefix"], chat["suffix"]) if chat else None

    @property
    def template(self) -> Template:
        """Template that lays out a question in every mode; plain before templates had names."""
        return TEMPLATES[self.manifest.get("prompt", {}).get("name", "plain")]

    def find_file(self, split: str) -> Path:
        """Find a split's file, its SHA-256 compared with the manifest. Raises UserError."""
        path = self.folder / f"{split}.jsonl"
        if split not in self.splits:
            has = ", ".join(self.splits)
            raise UserError(f"{self.folder} has no split {split!r}, it has {has}")
        known = self.manifest["files"][path.name]["sha256"]
        if not path.is_file() or hash_file(path) != known:
            raise UserError(f"{path} is not what its manifest says: run `{self.prepare}` again")
        return path

    def read_rows(self, split: str) -> list[dict[str, Any]]:
        """Read a split's rows, its hash and the label of every row checked. Raises UserError."""
        path = self.find_file(split)
        try:
            rows = read_jsonl(path)
            for row in rows:
                check_row(row, split)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: {error!s:.300}: run `{self.prepare}` again") from error
        return rows


def check_row(row: dict[str, Any], split: str) -> None:
    """Check that a row can be asked, and its label is the row's own. Raises ValueError.

    File and manifest may agree and both be wrong: a letter that names no option is wrong for ever.
    """
    row_id, options, answer = row["id"], row["options"], row["answer"]
    if not isinstance(row_id, str) or not row_id:
        raise ValueError(f"id {row_id!r} is no text")
    label = json.loads(row["label"])
    expected = {"id": row_id, "split": split}
    if "kind" in label:  # an open answer
        gold = label["references"][0] if "references" in label else f"{label['value']:g}"
        if options or answer != gold:
            raise ValueError(f"{row_id}: answer {answer!r} and options are not those of its label")
    else:
        texts = options if isinstance(options, list) else []
        if not 2 <= len(texts) <= MAX_OPTIONS or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{row_id}: options {options!r:.100} are not 2 to {MAX_OPTIONS} texts")
        letters = LETTERS[: len(options)]
        if answer not in list(letters):
            raise ValueError(f"{row_id}: answer {answer!r} is not one of {letters}")
        expected |= {"answer": answer, "options": options}
    for key, value in expected.items():
        if label.get(key) != value:
            raise ValueError(f"{row_id}: label has {key} {label.get(key)!r}, not {value!r}")


def open_prepared(folder: Path, prepare: str | None = None) -> Prepared:
    """Open a prepared data set by its manifest; files are hashed when a split is asked for.

    prepare: the command to name in errors. Raises UserError for a missing or broken manifest.
    """
    path, prepare = folder / MANIFEST, prepare or f"make prep data={folder.name}"
    # a preparation that was killed between its two renames left the old folder under this name
    if not folder.exists() and folder.with_name(f".{folder.name}.old").is_dir():
        raise UserError(f"{folder} was being replaced when preparation stopped: run `{prepare}`")
    if not path.is_file():
        raise UserError(f"{path} not found: run `{prepare}`")
    manifest = read_mapping(path, f"run `{prepare}` again")
    if (form := manifest.get("format")) != FORMAT:
        raise UserError(
            f"{path} has format {form!r}, this version reads {FORMAT}: run `{prepare}` again"
        )
    if broken := list_broken(manifest):
        raise UserError(f"{path} has no good {', '.join(broken)}: run `{prepare}` again")
    return Prepared(folder, manifest, prepare)


def list_broken(manifest: dict[str, Any]) -> list[str]:
    """List the facts of a manifest that a later stage could not use."""
    broken = [] if manifest.get("files") else ["files"]
    for key, kind in FACTS.items():
        section, *keys = key.split(".")
        is_plain = section == "chat" and manifest.get("chat") is None
        if section in manifest and not is_plain and not has_fact(manifest[section], keys, kind):
            broken.append(key)
    names = [] if broken else [Path(name).stem for name in manifest["files"]]
    broken += [f"splits.{n}" for n in names if n not in manifest.get("splits", names)]
    if not broken and manifest.get("prompt", {"name": "plain"})["name"] not in TEMPLATES:
        broken.append("prompt.name")
    return broken


def has_fact(value: Any, keys: list[str], kind: type) -> bool:
    """Find out if the keys lead to a value of this type; `*` follows every key."""
    if not keys or not isinstance(value, dict):
        return not keys and isinstance(value, kind)
    names = list(value) if keys[0] == "*" else keys[:1]
    return all(name in value and has_fact(value[name], keys[1:], kind) for name in names)
