"""Prepare a data set, step by step: read, parse, view, build rows, measure, compare, write."""

import importlib.metadata
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from data_prep.card import draw_lengths, render_card
from data_prep.clean import WARNINGS
from data_prep.errors import UserError
from data_prep.files import read_mapping, write_json, write_jsonl, write_text
from data_prep.open_view import open_questions
from data_prep.options import apply_views, replace_questions, shuffle_options
from data_prep.overlap import drop_copies, split_chunks
from data_prep.prepared import FORMAT, MANIFEST, replace_folder
from data_prep.prompt import (
    DIRECT_RESPONSES,
    PROMPT_VERSION,
    ChatFrame,
    Template,
    find_template,
    render_question,
)
from data_prep.records import SPLITS, Records, read_records
from data_prep.rows import build_row, unify_meta
from data_prep.sources.custom import find_index_base
from data_prep.splits import (
    TRAIN,
    Split,
    check_rows,
    find_state,
    follow_rows,
    hash_rows,
    parse_records,
)
from data_prep.tokenizer import ModelTokenizer, load_tokenizer

BATCH = 2_000_000  # characters tokenised at a time: the encodings take 200 bytes for each
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")  # becomes a folder's name
TABLES = read_mapping(Path(__file__).with_suffix(".yaml"))
CHOICES = {
    "reader": sorted(path.stem for path in Path(__file__).with_name("sources").glob("[a-z]*.py")),
    "direct_response": list(DIRECT_RESPONSES),
    **TABLES["choices"],
}
OWN_META = ("warnings", "cluster", "overlap_id", "overlap_share", "rotation_of")


def prepare(cfg: DictConfig) -> dict[str, Any]:
    """Prepare one data set into `cfg.data_dir/cfg.data.name` and return its manifest.

    Raises UserError, with every problem that was found, before anything is written.
    """
    # read
    template, tokenizer, records = read_inputs(cfg)
    data, folder = cfg.data, Path(cfg.data_dir) / str(cfg.data.name)
    origin, remarks = records.origin, records.remarks
    absent = list_absent_columns(records, data.columns)
    if data.index_base == "auto":
        contents = (content for split in records.splits.values() for _, content in split)
        base = find_index_base(contents, data.columns.answer, data.columns.options)
        origin["index_base"], data = base, OmegaConf.merge(data, {"index_base": base})

    # parse
    parse_row = importlib.import_module(f"data_prep.sources.{data.reader}").parse_row
    splits: dict[str, Split] = {}
    origin["rows"] = {}
    for name in list(records.splits):
        # pop: upstream records are not needed once parsed, and MedMCQA's are large
        raw = records.splits.pop(name)
        splits[name], parsed = parse_records(name, raw, parse_row, data)
        origin["rows"][name] = {"rows": splits[name].read, "sha256": hash_rows(parsed)}
    if absent and any(split.questions for split in splits.values()):
        raise UserError(*absent)
    remarks = [*remarks, *check_rows(data, folder, origin["rows"], origin.get("revision"))]
    # across splits too: rewards and rollouts know a row by its id alone
    counts = Counter(question.id for split in splits.values() for question in split.questions)
    if double := [row_id for row_id, count in counts.items() if count > 1]:
        raise UserError(f"ids occur twice, such as {double[0]}: the source numbers rows twice")

    # view
    for split in splits.values() if data.openly else []:
        open_questions(split)
    if any(bool(q.target) == template.has_options for s in splits.values() for q in s.questions):
        fix = "open answers need data.prompt.name=open, choices any other"
        raise UserError(f"data.prompt.name={template.name} is not for these answers: {fix}")
    shuffled, left = {}, {}
    for name, split in splits.items() if template.has_options else []:
        if data.shuffle_options:
            fixed = replace_questions(split.questions, lambda q: shuffle_options(q, cfg.seed))
            shuffled[name] = {"rows": len(split.questions) - len(fixed), "left_in_order": fixed}
        before = len(split.questions)
        left[name] = apply_views(split.questions, data)
        split.read += len(split.questions) - before  # each rotation is a row

    # build rows, measure, compare
    for split in splits.values():
        build_rows(split, tokenizer, template, data)
    overlap = drop_copies(cfg, splits)
    if empty := [split for split in splits.values() if not split.rows]:
        said = f"no row of {data.name}/{{}} can be used: {{}}"
        raise UserError(*(said.format(split.name, split.explain_drops()) for split in empty))
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
            "bos_token": tokenizer.bos_token,
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
            path = partial / f"{name}.jsonl"
            manifest["files"][path.name] = write_jsonl(path, split.rows)
        tokens = {name: split.tokens for name, split in splits.items()}
        draw_lengths(partial / "lengths.png", tokens, data.max_prompt_tokens)
        write_text(partial / "README.md", render_card(manifest))
        # no time and no path of this machine in it: same input, same bytes
        write_json(partial / MANIFEST, manifest)
    return manifest


