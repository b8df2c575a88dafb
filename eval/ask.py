"""Answer the tasks of a plan: what is on disk stays, the rest is asked and written as it comes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import write_json
from eval.endpoint import ask_endpoint
from eval.modes import split_mode
from eval.tasks import Plan, Task, list_engine_options
from eval.samples import (
    Answer,
    Request,
    Samples,
    append_samples,
    build_sample,
    drop_errors,
    read_samples,
    sort_samples,
)
from eval.worker import run_engine

SETTINGS = "settings.json"

Progress = Callable[[Task, int], None]
"""Called with (task, number of answers that came)."""
Missing = dict[str, list[tuple[int, Request]]]
"""Task key -> requests without an answer, each with its place among all requests of the task."""


def answer_tasks(
    cfg: DictConfig, plan: Plan, folder: Path, progress: Progress
) -> tuple[dict[str, Samples], int]:
    """Answer what is missing; return each task's samples by its key, and how many were asked now.

    Raises UserError.
    """
    check_answers(plan.tasks, folder, cfg.overwrite)
    missing: Missing = {}
    for task in plan.tasks:
        if cfg.retry_errors:
            drop_errors(find_samples(folder, task))
        missing[task.key] = list_missing(task, folder)
        progress(task, len(task.requests) - len(missing[task.key]))
    for model, path in plan.models.items():
        tasks = [task for task in plan.tasks if task.model == model and missing[task.key]]
        if tasks:
            ask = ask_engine if cfg.endpoint is None else ask_server
            ask(cfg, path, tasks, missing, folder, progress)
    samples = {
        task.key: sort_samples(find_samples(folder, task), task.requests) for task in plan.tasks
    }
    return samples, sum(map(len, missing.values()))


def find_samples(folder: Path, task: Task) -> Path:
    """Name the file of a task's samples."""
    return folder / "samples" / f"{task.key}.jsonl"


def check_answers(tasks: list[Task], folder: Path, overwrite: bool) -> None:
    """Refuse answers on disk that were made with other settings, or remove them with `overwrite`.

    Then write what each task's answers depend on.
    """
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    known: dict[str, Any] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error}): choose name=NAME") from error
    # many tasks usually differ in the same way: their files are named together
    changed: dict[str, list[str]] = {}
    for task in tasks:
        file = find_samples(folder, task)
        differences = compare_settings(known.get(task.key), task.settings) if file.exists() else []
        if differences and overwrite:
            file.unlink()
        elif differences:
            changed.setdefault("; ".join(differences), []).append(str(file))
    if changed:
        problems = [
            f"{', '.join(files)} came from other settings: {differences}"
            for differences, files in changed.items()
        ]
        advice = "choose another folder (name=NAME), or ask these again (overwrite=true)"
        raise UserError(*problems, advice)
    write_json(path, known | {task.key: task.settings for task in tasks})


def compare_settings(before: Any, now: Any, key: str = "") -> list[str]:
    """List the differences of two nested settings as `key was before, is now`."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{key} was {before}, is {now}"]
    differences = []
    for name in {**before, **now}:
        inner = f"{key}.{name}" if key else name
        differences += compare_settings(before.get(name), now.get(name), inner)
    return differences


def list_missing(task: Task, folder: Path) -> list[tuple[int, Request]]:
    """List the requests without an answer on disk, each with its place in the task."""
    done = {(sample["id"], sample["sample"]) for sample in read_samples(find_samples(folder, task))}
    return [
        (index, request)
        for index, request in enumerate(task.requests)
        if (request.row["id"], request.sample) not in done
    ]


def ask_engine(
    cfg: DictConfig,
    path: str,
    tasks: list[Task],
    missing: Missing,
    folder: Path,
    progress: Progress,
) -> None:
    """Ask vLLM for the missing answers of one model. Raises UserError where it fails."""
    waiting: list[tuple[Task, list[Request]]] = []
    job: dict[str, Any] = {
        "model": path,
        "engine": list_engine_options(cfg),
        "max_len": cfg.max_len,
        "tasks": [],
    }
    for task in tasks:
        chunks = cut_chunks(missing[task.key], cfg.chunk)
        waiting += [(task, chunk) for chunk in chunks]
        job["tasks"].append(
            {
                "key": task.key,
                "letters": task.mode == "loglikelihood",
                "keep_special_tokens": split_mode(task.mode)[0] == "think",
                "sampling": task.settings["sampling"],
                "chunks": [list(map(describe_request, chunk)) for chunk in chunks],
            }
        )
    # answers come chunk by chunk, in the order of the job
    position = 0
    for event in run_engine(job, folder / "engine.log"):
        if event["event"] == "progress":
            progress(waiting[min(position, len(waiting) - 1)][0], event["done"])
        elif event["event"] == "answers":
            task, chunk = waiting[position]
            position += 1
            answers = [Answer(**answer) for answer in event["answers"]]
            pairs = zip(chunk, answers, strict=True)
            rows = [build_sample(request, answer, task.mode) for request, answer in pairs]
            append_samples(find_samples(folder, task), rows)


def ask_server(
    cfg: DictConfig,
    served_name: str,
    tasks: list[Task],
    missing: Missing,
    folder: Path,
    progress: Progress,
) -> None:
    """Ask an endpoint for the missing answers of one model; each is written as it comes."""
    waiting = [(task, request) for task in tasks for _, request in missing[task.key]]

    def receive(index: int, answer: Answer) -> None:
        task, request = waiting[index]
        append_samples(find_samples(folder, task), [build_sample(request, answer, task.mode)])
        progress(task, 1)

    requests = [(request, task.settings["sampling"]) for task, request in waiting]
    # data.chat holds for every benchmark of an evaluation
    ask_endpoint(cfg, served_name, requests, bool(cfg.data.chat), receive)


def cut_chunks(missing: list[tuple[int, Request]], size: int) -> list[list[Request]]:
    """Cut at the same places whatever is missing: before every `size`-th request of the task."""
    chunks: dict[int, list[Request]] = {}
    for index, request in missing:
        chunks.setdefault(index // size, []).append(request)
    return list(chunks.values())


def describe_request(request: Request) -> dict[str, Any]:
    """Describe a request as the worker reads it."""
    return {
        "text": request.prompt,
        "seed": request.seed,
        "num_options": len(request.row["options"]),
    }
