"""Samples on disk: one JSON row for each answer, appended as answers come, so that a run goes on where it was killed.

`results/<name>/samples/<model>.<benchmark>.<mode>.jsonl` has per sample: id, sample, seed, prompt_sha256, response,
tokens, truncated, format_ok, reason, choice, choice_lenient, correct, correct_lenient, answer, num_options, group,
cluster, overlap, error, and in mode loglikelihood the log-probability of each letter.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.benchmarks import Benchmark
from eval.modes import judge, render

GROUP_KEYS = ("relation", "subject_name", "subject", "medical_task", "step", "source")
"""Fields of `meta` that name what a question is about, the first that is there; the bank's `subject` is a fact's."""


@dataclass(frozen=True)
class Request:
    """One answer to ask for. seed: of this sample alone; questions that shared one would be sampled in lockstep."""

    row: dict[str, Any]
    sample: int
    seed: int
    prompt: str


@dataclass
class Answer:
    """What came back. error: why there is no response (then it counts as wrong). scores: of each letter."""

    response: str = ""
    tokens: int = 0
    truncated: bool = False
    error: str | None = None
    scores: dict[str, float] | None = field(default=None)


def make_seed(seed: int, row_id: str, sample: int) -> int:
    """A seed of 31 bits for one sample of one question, the same on every machine."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}/{row_id}/{sample}".encode()).digest()[:4], "big")
        >> 1
    )


def list_requests(benchmark: Benchmark, mode: str, samples: int, seed: int) -> list[Request]:
    """All answers of a task in the order in which they are asked."""
    return [
        Request(row, sample, make_seed(seed, row["id"], sample), render(row, mode, benchmark.frame))
        for row in benchmark.rows
        for sample in range(samples)
    ]


def build_sample(request: Request, answer: Answer, mode: str) -> dict[str, Any]:
    """The row that is written: the answer, how it is read, and what the statistics group and pair by."""
    row, meta = request.row, request.row["meta"]
    gold, num_options = row["answer"], len(row["options"])
    judgement = judge(answer.response, gold, row["options"], mode) if answer.error is None else None
    choice = judgement.choice if judgement else None
    lenient = judgement.choice_lenient if judgement else None
    sample = {
        "id": row["id"],
        "sample": request.sample,
        "seed": request.seed,
        "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
        "response": answer.response,
        "tokens": answer.tokens,
        "truncated": answer.truncated,
        "format_ok": bool(judgement and judgement.format_ok),
        "reason": judgement.reason if judgement else "error",
        "choice": choice,
        "choice_lenient": lenient,
        "correct": choice == gold,
        "correct_lenient": lenient == gold,
        "answer": gold,
        "num_options": num_options,
        "group": next(
            (str(meta[key]) for key in GROUP_KEYS if meta.get(key) not in (None, "")), ""
        ),
        "cluster": meta.get("cluster") or row["id"],
        "overlap": bool(meta.get("overlap_id")),
        "error": answer.error,
    }
    return sample if answer.scores is None else {**sample, "scores": answer.scores}


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The samples of a file; none where it does not exist. A last line torn by a kill is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.split(b"\n") if line]


def append_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    """Adds rows in one write, so that a kill leaves all of them or, at worst, whole lines and one torn one."""
    lines = b"".join(json.dumps(sample, ensure_ascii=False).encode() + b"\n" for sample in samples)
    with path.open("ab", buffering=0) as file:
        view = memoryview(lines)
        while view:
            view = view[file.write(view) :]


def sort_samples(path: Path, requests: list[Request]) -> list[dict[str, Any]]:
    """Puts a finished file into the order of its requests (endpoints answer in any) and returns its rows.

    The overlap flag is set anew: it depends on the training set, which may have been prepared again since.
    """
    samples = read_samples(path)
    found = {(sample["id"], sample["sample"]): sample for sample in samples}
    ordered = [
        {
            **found[request.row["id"], request.sample],
            "overlap": bool(request.row["meta"].get("overlap_id")),
        }
        for request in requests
    ]
    if ordered != samples:
        replace_samples(path, ordered)
    return ordered


def drop_errors(path: Path) -> None:
    """Takes the samples with an error out of a file, so that they are asked for again."""
    samples = read_samples(path)
    if any(sample["error"] for sample in samples):
        replace_samples(path, [sample for sample in samples if not sample["error"]])


def replace_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    """Writes under a temporary name, then renames."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    append_samples(partial, samples)
    os.replace(partial, path)
