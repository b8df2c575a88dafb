"""Samples on disk: one JSON row an answer, appended as it comes, so that a killed run continues.

`results/<name>/samples/<model>.<benchmark>.<mode>.jsonl` has for each sample: id, sample, seed,
prompt_sha256, response, tokens, truncated, format_ok, reason, choice, choice_lenient, correct,
correct_lenient, answer, num_options, group, cluster, rotation_of, overlap, error; where a
benchmark's own rules are read too, choice_published, correct_published; in mode loglikelihood
scores, each letter's log-probability.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, NonNegativeInt

from data_prep.errors import UserError
from data_prep.files import read_jsonl, write_jsonl
from eval.modes import Judgement, has_published, judge, judge_open, render
from eval.questions import Benchmark

Samples = list[dict[str, Any]]

GROUP_KEYS = ("group", "relation", "subject_name", "subject", "medical_task", "step", "source")
"""Fields of `meta` that name what a question is about; the first one found counts."""


@dataclass(frozen=True)
class Request:
    """One answer to ask for. seed: its own; one shared seed would sample all questions alike."""

    row: dict[str, Any]
    sample: int
    seed: int
    prompt: str

    @property
    def key(self) -> tuple[str, int]:
        """Name the row of its answer."""
        return self.row["id"], self.sample


@dataclass
class Answer:
    """Answer that came back. error: why there is none; it counts as wrong. scores: of letters."""

    response: str = ""
    tokens: int = 0
    truncated: bool = False
    error: str | None = None
    scores: dict[str, float] | None = None


class Sample(BaseModel, strict=True, extra="allow"):
    """A row as it is read back; `build_sample` writes it, with more keys than the numbers need."""

    id: str
    sample: int
    response: str
    tokens: NonNegativeInt
    truncated: bool
    format_ok: bool
    reason: str
    choice: str | None
    choice_lenient: str | None
    correct: bool
    correct_lenient: bool
    answer: str
    num_options: NonNegativeInt
    group: str
    cluster: str | int | float  # a column of the user's own may be numbers
    overlap: bool
    error: str | None


def make_seed(seed: int, row_id: str, sample: int) -> int:
    """Compute a seed of 31 bits for one sample of one question, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{row_id}/{sample}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def list_requests(
    benchmark: Benchmark, mode: str, samples: int, seed: int, examples: list[dict[str, Any]]
) -> list[Request]:
    """List all answers of a task in the order in which they are asked."""
    prepared = benchmark.prepared
    requests = []
    for row in benchmark.rows:
        prompt = render(row, mode, prepared.frame, examples, prepared.template)
        for sample in range(samples):
            requests.append(Request(row, sample, make_seed(seed, row["id"], sample), prompt))
    return requests


def build_sample(request: Request, answer: Answer, mode: str) -> dict[str, Any]:
    """Build the row that is written: the answer, its reading, what statistics group and pair by."""
    row, meta, gold = request.row, request.row["meta"], request.row["answer"]
    datasource = row.get("datasource", "")
    read = Judgement(False, "error", None, None)  # an error has no reading, and is wrong
    if answer.error is None:
        if row["options"]:
            read = judge(answer.response, gold, row["options"], mode, datasource)
        else:
            read = judge_open(answer.response, json.loads(row["label"]), mode)
    found = [str(meta[key]) for key in GROUP_KEYS if meta.get(key) not in (None, "")]
    prompt = request.prompt.encode("utf-8", "surrogatepass")
    sample = {
        "id": row["id"],
        "sample": request.sample,
        "seed": request.seed,
        "prompt_sha256": hashlib.sha256(prompt).hexdigest(),
        "response": answer.response,
        "tokens": answer.tokens,
        "truncated": answer.truncated,
        "format_ok": read.format_ok,
        "reason": read.reason,
        "choice": read.choice,
        "choice_lenient": read.choice_lenient,
        "correct": read.choice == gold,
        "correct_lenient": read.choice_lenient == gold,
        "answer": gold,
        "num_options": len(row["options"]),
        # pandas cannot group by half an emoji
        "group": found[0].encode("utf-8", "replace").decode() if found else "",
        "cluster": meta.get("cluster") or row["id"],
        "rotation_of": meta.get("rotation_of") or row["id"],
        "overlap": bool(meta.get("overlap_id")),
        "error": answer.error,
    }
    if has_published(mode, datasource):
        sample["choice_published"] = read.choice_published
        sample["correct_published"] = read.choice_published == gold
    if answer.scores is not None:
        sample["scores"] = answer.scores
    return sample


def load_samples(path: Path) -> Samples:
    """Load a file's samples, none where there is no file; drop a last line that a kill cut off.

    Raises UserError for a damaged row.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):  # a whole file is not touched
        os.truncate(path, whole)
    try:
        samples = read_jsonl(path)
        for sample in samples:
            Sample.model_validate(sample)
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:300]
        fix = "delete that line, or the file, and it is asked again"
        raise UserError(f"{path} has a damaged row ({said}): {fix}") from error
    return samples


def append_samples(path: Path, samples: Samples) -> None:
    """Add rows in one write: a kill leaves whole lines and, at worst, a part of one."""
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    with path.open("ab") as file:
        # half an emoji (a lone surrogate) becomes its JSON escape
        file.write(text.encode("utf-8", "backslashreplace"))


def sort_samples(path: Path, requests: list[Request]) -> Samples:
    """Put a finished file into the order of its requests, which endpoints do not keep.

    An error that was asked for again has two rows: the later one counts.
    """
    samples = load_samples(path)
    found = {(sample["id"], sample["sample"]): sample for sample in samples}
    # overlap is set again: the training set may have been prepared again since
    ordered = [
        found[request.key] | {"overlap": bool(request.row["meta"].get("overlap_id"))}
        for request in requests
    ]
    if ordered != samples:
        write_jsonl(path, ordered)
    return ordered