def read_inputs(cfg: DictConfig) -> tuple[Template, ModelTokenizer, Records]:
    """Read template, tokenizer and upstream records. Raises UserError with all their problems."""
    # keys that no file gives a value (`???` in base.yaml)
    missing = [key for key in OmegaConf.missing_keys(cfg) if key.startswith(("data.", "model."))]
    if missing:
        raise UserError(*(f"{key} is not set: give {key}=…" for key in sorted(missing)))
    data, model = cfg.data, cfg.model
    problems = check_settings(data)
    if not problems and (foreign := list_foreign(Path(cfg.data_dir) / str(data.name))):
        problems.append(
            f"{cfg.data_dir}/{data.name} would be replaced, with files that no preparation wrote "
            f"({', '.join(foreign)[:100]}): move it, or give another data.name or data_dir"
        )
    if type(cfg.seed) is not int or cfg.seed < 0:
        problems.append(f"seed={cfg.seed} must be a whole number, 0 or more")
    # all three are tried, so that one message has the problems of all
    found: list[Any] = []
    for read in (
        lambda: find_template(data.prompt.name, data.prompt.file),
        lambda: load_tokenizer(model.path, model.get("revision"), data.chat is True),
        lambda: read_records(cfg),
    ):
        try:
            found.append(read())
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    return found[0], found[1], found[2]


def list_foreign(folder: Path) -> list[str]:
    """List files that no preparation wrote: they would be lost where a data set is replaced."""
    if not folder.is_dir():
        return [folder.name] if folder.exists() else []
    ours = {MANIFEST, "README.md", "lengths.png", *(f"{split}.jsonl" for split in SPLITS)}
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in ours or MANIFEST not in names]


def list_absent_columns(records: Records, columns: DictConfig) -> list[str]:
    """List the columns of a list that no row has: each would pass for one that is empty."""
    rows = [row for split in records.splits.values() for _, row in split if isinstance(row, dict)]
    known: set[str] = set().union(*rows)
    said = f"they have {', '.join(sorted(known)):.300}"
    listed = {key: names for key, names in columns.items() if isinstance(names, ListConfig)}
    absent = [(key, name) for key, names in listed.items() for name in names if name not in known]
    return [f"data.columns.{key!s}: no row has {name!r}, {said}" for key, name in absent]


