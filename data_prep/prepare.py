"""The steps of preparation in their order: read, parse and clean, check, measure, compare, write."""

import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data_prep.card import count_reasons, draw_lengths, write_card
from data_prep.contamination import TRAIN, check_ids, compare_splits
from data_prep.errors import UserError
from data_prep.files import write_jsonl
from data_prep.index_base import find_index_base
from data_prep.integrity import check_rows, find_state, hash_rows
from data_prep.lengths import ModelTokenizer, load_tokenizer
from data_prep.options_view import apply_views, check_views
from data_prep.prepared import FORMAT, replace_folder, write_manifest
from data_prep.prompt import (
    PROMPT_VERSION,
    Template,
    find_template,
    render_prompt,
    render_question,
)
from data_prep.records import Records, read_records
from data_prep.rows import build_row, unify_meta
from data_prep.shuffle import shuffle_options
from data_prep.splits import STEP, Progress, Split, parse_records


def prepare(cfg: DictConfig, progress: Progress = lambda step, done, total: None) -> dict[str, Any]:
    """Prepares one data set into `cfg.data_dir/cfg.data.name` and returns its manifest.

    Raises UserError, with every problem that was found, before anything is written.
    """
    missing = sorted(
        key for key in OmegaConf.missing_keys(cfg) if key.split(".")[0] in ("data", "model")
    )
    if missing:
        raise UserError(
            *(
                f"{key} is not set: give {key}=…; its file under recipes/configs explains it"
                for key in missing
            )
        )
    data, folder = cfg.data, Path(cfg.data_dir) / cfg.data.name
    limit = cfg.openrlhf.data.max_len - cfg.openrlhf.rollout.max_new_tokens
    template, tokenizer, records = read_inputs(cfg, limit)
    origin = records.origin
    if data.index_base == "auto":
        origin["index_base"] = find_base(data, records)
        data.index_base = origin["index_base"]["base"]

    parse_row = importlib.import_module(f"data_prep.sources.{data.reader}").parse_row
    splits: dict[str, Split] = {}
    origin["rows"] = {}
    for name in list(records.splits):
        # pop: upstream records are not needed once parsed, and MedMCQA's are large
        splits[name], parsed = parse_records(
            name, records.splits.pop(name), parse_row, data, progress
        )
        origin["rows"][name] = {"rows": splits[name].read, "sha256": hash_rows(parsed)}
    remarks = check_rows(data, folder, origin["rows"], origin.get("revision"))
    check_ids(question for split in splits.values() for question in split.questions)

    shuffled = (
        {name: shuffle_split(split, cfg) for name, split in splits.items()}
        if data.shuffle_options
        else {}
    )
    left = {name: apply_views(split.questions, data) for name, split in splits.items()}
    for split in splits.values():
        drop_long_prompts(split, tokenizer, template, limit, progress)
    overlap = compare_splits(cfg, splits, progress)
    unify_meta(question for split in splits.values() for question in split.questions)
    empty = [
        f"no row of {data.name}/{s.name} can be used: {count_reasons(s.dropped)}"
        for s in splits.values()
        if not s.questions
    ]
    if empty:
        raise UserError(*empty)

    with replace_folder(folder) as partial:
        files = {}
        for name, split in splits.items():
            rows = report_rows(split, tokenizer, template, progress)
            files[f"{name}.jsonl"] = write_jsonl(partial / f"{name}.jsonl", rows)
        manifest = {
            "format": FORMAT,
            "name": data.name,
            "origin": origin,
            "state": find_state(data, origin["rows"]),
            "remarks": remarks,
            "files": files,
            "splits": {name: split.describe() for name, split in splits.items()},
            "overlap": overlap,
            "shuffled_options": shuffled,
            "views": {**data.options, "stem": data.stem, "left_as_they_are": left},
            "max_prompt_tokens": measure_longest(splits, limit),
            "tokenizer": {
                "path": tokenizer.path,
                "sha256": tokenizer.sha256,
                "eos_token": tokenizer.eos_token,
            },
            "chat": tokenizer.chat._asdict() if tokenizer.chat else None,
            "prompt": template.describe(),
            "prompt_version": PROMPT_VERSION,
            "seed": cfg.seed,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("tokenizers", "datasets", "numpy")
            },
        }
        draw_lengths(
            partial / "lengths.png", {name: split.tokens for name, split in splits.items()}, limit
        )
        write_card(partial / "README.md", manifest)
        write_manifest(partial, manifest)
    return manifest


