"""Reads a run folder as it is: several processes' files, cut lines, missing files. What is missing is listed."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_prep.errors import UserError

ROLLOUT = {
    "id": str,
    "split": str,
    "step": int,
    "response": str,
    "reward": (int, float),
    "correct": bool,
}
"""What a rollout must have to be shown; the other fields of DESIGN's section 6 may lack."""


class Record(NamedTuple):
    """A run. rollouts: rows in order of id, step and time. questions: id -> row, as far as they are found.

    train, evals: the rows of metrics.jsonl of each kind, by step. missing: a sentence for each thing that is not there.
    """

    name: str
    folder: Path
    rollouts: list[dict[str, Any]]
    questions: dict[str, dict[str, Any]]
    train: dict[int, dict[str, Any]]
    evals: list[dict[str, Any]]
    run: dict[str, Any]
    config: dict[str, Any]
    missing: list[str]


def read_run(folder: Path) -> Record:
    """Reads what there is. Raises UserError where there is no rollout at all."""
    missing: list[str] = []
    rollouts = read_rollouts(folder, missing)
    if not rollouts:
        raise UserError(
            f"{folder}/rollouts holds no rollout: is it a run folder of `make rlvr` with reward.hook=agent or server?"
        )
    metrics = list(read_lines(folder / "metrics.jsonl", missing))
    train = {
        row["step"]: row for row in metrics if row.get("kind") == "train"
    }  # a resumed step: the later row
    evals = [row for row in metrics if row.get("kind") == "eval"]
    run = read_whole(folder / "run.json", json.loads, missing)
    config = read_whole(folder / "config.yaml", yaml.safe_load, missing)
    questions = read_questions(folder, config, missing)
    steps = {row["step"] for row in rollouts if row["split"] == "train"}
    if lost := sorted(set(train) - steps):
        missing.append(f"steps {join_numbers(lost)} have metrics and no rollouts")
    if gaps := sorted(set(range(min(steps, default=0), max(steps, default=0))) - steps - set(lost)):
        missing.append(f"steps {join_numbers(gaps)} have neither rollouts nor metrics")
    if train and (lost := sorted(steps - set(train))):
        missing.append(f"steps {join_numbers(lost)} have rollouts and no metrics: no KL there")
    if unknown := len({row["id"] for row in rollouts} - set(questions)):
        missing.append(
            f"{unknown:,} questions are not found: their prompts, and what is compared with them, are left out"
        )
    if run and run.get("exit") != 0:
        ended = (
            "has not ended" if run.get("exit") is None else f"ended with exit code {run['exit']}"
        )
        missing.append(
            f"the run {ended}; it was to have {run.get('total_steps', 'an unknown number of')} steps"
        )
    return Record(
        run.get("name", folder.name),
        folder,
        rollouts,
        questions,
        train,
        evals,
        run,
        config,
        missing,
    )


def read_rollouts(folder: Path, missing: list[str]) -> list[dict[str, Any]]:
    """All processes' rows, in order of id, step and time; rows that are twice there count once."""
    files = sorted((folder / "rollouts").glob("*.jsonl"))
    if not files:
        missing.append(f"{folder}/rollouts has no .jsonl file")
    rows: list[dict[str, Any]] = []
    seen: set[tuple[Any, ...]] = set()
    twice = unstamped = 0
    for path in files:
        for row in read_lines(path, missing, ROLLOUT):
            key = (row["id"], row["step"], row.get("time"), hash(row["response"]))
            if row["step"] is None:
                unstamped += 1
            elif key in seen:
                twice += 1
            else:
                seen.add(key)
                rows.append(row)
    if twice:
        missing.append(
            f"{twice:,} rollouts are there twice, the same to the letter and the moment: counted once"
        )
    if unstamped:
        missing.append(
            f"{unstamped:,} rollouts have no step (not sampled by `make rlvr`): left out"
        )
    return sorted(rows, key=lambda row: (row["id"], row["step"], row.get("time", 0)))


def read_lines(
    path: Path, missing: list[str], fields: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file that are whole and have `fields` of their types; counts of the others go to missing."""
    if not path.exists():
        missing.append(f"{path.name} is not there")
        return
    faults: list[int] = []
    lines = number = 0
    cut = False
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            lines += 1
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or (fields and not has_fields(row, fields)):
                    raise ValueError
            except ValueError:
                cut = not line.endswith(b"\n")
                if not cut:
                    faults.append(number)
                continue
            yield row
    if cut:
        missing.append(f"the last line of {path.name} (line {number:,}) is cut: left out")
    if faults:
        missing.append(
            f"{len(faults):,} of {lines:,} lines of {path.name} are not rows: left out, the first {faults[0]:,}"
        )


def has_fields(row: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Whether the row has the fields with their types; `step` may be null."""
    return all(
        isinstance(row.get(key), kind) or (key == "step" and row.get(key, 0) is None)
        for key, kind in fields.items()
    )


def read_whole(path: Path, parse: Any, missing: list[str]) -> dict[str, Any]:
    """A whole file's object; an empty one where it is not there or broken, which is listed."""
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{path.name} is not there")
        return {}
    except (ValueError, yaml.YAMLError):
        missing.append(f"{path.name} is broken")
        return {}
    return found if isinstance(found, dict) else {}


def read_questions(
    folder: Path, config: dict[str, Any], missing: list[str]
) -> dict[str, dict[str, Any]]:
    """id -> row, from the run's train.jsonl and from the evaluation set that its configuration names."""
    questions = {
        row["id"]: row
        for row in read_lines(folder / "train.jsonl", missing, {"id": str, "question": str})
    }
    dataset = ((config.get("openrlhf") or {}).get("eval") or {}).get("dataset")
    if dataset:
        rows: Iterable[dict[str, Any]] = read_lines(
            Path(dataset), missing, {"id": str, "question": str}
        )
        questions |= {row["id"]: row for row in rows}
    return questions


def join_numbers(numbers: list[int]) -> str:
    """`3 to 7, 12`: sorted numbers as ranges, at most five of them."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:5]]
    return ", ".join(shown) + (f" and {len(ranges) - 5} more" if len(ranges) > 5 else "")
