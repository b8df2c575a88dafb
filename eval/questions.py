"""The questions that are asked: rows of prepared files, limited, marked, with examples from dev."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.prepared import MANIFEST, Prepared, open_prepared
from eval.modes import draw_examples, split_mode

FIELDS = ("id", "question", "options", "answer", "prompt", "direct_prompt", "meta")


@dataclass(frozen=True)
class Benchmark:
    """Questions of one prepared file. name: `<data set>/<split>`; sha256: of the whole file."""

    name: str
    sha256: str
    rows: list[dict[str, Any]]
    prepared: Prepared

    def describe(self, limit: int | None) -> dict[str, Any]:
        """Say which questions, labels and prompt template an answer belongs to."""
        manifest = self.prepared.manifest
        prompt = manifest.get("prompt") or {"name": "plain", "file": None, "sha256": None}
        return {
            "name": self.name,
            "sha256": self.sha256,
            "limit": limit,
            "state": manifest.get("state"),
            "prompt": prompt,
        }


@contextmanager
def collect_problems(problems: list[str]) -> Iterator[None]:
    """Add the problems of a UserError in the block to `problems`, and continue after it."""
    try:
        yield
    except UserError as error:
        problems.extend(error.problems)


def read_benchmarks(cfg: DictConfig, notes: list[str]) -> list[Benchmark]:
    """Read the benchmarks named, or the default ones. Raises UserError.

    Rows are limited here, and marked where they are like a training row of `data`.
    """
    data_dir, words = Path(cfg.data_dir), name_settings(cfg)
    names = list(cfg.benchmarks or [f"{cfg.data.name}/test"])
    ood = (cfg.out_of_distribution or {}).get(cfg.data.name) if cfg.benchmarks is None else None
    if ood and os.path.isfile(data_dir / f"{ood}.jsonl"):
        names.append(ood)
    elif ood:
        command = f"make prep data={ood.partition('/')[0]}{words}"
        notes.append(f"{ood} is left out: `{command}` prepares it")
    problems: list[str] = []
    found: dict[str, Benchmark] = {}
    for name in dict.fromkeys(map(str, names)):
        path = Path(name) if name.endswith(".jsonl") else data_dir / f"{name}.jsonl"
        with collect_problems(problems):
            try:
                path.stat()
            except FileNotFoundError:
                pass  # reading it says what prepares it
            except (OSError, ValueError) as error:  # a name that no file can have
                raise UserError(
                    f"benchmarks: {name[:200]!r} cannot be read: {error!r:.200}"
                ) from error
            benchmark = read_benchmark(path.absolute(), cfg, words)
            if benchmark.name in found and found[benchmark.name].sha256 != benchmark.sha256:
                raise UserError(f"{path}: another file is called {benchmark.name} already")
            found[benchmark.name] = benchmark
    benchmarks = list(found.values())
    # the training set may have been prepared after the benchmark, so its own list counts too
    training = data_dir / str(cfg.data.name)
    if os.path.isfile(training / MANIFEST):
        with collect_problems(problems):
            overlap = open_prepared(training).manifest.get("overlap") or {}
            mark_overlap(benchmarks, overlap.get("evaluation_rows", {}))
            for name in overlap.get("not_checked_against", []):
                notes.extend(
                    f"{benchmark.name} was not compared with the training rows of {cfg.data.name}, "
                    f"so its clean subset is all of it: `make prep data={cfg.data.name}{words}` "
                    "compares them"
                    for benchmark in benchmarks
                    if benchmark.name.split("/")[0] == name
                )
    if problems:
        raise UserError(*problems)
    return benchmarks


def read_benchmark(path: Path, cfg: DictConfig, words: str) -> Benchmark:
    """Read one prepared file, limited to `limit` rows. Raises UserError."""
    folder, split = path.parent, path.stem
    prepare = f"make prep data={folder.name}{words}"
    prepared = open_prepared(folder, prepare)
    rows = prepared.read_rows(split)
    if missing := [field for field in FIELDS if any(field not in row for row in rows)]:
        raise UserError(f"{path}: rows have no {', '.join(missing)}: run `{prepare}` again")
    if len({row["id"] for row in rows}) != len(rows) or not rows:
        raise UserError(
            f"{path}: no rows, or repeated ids among {len(rows)}: run `{prepare}` again"
        )
    if (prepared.frame is not None) != cfg.data.chat:
        held = "plain" if prepared.frame is None else "chat"
        wanted, other = str(cfg.data.chat).lower(), str(not cfg.data.chat).lower()
        command = prepare + ("" if cfg.data.chat else " data.chat=false")
        raise UserError(
            f"{path} holds {held} prompts, but data.chat={wanted}: run `{command}`, or ask with "
            f"data.chat={other}"
        )
    if isinstance(cfg.limit, int) and 1 <= cfg.limit < len(rows):
        # drawn, since a file may be sorted by subject; the same rows for every model
        kept = {row["id"] for row in draw_examples(rows, cfg.limit, cfg.seed)}
        rows = [row for row in rows if row["id"] in kept]
    sha256 = prepared.manifest["files"][path.name]["sha256"]
    return Benchmark(f"{folder.name}/{split}", sha256, rows, prepared)


def mark_overlap(benchmarks: list[Benchmark], listed: dict[str, Any]) -> None:
    """Set `meta.overlap_id` of rows that a training set lists as like one of its kept rows."""
    for benchmark in benchmarks:
        for row in benchmark.rows:
            like = listed.get(row["id"])
            if like and not like["train_row_dropped"]:
                row["meta"]["overlap_id"] = like["train_id"]


def read_examples(benchmark: Benchmark, mode: str, seed: int) -> list[dict[str, Any]]:
    """Draw the examples of a few-shot mode from dev. Raises UserError."""
    count = split_mode(mode)[1]
    if not count:
        return []
    rows = benchmark.prepared.read_rows("dev")
    asked = {row["id"] for row in benchmark.rows}
    try:
        return draw_examples([row for row in rows if row["id"] not in asked], count, seed)
    except ValueError as error:
        raise UserError(f"mode {mode} on {benchmark.name}: {error}") from error


def name_settings(cfg: DictConfig) -> str:
    """Name what `make prep` needs next to the data set to prepare what this evaluation reads."""
    experiment = "laptop"
    if HydraConfig.initialized():
        experiment = HydraConfig.get().runtime.choices["experiment"]
    words = [f"experiment={experiment}"] if experiment != "laptop" else []
    words += [f"data_dir={cfg.data_dir}"] if str(cfg.data_dir) != "data" else []
    words += ["data.chat=true"] if cfg.data.chat else []
    return "".join(f" {word}" for word in words)
