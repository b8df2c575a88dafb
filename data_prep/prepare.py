"""Prepare a data set, step by step: read, parse, view, build rows, measure, compare, write."""

import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data_prep.card import draw_lengths, write_card
from data_prep.errors import UserError
from data_prep.files import write_jsonl
from data_prep.options import find_index_base, shuffle_options
from data_prep.options_view import apply_views, check_views
from data_prep.overlap import drop_copies
from data_prep.prepared import FORMAT, replace_folder, write_manifest
from data_prep.prompt import PROMPT_VERSION, Template, find_template, render_question
from data_prep.records import Records, read_records
from data_prep.rows import DIRECT_RESPONSES, build_row, unify_meta
from data_prep.splits import (
    STEP,
    TRAIN,
    Progress,
    Split,
    check_ids,
    check_rows,
    find_state,
    hash_rows,
    parse_records,
)
from data_prep.tokenizer import ModelTokenizer, load_tokenizer

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def prepare(cfg: DictConfig, progress: Progress = lambda step, done, total: None) -> dict[str, Any]:
    """Prepare one data set into `cfg.data_dir/cfg.data.name` and return its manifest.

    Raises UserError, with every problem that was found, before anything is written.
    """
    # read
    template, tokenizer, records = read_inputs(cfg)
    data, folder = cfg.data, Path(cfg.data_dir) / cfg.data.name
    origin, remarks = records.origin, records.remarks
    if data.index_base == "auto":
        origin["index_base"] = find_base(data, records)
        data = OmegaConf.merge(data, {"index_base": origin["index_base"]["base"]})

    # parse
    parse_row = importlib.import_module(f"data_prep.sources.{data.reader}").parse_row
    splits: dict[str, Split] = {}
    origin["rows"] = {}
    for name in list(records.splits):
        # pop: upstream records are not needed once parsed, and MedMCQA's are large
        raw = records.splits.pop(name)
        splits[name], parsed = parse_records(name, raw, parse_row, data, progress)
        origin["rows"][name] = {"rows": splits[name].read, "sha256": hash_rows(parsed)}
    remarks = [*remarks, *check_rows(data, folder, origin["rows"], origin.get("revision"))]
    check_ids(question for split in splits.values() for question in split.questions)

    # view
    shuffled = {}
    if data.shuffle_options:
        shuffled = {name: shuffle_split(split, cfg.seed) for name, split in splits.items()}
    left = {name: apply_views(split.questions, data) for name, split in splits.items()}

    # build rows, measure
    for split in splits.values():
        build_rows(split, tokenizer, template, data.direct_response, progress)
        drop_unfit_rows(split, tokenizer, data.max_prompt_tokens)
    refuse_empty(data.name, splits)

    # compare
    overlap = drop_copies(cfg, splits, progress)
    refuse_empty(data.name, splits)
    unify_meta([row["meta"] for split in splits.values() for row in split.rows])

    # write
    manifest = {
        "format": FORMAT,
        "name": data.name,
        "origin": origin,
        "state": find_state(data, origin["rows"]),
        "remarks": remarks,
        "files": {},
        "splits": {name: split.describe() for name, split in splits.items()},
        "overlap": overlap,
        "shuffled_options": shuffled,
        "views": {**data.options, "stem": data.stem, "left_as_they_are": left},
        "max_prompt_tokens": {
            "limit": data.max_prompt_tokens,
            "found": max(splits[TRAIN].tokens) if TRAIN in splits else 0,
        },
        "tokenizer": {
            "path": tokenizer.path,
            "sha256": tokenizer.sha256,
            "eos_token": tokenizer.eos_token,
        },
        "chat": tokenizer.chat._asdict() if tokenizer.chat else None,
        "prompt": template.describe(),
        "prompt_version": PROMPT_VERSION,
        "direct_response": data.direct_response,
        "seed": cfg.seed,
        "versions": {
            name: importlib.metadata.version(name) for name in ("tokenizers", "datasets", "numpy")
        },
    }
    with replace_folder(folder) as partial:
        for name, split in splits.items():
            rows = report_progress(split.rows, f"{name}: writing", progress)
            manifest["files"][f"{name}.jsonl"] = write_jsonl(partial / f"{name}.jsonl", rows)
        tokens = {name: split.tokens for name, split in splits.items()}
        draw_lengths(partial / "lengths.png", tokens, data.max_prompt_tokens)
        write_card(partial / "README.md", manifest)
        write_manifest(partial, manifest)
    return manifest


