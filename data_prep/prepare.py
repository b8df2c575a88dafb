"""The steps of preparation in their order: read, parse, clean, measure, write."""

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.clean import clean_question
from data_prep.errors import BadRow, PrepError
from data_prep.lengths import ModelTokenizer, load_tokenizer, measure_quantiles
from data_prep.manifest import replace_folder, write_jsonl, write_manifest
from data_prep.prompt import PROMPT_VERSION
from data_prep.records import Records, read_records
from data_prep.rows import Question, build_row

Progress = Callable[[str, int, int], None]
"""Called with (split, rows done, rows in all)."""

BATCH = 1000


def prepare(cfg: DictConfig, progress: Progress = lambda split, done, total: None) -> dict[str, Any]:
    """Prepares one data set into `cfg.data_dir/cfg.data.name` and returns its manifest.

    Raises PrepError, with every problem that was found, before anything is written.
    """
    limit = cfg.openrlhf.data.max_len - cfg.openrlhf.rollout.max_new_tokens
    problems: list[str] = []
    if limit <= 0:
        problems.append(
            f"openrlhf.data.max_len={cfg.openrlhf.data.max_len} leaves no room for a prompt beside "
            f"openrlhf.rollout.max_new_tokens={cfg.openrlhf.rollout.max_new_tokens}: raise the one or lower the other"
        )
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", cfg.data.name):
        problems.append(f"data.name={cfg.data.name!r} becomes a folder's name: use letters, digits, _ . -")
    tokenizer: ModelTokenizer | None = None
    records: Records | None = None
    try:
        tokenizer = load_tokenizer(cfg.model.path, cfg.model.get("revision"))
    except PrepError as error:
        problems.extend(error.problems)
    try:
        records = read_records(cfg.data, cfg.seed)
    except PrepError as error:
        problems.extend(error.problems)
    if problems or tokenizer is None or records is None:
        raise PrepError(*problems)

    parse_row = importlib.import_module(f"data_prep.sources.{cfg.data.reader}").parse_row
    folder = Path(cfg.data_dir) / cfg.data.name
    splits: dict[str, Any] = {}
    files: dict[str, Any] = {}
    with replace_folder(folder) as partial:
        for split, split_records in records.splits.items():
            report = SplitReport(len(split_records), tokenizer, limit)
            questions = report.clean_records(split_records, f"{cfg.data.name}/{split}", parse_row)
            rows = report.build_rows(questions, split, progress)
            files[f"{split}.jsonl"] = write_jsonl(partial / f"{split}.jsonl", rows)
            splits[split] = report.describe(files[f"{split}.jsonl"]["rows"])
            if not splits[split]["kept"]:
                raise PrepError(f"no row of {cfg.data.name}/{split} could be used: {splits[split]['dropped']}")
        manifest = {
            "name": cfg.data.name,
            "origin": records.origin,
            "files": files,
            "splits": splits,
            "max_prompt_tokens": {
                "limit": limit,
                "found": max(facts["tokens"]["prompt"]["max"] for facts in splits.values()),
            },
            "tokenizer": {"path": tokenizer.path, "sha256": tokenizer.sha256, "eos_token": tokenizer.eos_token},
            "prompt_version": PROMPT_VERSION,
            "seed": cfg.seed,
            "versions": {name: importlib.metadata.version(name) for name in ("tokenizers", "datasets")},
        }
        write_manifest(partial, manifest)
    return manifest


class SplitReport:
    """What happens to the rows of one split, so that read = kept + dropped can be shown."""

    def __init__(self, read: int, tokenizer: ModelTokenizer, limit: int) -> None:
        self.read = read
        self.tokenizer = tokenizer
        self.limit = limit
        self.dropped: dict[str, list[str]] = {}
        self.fixed: dict[str, list[str]] = {}
        self.prompt_tokens: list[int] = []
        self.direct_tokens: list[int] = []

    def clean_records(
        self, records: list[Any], prefix: str, parse_row: Callable[[Any, str], Question]
    ) -> Iterator[Question]:
        """Parses and cleans records; what cannot be used is listed under its reason."""
        for number, record in enumerate(records):
            row_id = f"{prefix}/{number}"
            try:
                if isinstance(record, BadRow):
                    raise record
                question, fixed = clean_question(parse_row(record, row_id))
            except BadRow as bad:
                self.dropped.setdefault(bad.reason, []).append(row_id)
                continue
            for rule in fixed:
                self.fixed.setdefault(rule, []).append(question.id)
            yield question

    def build_rows(self, questions: Iterator[Question], split: str, progress: Progress) -> Iterator[dict[str, Any]]:
        """Renders rows in batches and drops those whose prompt is over the limit."""
        done, batch = 0, []
        for question in questions:
            batch.append(build_row(question, split, self.tokenizer.eos_token))
            if len(batch) == BATCH:
                yield from self.filter_lengths(batch)
                done, batch = done + BATCH, []
                progress(split, done, self.read)
        yield from self.filter_lengths(batch)
        progress(split, self.read, self.read)

    def filter_lengths(self, batch: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Counts tokens of a batch and lets through the rows that fit."""
        prompts = self.tokenizer.count_tokens([row["prompt"] for row in batch])
        directs = self.tokenizer.count_tokens([row["direct_prompt"] for row in batch])
        for row, prompt_tokens, direct_tokens in zip(batch, prompts, directs, strict=True):
            if prompt_tokens > self.limit:
                self.dropped.setdefault("prompt_too_long", []).append(row["id"])
                continue
            self.prompt_tokens.append(prompt_tokens)
            self.direct_tokens.append(direct_tokens)
            yield row

    def describe(self, kept: int) -> dict[str, Any]:
        """The split's part of the manifest. Raises AssertionError if a row was lost, which would be our defect."""
        if self.read != kept + sum(map(len, self.dropped.values())):
            raise AssertionError(f"read {self.read}, kept {kept}, dropped {self.dropped}")
        return {
            "read": self.read,
            "kept": kept,
            "dropped": self.dropped,
            "fixed": self.fixed,
            "tokens": {
                "prompt": measure_quantiles(self.prompt_tokens),
                "direct_prompt": measure_quantiles(self.direct_tokens),
            },
        }
