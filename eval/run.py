"""Evaluates models on benchmarks: asks, judges, and writes results/<name>/ with one table at the end.

make eval                                              base, SFT and RLVR of the laptop experiment on test and ood
make eval models='{mine:FOLDER}' benchmarks='[bank/test]'   any model folder, any prepared file
python -m eval.run --help                              every setting

The same command goes on where it was interrupted; answers on disk are never asked for again.
"""

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from data_prep.errors import UserError
from data_prep.files import write_text
from eval.ask import answer_tasks, lock_folder
from eval.choices import add_experiment
from eval.compare import Systems, compare_systems, judge_claims
from eval.plan import Plan, make_plan
from eval.provenance import append_run, describe_run
from eval.results import write_report
from eval.summary import summarise
from eval.terminal import print_table, show_progress

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"
SUMMARY = "summary.json"


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Plans, asks, writes summary and report; returns the summary. Raises UserError."""
    started = datetime.now(timezone.utc)
    plan = make_plan(cfg)
    for note in plan.notes:
        print(f"eval: {note}", file=sys.stderr)
    folder = Path(cfg.results_dir) / cfg.name
    try:
        with lock_folder(folder), show_progress(plan) as progress, ThreadPoolExecutor() as beside:
            beside.submit(import_libraries)
            samples, asked = answer_tasks(cfg, plan, folder, progress)
        systems: Systems = {}
        for task in plan.tasks:
            systems.setdefault(task.benchmark.name, {})[f"{task.model}.{task.mode}"] = samples[
                task.key
            ]
        summary = build_summary(cfg, plan, samples, systems)
        if asked or not (folder / "run.json").exists():
            append_run(folder / "run.json", describe_run(started, asked))
        questions = {row["id"]: row for task in plan.tasks for row in task.benchmark.rows}
        write_report(folder, summary, systems, questions)
        write_text(
            folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        )  # last: all is there
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; mend that, and the same command goes on"
        ) from error
    return summary


def import_libraries() -> None:
    """What the summary and its plots import, 3 seconds of it, while the engine loads. A fault shows where they do."""
    for name in ("matplotlib.pyplot", "scipy.stats", "statsmodels.stats.proportion"):
        importlib.import_module(name)


def build_summary(
    cfg: DictConfig, plan: Plan, samples: dict[str, list[dict[str, Any]]], systems: Systems
) -> dict[str, Any]:
    """All numbers, with the settings that each result depends on."""
    benchmarks = list(systems)
    results = [
        {
            "model": task.model,
            "benchmark": task.benchmark.name,
            "mode": task.mode,
            "path": plan.models[task.model],
            **summarise(samples[task.key], cfg.seed),
            "settings": task.settings,
        }
        for task in sorted(plan.tasks, key=lambda task: benchmarks.index(task.benchmark.name))
    ]
    pairs: Any = OmegaConf.to_container(cfg.compare) if cfg.compare is not None else None
    comparisons = compare_systems(systems, pairs, cfg.seed)
    claims = judge_claims(comparisons, OmegaConf.to_container(cfg.claims, resolve=True))
    return {"name": cfg.name, "results": results, "comparisons": comparisons, "claims": claims}


@hydra.main(config_path=str(CONFIGS), config_name="eval", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Evaluates, then prints one table. Exits with 2 and one line for each problem where the user must act."""
    try:
        summary = evaluate(cfg)
    except UserError as error:
        for problem in error.problems:
            print(f"eval: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("eval: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    print_table(summary)
    print(
        f"report.html, report.md, table.md, {SUMMARY}, samples/ in {Path(cfg.results_dir) / cfg.name}/"
    )


if __name__ == "__main__":
    add_experiment(sys.argv)
    main()