def check_settings(data: DictConfig) -> list[str]:
    """Check the settings of a preparation; returns one problem a line."""
    problems = []
    if data.name is None or not NAME.fullmatch(str(data.name)):
        fix = "becomes a folder's name: use letters, digits, _ . -, 100 at most"
        problems.append(f"data.name={data.name!r:.60} {fix}")
    # become names of files
    for key in ("split", "files", "hub.splits", "holdout"):
        given = OmegaConf.select(data, key, default=TRAIN)
        for split in [given] if key == "split" else given or ():
            if split not in SPLITS:
                problems.append(f"data.{key}: {split!r:.60} is no split of {', '.join(SPLITS)}")
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(data, key, default=allowed[0])
        if value not in allowed:
            words = [json.dumps(word).strip('"') for word in allowed]  # as YAML has them
            problems.append(f"data.{key}={value} is not one of {', '.join(words)}")
    if unknown := [name for name in data.drop or () if name not in WARNINGS]:
        problems.append(f"data.drop={unknown} is no warning; there are {', '.join(WARNINGS)}")
    if data.get("answer_is") == "index" and data.index_base is None:
        problems.append("data.answer_is=index needs data.index_base: give 0, 1 or auto")
    for key in TABLES["lists"]:
        # a text would be read letter by letter
        value = OmegaConf.select(data, key, default=OmegaConf.create([]))
        if not isinstance(value, ListConfig) or not all(isinstance(name, str) for name in value):
            problems.append(f"data.{key}={value} must be a list of names: give data.{key}=[NAME]")
    if taken := [name for name in data.columns.get("meta") or () if name in OWN_META]:
        problems.append(f"data.columns.meta: preparation writes {taken} itself: rename the columns")
    if len(data.columns.get("limits") or ()) not in (0, 2):
        problems.append("data.columns.limits must be two columns, the lower and the upper limit")
    flag, drop = data.overlap.flag, data.overlap.drop
    shares = (flag, 1 if drop is None else drop)
    are_numbers = all(type(share) in (int, float) for share in shares)
    if not are_numbers or not 0 < shares[0] <= shares[1] <= 1:  # nor NaN
        fix = "give 0 < flag <= drop <= 1, or drop=null"
        problems.append(f"data.overlap: flag={flag} and drop={drop} are no shares: {fix}")
    limit, rotate = data.max_prompt_tokens, data.options.rotate
    has_view = data.shuffle_options or rotate or data.options.none_of_the_above
    if data.prompt.name == "open" and (has_view or data.stem != "keep"):
        keys = "data.shuffle_options, data.options and data.stem"
        problems.append(f"data.prompt.name=open shows no options: leave {keys} as they are")
    if type(limit) is not int or limit < 1:
        problems.append(f"data.max_prompt_tokens={limit} must be a number of tokens, 1 or more")
    if type(rotate) is not int and rotate != "all":
        problems.append(f"data.options.rotate={rotate} is no whole number, nor all")
    return problems


def build_rows(split: Split, tokenizer: ModelTokenizer, template: Template, data: Any) -> None:
    """Turn a split's questions into rows, count their tokens and drop those that do not fit.

    OpenRLHF would cut a long prompt from the left, the instruction first. The limit is on training
    rows alone: an evaluation row that does not fit its model is asked, and counts as wrong.
    """
    eos_token, chat = tokenizer.eos_token, tokenizer.chat
    frame = ChatFrame(chat.prefix, chat.suffix) if chat else None
    split.rows = [
        build_row(question, split.name, eos_token, frame, template, data.direct_response)
        for question in split.questions
    ]
    split.questions = []
    prompts = [row["prompt"] for row in split.rows]
    chunks = list(split_chunks(list(map(len, prompts)), BATCH))
    for start, end in follow_rows(chunks, f"{split.name}: counting tokens"):
        split.tokens += tokenizer.count_tokens(prompts[start:end])
    reasons: dict[str, str] = {}
    for row, tokens in zip(split.rows, split.tokens, strict=True):
        # The tokenizer would read it as the token itself, and an EOS inside a prompt ends it.
        # Only the question is looked at: the frame of a chat is made of such tokens.
        asked = render_question(row["question"], row["options"], template.layout)
        if tokenizer.special_tokens.search(asked):
            reasons[row["id"]] = "special_token_in_text"
        elif tokens > data.max_prompt_tokens and split.name == TRAIN:
            reasons[row["id"]] = "prompt_too_long"
    split.keep_only(reasons)
