"""One split during preparation: its rows, why rows were dropped, and a hash of what was read.

The hash is of rows in a canonical form, not of files: the hub's Parquet and a local JSONL of the
same rows agree.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from data_prep.clean import clean_question
from data_prep.errors import BadRow, NotSelected, UserError
from data_prep.prepared import open_prepared
from data_prep.rows import Question

Row = TypeVar("Row")

TRAIN = "train"
EXAMPLES = 3  # first rows of a reason that are shown with field and value
QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass
class Split:
    """The rows of one split. questions: as parsed; rows: as they are written, with `tokens` each.

    dropped: row ids and details by reason; fixed, warned: row ids by rule and by warning.
    """

    name: str
    read: int = 0
    not_selected: int = 0
    questions: list[Question] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    dropped: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    fixed: dict[str, list[str]] = field(default_factory=dict)
    warned: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, row_id: str, detail: str = "") -> None:
        """Note a row that is not kept; detail: field and value, for whom no row is left."""
        self.dropped.setdefault(reason, []).append((row_id, detail))

    def keep_only(self, reasons: dict[str, str]) -> None:
        """Drop the rows whose id is a key, for the reason that is its value."""
        rows, tokens, self.rows, self.tokens = self.rows, self.tokens, [], []
        for row, count in zip(rows, tokens, strict=True):
            if row["id"] in reasons:
                self.drop(reasons[row["id"]], row["id"])
            else:
                self.rows.append(row)
                self.tokens.append(count)

    def describe(self) -> dict[str, Any]:
        """Return the split's part of the manifest."""
        # a row is a question until it is built
        kept, dropped = len(self.questions) + len(self.rows), sum(map(len, self.dropped.values()))
        assert self.read == kept + dropped, f"{self.name}: rows were lost"
        lengths, last = sorted(self.tokens), len(self.tokens) - 1
        quantiles = {name: lengths[round(q * last)] for name, q in QUANTILES.items() if lengths}
        return {
            "read": self.read,
            "of_other_parts": self.not_selected,
            "kept": kept,
            "dropped": {
                reason: [row_id for row_id, _ in rows] for reason, rows in self.dropped.items()
            },
            "fixed": self.fixed,
            "warnings": self.warned,
            "prompt_tokens": quantiles,
        }

    def explain_drops(self) -> str:
        """Say why rows were dropped, most frequent reason first, with the first rows of each."""
        lines = []
        for reason, rows in sorted(self.dropped.items(), key=lambda item: -len(item[1])):
            shown = [f"{row_id}: {detail}".removesuffix(": ") for row_id, detail in rows[:EXAMPLES]]
            lines.append(f"{len(rows):,} {reason} ({'; '.join(shown)})")
        return ", ".join(lines) or "no rows were read"


def follow_rows(rows: Sequence[Row], step: str) -> Iterable[Row]:
    """Give rows one by one behind a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    return track(rows, step, console=console, transient=True, disable=not console.is_terminal)


def parse_records(
    name: str,
    records: Sequence[tuple[str, Any]],
    parse_row: Callable[[Any, str, DictConfig], Question],
    data: DictConfig,
) -> tuple[Split, list[Question | BadRow]]:
    """Parse and clean the records of a split; also return the rows as parsed, for their hash."""
    split = Split(name)
    parsed: list[Question | BadRow] = []
    # the id keeps the upstream's number: dropped rows leave gaps, and no other row gets a new id
    for number, record in follow_rows(records, f"{name}: cleaning"):
        row_id, row = f"{data.name}/{name}/{number}", None
        try:
            if isinstance(record, BadRow):
                raise record
            row = parse_row(record, row_id, data)
            question, fixed, warnings = clean_question(row)
            if unwanted := [warning for warning in warnings if warning in data.drop]:
                raise BadRow(unwanted[0], "")
        except NotSelected:
            split.not_selected += 1
            continue
        except BadRow as bad:
            split.drop(bad.reason, row.id if row else row_id, bad.detail)
            parsed.append(row or bad)
            continue
        parsed.append(row)
        for names, found in ((split.fixed, fixed), (split.warned, warnings)):
            for rule in found:
                names.setdefault(rule, []).append(question.id)
        question.meta["warnings"] = " ".join(warnings)
        split.questions.append(question)
    split.read = len(parsed)
    return split, parsed


def hash_rows(rows: Iterable[Question | BadRow]) -> str:
    """Compute SHA-256 over canonical rows in order; a row that cannot be used counts by its reason.

    Canonical: NFC, white space squeezed. Published copies differ in nothing else, so the hash does
    not move when a cleaning rule is added.
    """
    digest = hashlib.sha256()
    for row in rows:
        if isinstance(row, BadRow):
            content = [row.reason]
        else:
            content = [row.question, *row.options, row.answer]
            content += map(str, row.target.values())
        canonical = [" ".join(unicodedata.normalize("NFC", text).split()) for text in content]
        # surrogatepass: a lone surrogate in a hostile row must be hashed too
        line = json.dumps(canonical, ensure_ascii=False) + "\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_rows(
    data: DictConfig, folder: Path, read: dict[str, dict[str, Any]], revision: str | None
) -> list[str]:
    """Compare what was read (rows and sha256 by split) with the pins and the last preparation.

    Returns remarks for the card. Raises UserError with every difference, unless `data.accept`.
    """
    differences, remarks = [], []
    try:
        last = None if data.parts_of_mixture else open_prepared(folder).manifest["origin"]
    except UserError:
        last = None  # no stage could read it either
    before = last["rows"] if last else read
    for split in dict.fromkeys([*before, *read]):
        now: Any = read.get(split)
        official = data.official.get(split) if now else None
        if official and official.get("git_blob") and data.source:
            remarks.append(compare_blob(split, data, now["rows"]))
        elif official and not official.sha256 and now["rows"] != official.rows:
            counts = f"{now['rows']:,} rows read, officially {official.rows:,}"
            remarks.append(f"{split}: {counts}; scores are not comparable")
        found, expected = describe_rows(now), {}
        if official and official.sha256:
            expected["officially"] = describe_rows(official)
        # a split that is as pinned is the right one, whatever was read last time
        if found not in expected.values():
            expected["before"] = describe_rows(before.get(split))
        other = data.elsewhere.get(now["sha256"]) if now else None
        hint = f": these are data={other}" if other else ""
        for when, known in expected.items():
            if known != found:
                differences.append(f"{data.name}/{split}: {found} now, {known} {when}{hint}")
    if differences and last and last.get("revision") != revision:
        change = f"revision {last.get('revision')} before, {revision} now"
        differences.append(f"{data.name}: {change}")
    if differences and not data.accept:
        raise UserError(*differences, "to take these rows as they are, add data.accept=true")
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
        f"{official.git_blob[:12]}…); scores are not comparable"
    )


def find_state(data: DictConfig, read: dict[str, dict[str, Any]]) -> str | None:
    """Return the state of the labels, `data.state`, where the rows read are proved to be in it."""
    pins = {facts.sha256 for facts in data.official.values() if facts.sha256}
    return data.state if any(facts["sha256"] in pins for facts in read.values()) else None


def describe_rows(rows: Any) -> str:
    """Return `1,273 rows (sha256 0123456789…)`, or `no such split`."""
    return f"{rows['rows']:,} rows (sha256 {rows['sha256']})" if rows else "no such split"