def read_inputs(cfg: DictConfig) -> tuple[Template, ModelTokenizer, Records]:
    """Read the prompt's template, the tokenizer and the upstream records.

    Raises UserError with all problems of the settings and of the three.
    """
    problems = check_settings(cfg)
    found: list[Any] = []
    if not OmegaConf.missing_keys(cfg.data) and not OmegaConf.missing_keys(cfg.model):
        for read in (
            lambda: find_template(cfg.data.prompt.name, cfg.data.prompt.file),
            lambda: load_tokenizer(
                cfg.model.path, cfg.model.get("revision"), cfg.data.chat is True
            ),
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


def check_settings(cfg: DictConfig) -> list[str]:
    """Check the settings of a preparation; returns one problem a line."""
    missing = sorted(
        key for key in OmegaConf.missing_keys(cfg) if key.startswith(("data.", "model."))
    )
    if missing:
        return [
            f"{key} is not set: give {key}=…; its file under recipes/configs explains it"
            for key in missing
        ]
    data = cfg.data
    problems = []
    # both become names of files
    for key, value in (("data.name", data.name), ("data.split", data.get("split", TRAIN))):
        if not NAME.fullmatch(str(value)):
            problems.append(f"{key}={value!r} becomes a file's name: use letters, digits, _ . -")
    if not isinstance(data.chat, bool):
        problems.append(f"data.chat={data.chat} must be true or false")
    problems += check_views(data)
    if data.direct_response not in DIRECT_RESPONSES:
        problems.append(
            f"data.direct_response={data.direct_response} is not one of "
            f"{', '.join(DIRECT_RESPONSES)}"
        )
    if data.get("answer_is", "letter") not in ("letter", "text", "index"):
        problems.append(f"data.answer_is={data.answer_is} is not one of letter, text, index")
    if data.index_base not in (None, 0, 1, "auto"):
        problems.append(f"data.index_base={data.index_base} is not one of 0, 1, auto")
    if data.get("answer_is") == "index" and data.index_base is None:
        problems.append("data.answer_is=index needs data.index_base: give 0, 1 or auto")
    limit = data.max_prompt_tokens
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        problems.append(f"data.max_prompt_tokens={limit} must be a number of tokens, 1 or more")
    return problems


def find_base(data: DictConfig, records: Records) -> dict[str, Any]:
    """Find if the configured answer column counts from 0 or 1, over all splits together."""
    columns = data.columns.options

    def count_options(record: dict[str, Any]) -> int:
        value = record.get(columns) if isinstance(columns, str) else columns
        return len(value) if value is not None and not isinstance(value, str) else 0

    contents = (content for split in records.splits.values() for _, content in split)
    return find_index_base(contents, data.columns.answer, count_options, data.columns.explanation)


def shuffle_split(split: Split, seed: int) -> dict[str, Any]:
    """Shuffle options in place; returns how many rows were and which were left in their order."""
    left = []
    for index, question in enumerate(split.questions):
        new = shuffle_options(question, seed)
        if new is None:
            left.append(question.id)
        else:
            split.questions[index] = new
    return {"rows": len(split.questions) - len(left), "left_in_order": left}


def build_rows(
    split: Split,
    tokenizer: ModelTokenizer,
    template: Template,
    direct_response: str,
    progress: Progress,
) -> None:
    """Turn a split's questions into rows, its prompts rendered, and count their tokens."""
    questions, split.questions = split.questions, []
    for start in range(0, len(questions), STEP):
        rows = [
            build_row(
                question,
                split.name,
                tokenizer.eos_token,
                tokenizer.frame,
                template,
                direct_response,
            )
            for question in questions[start : start + STEP]
        ]
        split.tokens.extend(tokenizer.count_tokens([row["prompt"] for row in rows]))
        split.rows.extend(rows)
        progress(f"{split.name}: counting tokens", len(split.rows), len(questions))


def drop_unfit_rows(split: Split, tokenizer: ModelTokenizer, limit: int) -> None:
    """Drop rows that hold the model's special tokens, and training rows over the limit.

    OpenRLHF would cut a long prompt from the left, and what is cut first is the instruction. The
    limit is on training rows alone: an evaluation row that does not fit its model is asked, fails
    and counts as wrong.
    """
    reasons: dict[str, str] = {}
    for row, tokens in zip(split.rows, split.tokens, strict=True):
        # The tokenizer would read it as the token itself, and an EOS inside a prompt ends it. Only
        # the question is looked at: the frame of a chat is made of such tokens.
        if tokenizer.special_tokens.search(render_question(row["question"], row["options"])):
            reasons[row["id"]] = "special_token_in_text"
        elif tokens > limit and split.name == TRAIN:
            reasons[row["id"]] = "prompt_too_long"
    split.keep_only(reasons)


def refuse_empty(name: str, splits: dict[str, Split]) -> None:
    """Refuse a data set with a split of no rows, and say why each row was dropped."""
    empty = [
        f"no row of {name}/{split.name} can be used: {split.explain_drops()}"
        for split in splits.values()
        if not split.rows
    ]
    if empty:
        raise UserError(*empty)


def report_progress(
    rows: list[dict[str, Any]], step: str, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Give the rows one by one, with progress."""
    for done, row in enumerate(rows, 1):
        yield row
        if done % STEP == 0 or done == len(rows):
            progress(step, done, len(rows))
