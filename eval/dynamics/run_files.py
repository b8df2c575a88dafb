"""Read a run folder as it is: several processes' files, cut lines, missing or damaged ones.

Nothing in a folder is trusted: only regular files are opened, and a row that could spoil a mean, an
axis or the JSON is left out. What is missing becomes a sentence for the top of the report.
"""

import json
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, Field, InstanceOf, model_validator

from data_prep.errors import UserError

MOST_STEPS = 10_000_000  # more is damage, and would be the whole axis
LARGEST = 1e12  # the times of rows are about 2e9, everything else is smaller


def drop_surrogates(text: str) -> str:
    """Replace half an emoji, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode()


Text = Annotated[InstanceOf[str], AfterValidator(drop_surrogates)]
Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Number = Annotated[float, Field(gt=-LARGEST, lt=LARGEST)]


class FileRow(BaseModel, strict=True, allow_inf_nan=False):
    """A row of a file: no type is converted, no NaN is let in."""


class Rollout(FileRow):
    """A row of rollouts/*.jsonl; what has a default may be absent."""

    id: Text
    split: Text
    response: Text
    reward: Number
    correct: bool
    step: Step | None = None
    episode: Step | None = None
    response_tokens: Step | None = None
    truncated: bool | None = None
    format_ok: bool | None = None
    choice: Text | None = None
    reason: Text | None = None
    time: Number | None = None


class MetricsRow(FileRow, extra="allow"):
    """A row of metrics.jsonl, with whatever the engine logged."""

    kind: Text
    step: Step


class Question(FileRow):
    """A prepared row. An open question has no options and no gold letter."""

    id: Text
    question: Text
    options: list[Text] = []
    answer: Annotated[str, Field(pattern="^[A-Z]$")] | None = None
    prompt: Text = ""

    @model_validator(mode="before")
    @classmethod
    def drop_open_answer(cls, row: Any) -> Any:
        """Leave out the answer of an open question, which is no letter."""
        is_open = isinstance(row, dict) and row.get("options") == []
        return row | {"answer": None} if is_open else row


Row = TypeVar("Row", bound=FileRow)


class RunFiles(NamedTuple):
    """The files of a run.

    rollouts: in order of id, step and time. questions: those found, by id. train: step -> the
    numbers of metrics.jsonl. missing: a sentence for each thing that is not there.
    """

    folder: Path
    rollouts: list[Rollout]
    questions: dict[str, Question]
    train: dict[int, dict[str, float]]
    run: dict[str, Any]
    config: dict[str, Any]
    missing: list[str]


def read_run(folder: Path) -> RunFiles:
    """Read what there is. Raises UserError where there is no rollout of the split train."""
    missing: list[str] = []
    rollouts = read_rollouts(folder, missing)
    steps = {row.step or 0 for row in rollouts if row.split == "train"}
    if not steps:
        raise UserError(
            f"{folder}/rollouts holds no rollout of the split train: is it a run folder of "
            "`make rlvr` with reward.hook=agent or server?",
            *(f"{folder}: {line}" for line in missing),
        )
    train = read_metrics(folder / "metrics.jsonl", missing)
    run = read_mapping(folder / "run.json", missing)
    config = read_mapping(folder / "config.yaml", missing)

    # rollouts name questions by id only; evaluations in training ask other rows than train.jsonl
    paths = [folder / "train.jsonl"]
    dataset = find_value(config, "openrlhf.eval.dataset")
    if isinstance(dataset, str):
        paths.append(Path(dataset))
    questions = {row.id: row for path in paths for row in read_rows(path, missing, Question)}

    missing += compare_steps(steps, set(train))
    if unknown := len({row.id for row in rollouts} - set(questions)):
        missing.append(f"{unknown:,} questions are not found: no prompt, no comparison with it")
    # a run that has not ended has no exit code yet
    code = run.get("exit")
    if run and code != 0:
        ended = "has not ended" if code is None else f"ended with exit code {code}"
        total = run.get("total_steps", "an unknown number of")
        missing.append(f"the run {ended}; it was to have {total} steps")
    return RunFiles(folder, rollouts, questions, train, run, config, missing)


def compare_steps(rolled: set[int], logged: set[int]) -> Iterator[str]:
    """Report the steps that have no rollouts, no metrics, or neither; at most five of each."""
    known = sorted(rolled | logged)
    unlogged = sorted(rolled - logged) if logged else []
    # a gap is never listed step by step: a damaged step number would make millions
    gaps = [(last + 1, after - 1) for last, after in pairwise(known) if after > last + 1]
    found = {
        "metrics and no rollouts": [str(step) for step in sorted(logged - rolled)],
        "neither rollouts nor metrics": [f"{a} to {b}" if a < b else str(a) for a, b in gaps],
        "rollouts and no metrics: no KL there": [str(step) for step in unlogged],
    }
    for what, steps in found.items():
        if steps:
            more = f" and {len(steps) - 5:,} more" if len(steps) > 5 else ""
            yield f"steps {', '.join(steps[:5])}{more} have {what}"


def read_rollouts(folder: Path, missing: list[str]) -> list[Rollout]:
    """Read all processes' rows, in order of id, step and time; a repeated row counts once."""
    files = sorted((folder / "rollouts").glob("*.jsonl"))
    read = [row for path in files for row in read_rows(path, missing, Rollout)]
    stamped = [row for row in read if row.step is not None]
    if unstamped := len(read) - len(stamped):
        missing.append(f"{unstamped:,} rollouts have no step (not of `make rlvr`): left out")
    rows = {(row.id, row.step, row.time, row.response): row for row in stamped}
    if twice := len(stamped) - len(rows):
        missing.append(f"{twice:,} rollouts are there twice, with the same time: counted once")
    return sorted(rows.values(), key=lambda row: (row.id, row.step, row.time or 0))


def read_metrics(path: Path, missing: list[str]) -> dict[int, dict[str, float]]:
    """Read step -> its finite numbers, of training. Of a resumed step the later row counts."""
    train: dict[int, dict[str, float]] = {}
    unusable = 0
    for row in read_rows(path, missing, MetricsRow):
        if row.kind == "train":
            logged = (row.model_extra or {}).items()
            usable = {k: v for k, v in logged if type(v) in (int, float) and abs(v) < LARGEST}
            train[row.step] = usable
            unusable += len(logged) - len(usable)
    if unusable:
        missing.append(f"{unusable:,} values of {path.name} are not finite numbers: left out")
    return train


def read_rows(path: Path, missing: list[str], kind: type[Row]) -> list[Row]:
    """Read the rows of a .jsonl file that are whole and of this kind; report how many are not."""
    lines = BytesIO(read_content(path, missing) or b"").readlines()
    rows: list[Row] = []
    faults: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(kind.model_validate(json.loads(line)))
        except (ValueError, RecursionError):  # RecursionError: brackets thousands deep
            faults.append(number)
    if faults and not lines[faults[-1] - 1].endswith(b"\n"):
        missing.append(f"the last line of {path.name} (line {faults.pop():,}) is cut: left out")
    if faults:
        of_all = f"{len(faults):,} of {len(lines):,} lines of {path.name}"
        missing.append(f"{of_all} are not rows: left out, the first is line {faults[0]:,}")
    return rows


def read_mapping(path: Path, missing: list[str]) -> dict[str, Any]:
    """Read a YAML or JSON file; empty where it is not there or is no mapping, which is reported."""
    content = read_content(path, missing)
    read: Any = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        return {} if content is None else dict(read(content).items())
    except (ValueError, AttributeError, yaml.YAMLError, RecursionError):
        missing.append(f"{path.name} is broken")
        return {}


def read_content(path: Path, missing: list[str]) -> bytes | None:
    """Read a regular file: a FIFO would hang, /dev/zero would fill the memory."""
    try:
        if path.is_file():
            return path.read_bytes()
        missing.append(f"{path.name} is {'no regular file' if path.exists() else 'not there'}")
    except OSError as error:
        missing.append(f"{path.name} cannot be read: {error.strerror or error}")
    return None


def find_value(values: Any, key: str, default: Any = None) -> Any:
    """Find `a.b.c` in nested mappings; the default where a part is missing, null or no mapping."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return default if values is None else values