def read_inputs(cfg: DictConfig, limit: int) -> tuple[Template, ModelTokenizer, Records]:
    """Read the prompt's template, the tokenizer and the upstream records.

    Raises UserError with all problems of the settings and of the three.
    """
    problems: list[str] = []
    if limit <= 0:
        problems.append(
            f"openrlhf.data.max_len={cfg.openrlhf.data.max_len} leaves no room for a prompt beside "
            f"openrlhf.rollout.max_new_tokens={cfg.openrlhf.rollout.max_new_tokens}: raise the one or lower the other"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", cfg.data.name):
        problems.append(
            f"data.name={cfg.data.name!r} becomes a folder's name: use letters, digits, _ . -"
        )
    if not isinstance(cfg.data.chat, bool):
        problems.append(f"data.chat={cfg.data.chat} must be true or false")
    problems += check_views(cfg.data)
    found: list[Any] = []
    for read in (
        lambda: find_template(cfg.data.prompt.name, cfg.data.prompt.file),
        lambda: load_tokenizer(cfg.model.path, cfg.model.get("revision"), cfg.data.chat is True),
        lambda: read_records(cfg),
    ):
        try:
            found.append(read())
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    template, tokenizer, records = found
    return template, tokenizer, records


def find_base(data: DictConfig, records: Records) -> dict[str, Any]:
    """Whether the configured answer column counts from 0 or 1, over all splits together."""
    columns = data.columns.options

    def count_options(record: dict[str, Any]) -> int:
        value = record.get(columns) if isinstance(columns, str) else columns
        return len(value) if value is not None and not isinstance(value, str) else 0

    contents = (content for split in records.splits.values() for _, content in split)
    return find_index_base(contents, data.columns.answer, count_options, data.columns.explanation)


def shuffle_split(split: Split, cfg: DictConfig) -> dict[str, Any]:
    """Shuffles options in place; returns how many rows were and which were left in their order."""
    left = []
    for index, question in enumerate(split.questions):
        new = shuffle_options(question, cfg.seed)
        if new is None:
            left.append(question.id)
        else:
            split.questions[index] = new
    return {"rows": len(split.questions) - len(left), "left_in_order": left}


def drop_long_prompts(
    split: Split, tokenizer: ModelTokenizer, template: Template, limit: int, progress: Progress
) -> None:
    """Measure every prompt; drop training rows over the limit and rows with special tokens."""
    reasons: dict[str, str] = {}
    for start in range(0, len(split.questions), STEP):
        batch = split.questions[start : start + STEP]
        prompts = [
            render_prompt(question.question, question.options, tokenizer.frame, template)
            for question in batch
        ]
        split.tokens.extend(tokenizer.count_tokens(prompts))
        progress(f"{split.name}: counting tokens", start + len(batch), len(split.questions))
        for question in batch:
            # The tokenizer would read it as the token itself, and an EOS inside a prompt ends it. Only the question is
            # looked at: the frame of a chat is made of such tokens.
            if tokenizer.special_tokens.search(
                render_question(question.question, question.options)
            ):
                reasons[question.id] = "special_token_in_text"
    # PPO's limit is on training rows alone: dropping hard evaluation rows would flatter every score
    for question, tokens in zip(split.questions, split.tokens, strict=True):
        if tokens > limit and split.name == TRAIN:
            reasons.setdefault(question.id, "prompt_too_long")
    split.keep_only(reasons)


def measure_longest(splits: dict[str, Split], limit: int) -> dict[str, Any]:
    """Return the limit, the longest training prompt (of any where there are none), and who is over.

    over_limit: evaluation rows by split. `make eval` asks them whole; the engine's own evaluation
    in training cuts them from the left.
    """
    trained = [splits[TRAIN]] if TRAIN in splits else list(splits.values())
    over = {
        name: [
            question.id
            for question, tokens in zip(split.questions, split.tokens, strict=True)
            if tokens > limit
        ]
        for name, split in splits.items()
    }
    return {
        "limit": limit,
        "found": max(max(split.tokens) for split in trained),
        "over_limit": {name: ids for name, ids in over.items() if ids},
    }


def report_rows(
    split: Split, tokenizer: ModelTokenizer, template: Template, progress: Progress
) -> Iterator[dict[str, Any]]:
    """The rows to write, with progress."""
    for done, question in enumerate(split.questions, 1):
        yield build_row(question, split.name, tokenizer.eos_token, tokenizer.frame, template)
        if done % STEP == 0 or done == len(split.questions):
            progress(f"{split.name}: writing", done, len(split.questions))
