"""Answers the tasks of a plan: what is on disk stays, the rest is asked, and every answer is written as it comes."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import write_text
from eval.endpoint import ask_endpoint
from eval.engine import run_engine
from eval.plan import Plan, Task, get_engine
from eval.samples import (
    Answer,
    Request,
    append_samples,
    build_sample,
    drop_errors,
    read_samples,
    sort_samples,
)

SETTINGS = "settings.json"

Progress = Callable[[Task, int], None]
"""Called with (task, number of answers that came)."""


def answer_tasks(
    cfg: DictConfig, plan: Plan, folder: Path, progress: Progress
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Answers what is missing; returns the samples of each task by its key, and how many were asked for now.

    Raises UserError.
    """
    check_settings(plan.tasks, folder, cfg.overwrite)
    if cfg.retry_errors:
        for task in plan.tasks:
            drop_errors(samples_path(folder, task))
    missing = {task.key: find_missing(task, folder, progress) for task in plan.tasks}
    for model, path in plan.models.items():
        tasks = [task for task in plan.tasks if task.model == model and missing[task.key]]
        if tasks:
            ask = ask_engine if cfg.endpoint is None else ask_server
            ask(cfg, path, tasks, missing, folder, progress)
    samples = {
        task.key: sort_samples(samples_path(folder, task), task.requests) for task in plan.tasks
    }
    return samples, sum(map(len, missing.values()))


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder; the lock goes with the process, even one that is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another evaluation is writing {folder}: wait for it, or choose name=NAME"
            ) from error
        yield


def samples_path(folder: Path, task: Task) -> Path:
    """Where the samples of a task lie."""
    return folder / "samples" / f"{task.key}.jsonl"


def check_settings(tasks: list[Task], folder: Path, overwrite: bool) -> None:
    """Writes what each task's answers depend on; answers made otherwise are refused, or removed with `overwrite`."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    changed: dict[str, list[Path]] = {}
    for task in tasks:
        file = samples_path(folder, task)
        differences = compare(known.get(task.key), task.settings) if file.exists() else []
        if differences and not overwrite:
            changed.setdefault("; ".join(differences), []).append(file)
        elif differences:
            file.unlink()
    if changed:
        raise UserError(
            *(
                f"{', '.join(map(str, files))} came from other settings: {text}"
                for text, files in changed.items()
            ),
            "choose another folder (name=NAME), or ask these again (overwrite=true)",
        )
    settings = {**known, **{task.key: task.settings for task in tasks}}
    write_text(path, json.dumps(settings, indent=1) + "\n")


def compare(before: Any, now: Any, key: str = "") -> list[str]:
    """The differences of two nested settings as `key: before, now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = {name: f"{key}.{name}" if key else name for name in {**before, **now}}
        return [
            line for name in names for line in compare(before.get(name), now.get(name), names[name])
        ]
    return [] if before == now else [f"{key} was {before}, is {now}"]


def find_missing(task: Task, folder: Path, progress: Progress) -> list[tuple[int, Request]]:
    """The requests without an answer on disk, each with its place among all requests of the task."""
    done = {(sample["id"], sample["sample"]) for sample in read_samples(samples_path(folder, task))}
    progress(task, len(done))
    return [
        (index, request)
        for index, request in enumerate(task.requests)
        if (request.row["id"], request.sample) not in done
    ]


def ask_engine(
    cfg: DictConfig,
    path: str,
    tasks: list[Task],
    missing: dict[str, list[tuple[int, Request]]],
    folder: Path,
    progress: Progress,
) -> None:
    """Asks vLLM for the missing answers of one model. Raises UserError where it fails."""
    chunks = {task.key: cut_chunks(missing[task.key], cfg.chunk) for task in tasks}
    job = {
        "model": path,
        "engine": get_engine(cfg),
        "max_len": cfg.max_len,
        "tasks": [
            {
                "key": task.key,
                "letters": task.mode == "loglikelihood",
                "sampling": task.settings["sampling"],
                "chunks": [[describe(request) for request in chunk] for chunk in chunks[task.key]],
            }
            for task in tasks
        ],
    }
    waiting = iter([(task, chunk) for task in tasks for chunk in chunks[task.key]])
    task, chunk = next(waiting)
    for event in run_engine(job, folder / "engine.log"):
        if event["event"] == "progress":
            progress(task, event["done"])
        elif event["event"] == "answers":
            answers = [Answer(**answer) for answer in event["answers"]]
            rows = [
                build_sample(request, answer, task.mode)
                for request, answer in zip(chunk, answers, strict=True)
            ]
            append_samples(samples_path(folder, task), rows)
            task, chunk = next(waiting, (task, []))


def ask_server(
    cfg: DictConfig,
    served_name: str,
    tasks: list[Task],
    missing: dict[str, list[tuple[int, Request]]],
    folder: Path,
    progress: Progress,
) -> None:
    """Asks an endpoint for the missing answers of one model; each is written as it comes, in any order."""
    waiting = [(task, request) for task in tasks for _, request in missing[task.key]]

    def receive(index: int, answer: Answer) -> None:
        task, request = waiting[index]
        append_samples(samples_path(folder, task), [build_sample(request, answer, task.mode)])
        progress(task, 1)

    ask_endpoint(
        cfg,
        served_name,
        [(request, task.settings["sampling"]) for task, request in waiting],
        receive,
    )


def cut_chunks(missing: list[tuple[int, Request]], size: int) -> list[list[Request]]:
    """Cuts at the same places whatever is missing: before every `size`-th request of the task."""
    chunks: dict[int, list[Request]] = {}
    for index, request in missing:
        chunks.setdefault(index // size, []).append(request)
    return list(chunks.values())


def describe(request: Request) -> dict[str, Any]:
    """A request as the engine's process reads it."""
    return {
        "text": request.prompt,
        "seed": request.seed,
        "num_options": len(request.row["options"]),
    }
