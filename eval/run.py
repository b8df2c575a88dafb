"""Evaluates models on benchmarks: asks, judges, and writes results/<name>/ with one table at the end.

make eval                                              base, SFT and RLVR of the laptop experiment on test and ood
make eval models='{mine:FOLDER}' benchmarks='[bank/test]'   any model folder, any prepared file
python -m eval.run --help                              every setting

The same command goes on where it was interrupted; answers on disk are never asked for again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from eval.answer import answer_tasks
from eval.errors import EvalError
from eval.plan import Plan, make_plan
from eval.summary import summarise
from eval.table import print_table, show_progress

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"
SUMMARY = "summary.json"


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Plans, asks, and writes the summary, which it returns. Raises EvalError."""
    plan = make_plan(cfg)
    for note in plan.notes:
        print(f"eval: {note}", file=sys.stderr)
    folder = Path(cfg.results_dir) / cfg.name
    try:
        with show_progress(plan) as progress:
            samples = answer_tasks(cfg, plan, folder, progress)
        summary = build_summary(cfg, plan, samples)
        write_text(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise EvalError(f"cannot write {folder}: {error.strerror}; mend that, and the same command goes on") from error
    return summary


def build_summary(cfg: DictConfig, plan: Plan, samples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """All numbers, with the settings that each result depends on."""
    results = [
        {
            "model": task.model,
            "benchmark": task.benchmark.name,
            "mode": task.mode,
            "path": plan.models[task.model],
            **summarise(samples[task.key], cfg.seed),
            "settings": task.settings,
        }
        for task in plan.tasks
    ]
    return {"name": cfg.name, "results": results}


def write_text(path: Path, text: str) -> None:
    """Writes under a temporary name, then renames: the file is whole or not there."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@hydra.main(config_path=str(CONFIGS), config_name="eval", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Evaluates, then prints one table. Exits with 2 and one line for each problem where the user must act."""
    try:
        summary = evaluate(cfg)
    except EvalError as error:
        for problem in error.problems:
            print(f"eval: {problem}", file=sys.stderr)
        sys.exit(2)
    print_table(summary)
    print(f"samples, {SUMMARY}, engine.log in {Path(cfg.results_dir) / cfg.name}/")


if __name__ == "__main__":
    # Hydra forbids an experiment chosen by ${oc.env:…} to choose the data set, so the variable becomes an override.
    if os.environ.get("EXPERIMENT") and not any(arg.startswith("experiment=") for arg in sys.argv):
        sys.argv.append(f"experiment={os.environ['EXPERIMENT']}")
    main()
