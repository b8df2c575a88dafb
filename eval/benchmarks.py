"""The questions: prepared rows, read only from files that are what their manifest says."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.prompt import ChatFrame

FIELDS = ("id", "question", "options", "answer", "prompt", "direct_prompt", "meta")


@dataclass(frozen=True)
class Benchmark:
    """Rows of one prepared file. name: `<data set>/<split>`, sha256: of the whole file, frame: of its prompts."""

    name: str
    path: Path
    sha256: str
    rows: list[dict[str, Any]]
    frame: ChatFrame | None


def find_file(name: str, data_dir: Path) -> Path:
    """`data/bank/test.jsonl` as it is; `bank/test` stands for the file of that name in `data_dir`."""
    return Path(name) if name.endswith(".jsonl") else data_dir / f"{name}.jsonl"


def read_benchmark(
    path: Path, limit: int | None, seed: int, words: str, problems: list[str]
) -> Benchmark | None:
    """The rows of a prepared file, or None after adding what is wrong with it to `problems`.

    limit: that many rows, drawn with `seed` (a file may be sorted by subject) and kept in the file's order.
    words: of the command that prepares it, after the data set.
    """
    folder, name = path.parent, f"{path.parent.name}/{path.stem}"
    prepare = f"make prep data={folder.name}{words}"
    if not (folder / "manifest.json").is_file():
        problems.append(f"{path}: {folder} holds no prepared data: run `{prepare}`")
        return None
    if not path.is_file():
        found = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        problems.append(f"{path} not found: {folder} has {found}")
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files, chat = (
            manifest["files"],
            manifest.get("chat"),
        )  # data from before there was the key has plain prompts
        frame = ChatFrame(chat["prefix"], chat["suffix"]) if chat else None
    except (ValueError, KeyError) as error:
        problems.append(f"{folder}/manifest.json cannot be read ({error!r}): run `{prepare}` again")
        return None
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    expected = files.get(path.name, {}).get("sha256")
    if sha256 != expected:
        problems.append(
            f"{path} is not what its manifest says (sha256 {sha256[:12]}…): run `{prepare}` again"
        )
        return None
    rows = [
        json.loads(line) for line in content.decode("utf-8").split("\n") if line
    ]  # not splitlines: U+2028
    if missing := [field for field in FIELDS if rows and field not in rows[0]]:
        problems.append(f"{path}: rows have no {', '.join(missing)}: run `{prepare}` again")
        return None
    if len({row["id"] for row in rows}) != len(rows) or not rows:
        problems.append(
            f"{path}: {len(rows)} rows with repeated ids, or none: run `{prepare}` again"
        )
        return None
    if limit is not None and limit < len(rows):
        rows = [
            rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))
        ]
    return Benchmark(name, path, sha256, rows, frame)


def mark_overlap(benchmarks: list[Benchmark], training_set: Path) -> list[str]:
    """Sets `meta.overlap_id` of the rows that a prepared training set lists as like one of its training rows.

    Rows of the training set's own folder bear it already. Returns the names of the benchmarks that were prepared only
    after the training set, and so were not compared with it.
    """
    if not (training_set / "manifest.json").is_file():
        return []
    overlap = json.loads((training_set / "manifest.json").read_text(encoding="utf-8")).get(
        "overlap", {}
    )
    for benchmark in benchmarks:
        for row in benchmark.rows:
            like = overlap.get("evaluation_rows", {}).get(row["id"])
            if like and not like["train_row_dropped"]:
                row["meta"]["overlap_id"] = like["train_id"]
    return [
        b.name for b in benchmarks if b.name.split("/")[0] in overlap.get("not_checked_against", [])
    ]
