"""The questions that are asked: rows of prepared files, limited, marked, with examples from dev."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.command import name_preparation
from data_prep.errors import UserError
from data_prep.prepared import MANIFEST, Prepared, open_prepared
from eval.modes import draw_examples, split_mode


@dataclass(frozen=True)
class Benchmark:
    """Questions of one prepared file. name: `<data set>/<split>`; sha256: of the whole file."""

    name: str
    sha256: str
    rows: list[dict[str, Any]]
    prepared: Prepared


@contextmanager
def collect_problems(problems: list[str]) -> Iterator[None]:
    """Add the problems of a UserError in the block to `problems`, and continue after it."""
    try:
        yield
    except UserError as error:
        problems.extend(error.problems)


def read_benchmarks(cfg: DictConfig) -> tuple[list[Benchmark], list[str]]:
    """Read the benchmarks named, or the default ones, and note what is left out. Raises UserError.

    Rows are limited here, and marked where they are like a training row of `data`.
    """
    data_dir, notes, problems = Path(cfg.data_dir), list[str](), list[str]()
    names = list(cfg.benchmarks or [f"{cfg.data.name}/test"])
    ood = (cfg.out_of_distribution or {}).get(cfg.data.name) if cfg.benchmarks is None else None
    if ood and os.path.isfile(data_dir / f"{ood}.jsonl"):
        names.append(ood)
    elif ood:
        command = name_preparation(ood.partition("/")[0], cfg.data_dir, cfg.data.chat)
        notes.append(f"{ood} is left out: `{command}` prepares it")
    found: dict[str, Benchmark] = {}
    for name in dict.fromkeys(names):
        path = Path(name) if name.endswith(".jsonl") else data_dir / f"{name}.jsonl"
        try:
            benchmark = read_benchmark(path.absolute(), cfg)
            if found.setdefault(benchmark.name, benchmark).sha256 != benchmark.sha256:
                problems.append(f"{path}: another file is called {benchmark.name} already")
        except UserError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"benchmarks: {name[:200]!r} cannot be read: {error!r:.200}")
    # the training set may have been prepared after the benchmark, so its own list counts too
    with collect_problems(problems):
        if os.path.isfile(data_dir / cfg.data.name / MANIFEST):
            overlap = open_prepared(data_dir / cfg.data.name).manifest.get("overlap") or {}
            for benchmark in found.values():
                notes += mark_overlap(benchmark, overlap, cfg)
    if problems:
        raise UserError(*problems)
    return list(found.values()), notes


def read_benchmark(path: Path, cfg: DictConfig) -> Benchmark:
    """Read one prepared file, limited to `limit` rows. Raises UserError."""
    folder, split = path.parent, path.stem
    prepare = name_preparation(folder.name, cfg.data_dir, cfg.data.chat)
    prepared = open_prepared(folder, prepare)
    rows = prepared.read_rows(split)
    if not rows:
        raise UserError(f"{path} has no rows: run `{prepare}` again")
    if (prepared.frame is not None) != cfg.data.chat:
        held, other = ("plain", "false") if prepared.frame is None else ("chat", "true")
        command = prepare + ("" if cfg.data.chat else " data.chat=false")
        raise UserError(
            f"{path} holds {held} prompts, but data.chat={str(cfg.data.chat).lower()}: "
            f"run `{command}`, or ask with data.chat={other}"
        )
    if cfg.limit and 1 <= cfg.limit < len(rows):
        # drawn, since a file may be sorted by subject; the same rows for every model
        kept = {row["id"] for row in draw_examples(rows, cfg.limit, cfg.seed)}
        rows = [row for row in rows if row["id"] in kept]
    sha256 = prepared.manifest["files"][path.name]["sha256"]
    return Benchmark(f"{folder.name}/{split}", sha256, rows, prepared)


def mark_overlap(benchmark: Benchmark, overlap: dict[str, Any], cfg: DictConfig) -> list[str]:
    """Set `meta.overlap_id` of rows like a kept training row; note a benchmark not compared."""
    listed = overlap.get("evaluation_rows", {})
    for row in benchmark.rows:
        like = listed.get(row["id"])
        if like and not like["train_row_dropped"]:
            row["meta"]["overlap_id"] = like["train_id"]
    if benchmark.name.partition("/")[0] not in overlap.get("not_checked_against", []):
        return []
    prepare = name_preparation(cfg.data.name, cfg.data_dir, cfg.data.chat)
    told = f"{benchmark.name} was not compared with the training rows of {cfg.data.name}"
    return [f"{told}, so its clean subset is all of it: `{prepare}` compares them"]


def read_examples(benchmark: Benchmark, mode: str, seed: int) -> list[dict[str, Any]]:
    """Draw the examples of a few-shot mode from dev. Raises UserError."""
    count = split_mode(mode)[1]
    if not count:
        return []
    asked = {row["id"] for row in benchmark.rows}
    rows = [row for row in benchmark.prepared.read_rows("dev") if row["id"] not in asked]
    try:
        return draw_examples(rows, count, seed)
    except ValueError as error:
        raise UserError(f"mode {mode} on {benchmark.name}: {error}") from error
