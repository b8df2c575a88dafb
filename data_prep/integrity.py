"""Were the rows that were read the rows that are meant?

Rows are compared by a hash of their content (stem, options, gold letter) in a canonical form, not by a hash of files:
the hub's Parquet and a local JSONL of the same rows agree. Two checks, both passed over by `data.accept=true`:
the hashes of official splits that are pinned in recipes/configs/data/*.yaml, and the rows of the last preparation.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import BadRow, UserError
from data_prep.prepared import FORMAT, MANIFEST, read_manifest
from data_prep.rows import Question


def hash_rows(rows: Iterable[Question | BadRow]) -> str:
    """SHA-256 over canonical rows in their order; a row that cannot be used counts by its reason.

    Canonical: NFC, white space runs as one space, none at the ends. Copies differ in such things and in nothing that
    the cleaning rules mend beyond them, so the hash does not move when a rule is added.
    """
    digest = hashlib.sha256()
    for row in rows:
        content = (
            [row.reason] if isinstance(row, BadRow) else [row.question, *row.options, row.answer]
        )
        # surrogatepass: a lone surrogate in a hostile row must be hashed too
        digest.update(
            json.dumps([canonicalise(text) for text in content], ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            )
        )
        digest.update(b"\n")
    return digest.hexdigest()


def canonicalise(text: str) -> str:
    """The text as it is hashed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def check_rows(
    data: DictConfig, folder: Path, read: dict[str, dict[str, Any]], revision: str | None
) -> list[str]:
    """Compares what was read (rows and sha256 by split) with the pins and with the last preparation.

    Returns remarks for the summary: an official split that has other rows than read is told even where it is accepted.
    Raises UserError with every difference, unless `data.accept` is true.
    """
    differences: list[str] = []
    remarks: list[str] = []
    for split, official in data.official.items():
        if split not in read:
            continue  # left out on purpose
        rows, sha256 = read[split]["rows"], read[split]["sha256"]
        if official.get("sha256") not in (None, sha256):
            differences.append(
                f"{data.name}/{split} is not the official split: {rows:,} rows (sha256 {sha256}), officially "
                f"{official.rows:,} (sha256 {official.sha256}): "
                + (
                    f"these are the rows of data={data.elsewhere[sha256]}"
                    if sha256 in data.elsewhere
                    else "a cut, altered or older copy"
                )
            )
        elif official.get("git_blob") and data.source:
            remarks.append(compare_blob(split, data, rows))
        elif rows != official.rows:
            remarks.append(
                f"{split}: {rows:,} rows read, officially {official.rows:,}; scores are not comparable"
            )
    if (folder / MANIFEST).is_file() and not data.parts_of_mixture and not data.generated:
        manifest = read_manifest(folder)
        before: dict[str, Any] = (
            manifest["origin"]
            if manifest.get("format") == FORMAT
            else {"rows": read, "revision": revision}
        )
        for split in {**before["rows"], **read}:
            was, now = before["rows"].get(split), read.get(split)
            if was != now:
                differences.append(
                    f"{data.name}/{split}: {describe_rows(was)} before, {describe_rows(now)} now"
                )
        if differences and before.get("revision") != revision:
            differences.append(
                f"{data.name}: revision {before.get('revision')} before, {revision} now"
            )
    if differences and not data.accept:
        raise UserError(
            *differences,
            f"to take these rows as they are: make prep data={data.name} data.accept=true",
        )
    return [*remarks, *(f"accepted: {line}" for line in differences)]


def compare_blob(split: str, data: DictConfig, rows: int) -> str:
    """Say if a local file is the official one, by the hash that `git hash-object FILE` prints."""
    content = (Path(data.source) / data.files[split]).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    official = data.official[split]
    if blob == official.git_blob:
        return f"{split}: the official file, {rows:,} rows (git blob {blob})"
    kind = "a partial file" if rows < official.rows else "not the official file"
    return (
        f"{split}: {kind}, {rows:,} of {official.rows:,} rows (git blob {blob[:12]}…, officially "
        f"{official.git_blob[:12]}…); scores of a model trained on it are not comparable"
    )


def find_state(data: DictConfig, read: dict[str, dict[str, Any]]) -> str | None:
    """Return the state of the labels, `data.state`, where the rows read are proved to be in it."""
    pinned = {split: facts.sha256 for split, facts in data.official.items() if facts.sha256}
    proved = any(read.get(split, {}).get("sha256") == sha256 for split, sha256 in pinned.items())
    return data.state if proved else None


def describe_rows(rows: dict[str, Any] | None) -> str:
    """`1,273 rows (sha256 0123456789ab…)`, or `no such split`."""
    return f"{rows['rows']:,} rows (sha256 {rows['sha256'][:12]}…)" if rows else "no such split"
