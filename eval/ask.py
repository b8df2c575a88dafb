"""Answer the tasks of a plan: what is on disk stays, the rest is asked and written as it comes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import read_mapping, write_json
from eval.endpoint import ask_endpoint
from eval.modes import split_mode
from eval.samples import (
    Answer,
    Request,
    Samples,
    append_samples,
    build_sample,
    load_samples,
    sort_samples,
)
from eval.tasks import Plan, Task
from eval.worker import run_engine

Report = Callable[[Task, int], None]
"""Called with (task, number of answers that came)."""
Missing = list[tuple[int, Request]]
"""Requests without an answer, each with its place among all requests of the task."""
Work = list[tuple[Task, Missing]]
Receive = Callable[[Task, list[Request], list[Answer]], None]


def answer_tasks(
    cfg: DictConfig, plan: Plan, folder: Path, report: Report
) -> tuple[dict[str, Samples], int]:
    """Answer what is missing; return each task's samples by its key, and how many were asked now.

    Raises UserError.
    """
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    files = {task.key: folder / "samples" / f"{task.key}.jsonl" for task in plan.tasks}
    # before anything is asked: answers of other settings must not mix with these
    claim_answers(plan.tasks, files, folder / "settings.json", cfg.overwrite)
    missing: dict[str, Missing] = {}
    for task in plan.tasks:
        known = {
            (sample["id"], sample["sample"])
            for sample in load_samples(files[task.key])
            if not (sample["error"] and cfg.retry_errors)
        }
        places = enumerate(task.requests)
        missing[task.key] = [(i, request) for i, request in places if request.key not in known]
        report(task, len(task.requests) - len(missing[task.key]))

    def receive(task: Task, requests: list[Request], answers: list[Answer]) -> None:
        pairs = zip(requests, answers, strict=True)
        rows = [build_sample(request, answer, task.mode) for request, answer in pairs]
        append_samples(files[task.key], rows)
        report(task, len(rows))

    # one model at a time, with all its tasks: loading it takes longest
    for model, path in plan.models.items():
        asked = [task for task in plan.tasks if task.model == model and missing[task.key]]
        work = [(task, missing[task.key]) for task in asked]
        if work and cfg.endpoint is None:
            ask_engine(cfg, path, work, folder / "engine.log", receive)
        elif work:
            ask_server(cfg, path, work, receive)
    # answers were appended as they came; the summary needs them in the order of the questions
    samples = {task.key: sort_samples(files[task.key], task.requests) for task in plan.tasks}
    return samples, sum(map(len, missing.values()))


def claim_answers(tasks: list[Task], files: dict[str, Path], path: Path, overwrite: bool) -> None:
    """Refuse answers on disk that were made with other settings, or remove them with `overwrite`.

    Then write to `path` what each task's answers depend on.
    """
    # unreadable settings are refused: then it is unknown what the answers depend on
    known = read_mapping(path, "choose name=NAME") if path.exists() else {}
    problems = []
    for task in tasks:
        file = files[task.key]
        differences = compare_settings(known.get(task.key), task.settings) if file.exists() else []
        if differences and overwrite:
            file.unlink()
        elif differences:
            problems.append(f"{file} came from other settings: {'; '.join(differences)}")
    if problems:
        advice = "choose another folder (name=NAME), or ask these again (overwrite=true)"
        raise UserError(*problems, advice)
    # tasks of other calls stay: a folder may be filled model by model
    write_json(path, known | {task.key: task.settings for task in tasks})


def compare_settings(before: Any, now: Any, key: str = "") -> list[str]:
    """List the differences of two nested settings as `key was before, is now`."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{key} was {before}, is {now}"]
    differences = []
    for name in before | now:
        inner = f"{key}.{name}" if key else name
        differences += compare_settings(before.get(name), now.get(name), inner)
    return differences


def ask_engine(cfg: DictConfig, path: str, work: Work, log: Path, receive: Receive) -> None:
    """Ask vLLM for the missing answers of one model. Raises UserError where it fails."""
    waiting, tasks = [], []
    for task, missing in work:
        chunks = cut_chunks(missing, cfg.chunk)
        waiting += [(task, chunk) for chunk in chunks]
        tasks.append(
            {
                "letters": task.mode == "loglikelihood",
                "keep_special_tokens": split_mode(task.mode)[0] == "think",
                "sampling": task.settings["sampling"],
                "chunks": [[describe_request(request) for request in chunk] for chunk in chunks],
            }
        )
    engine = work[0][0].settings["engine"]  # the same of all tasks
    job = {"model": path, "engine": engine, "max_len": cfg.max_len}
    # answers come chunk by chunk, in the order of the job
    for event in run_engine(job | {"tasks": tasks}, log):
        if event["event"] == "answers":
            task, chunk = waiting.pop(0)
            receive(task, chunk, [Answer(**answer) for answer in event["answers"]])


def ask_server(cfg: DictConfig, served_name: str, work: Work, receive: Receive) -> None:
    """Ask an endpoint for the missing answers of one model; each is written as it comes."""
    waiting = [(task, request) for task, missing in work for _, request in missing]
    requests = [(request, task.settings["sampling"]) for task, request in waiting]

    def receive_one(index: int, answer: Answer) -> None:
        task, request = waiting[index]
        receive(task, [request], [answer])

    # data.chat holds for every benchmark of an evaluation
    ask_endpoint(cfg, served_name, requests, bool(cfg.data.chat), receive_one)


def cut_chunks(missing: Missing, size: int) -> list[list[Request]]:
    """Cut at the same places whatever is missing: before every `size`-th request of the task."""
    chunks: dict[int, list[Request]] = {}
    for index, request in missing:
        chunks.setdefault(index // size, []).append(request)
    return list(chunks.values())


def describe_request(request: Request) -> dict[str, Any]:
    """Describe a request as the worker reads it."""
    options = len(request.row["options"])
    return {"text": request.prompt, "seed": request.seed, "num_options": options}
