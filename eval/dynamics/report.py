"""Write the report on a run's training dynamics from what the run left on disk.

make report                                                     the run of the experiment's name
python -m eval.dynamics.report run=runs/rlvr/mine               any run folder
python -m eval.dynamics.report 'run={strict: runs/rlvr/s, paper: runs/rlvr/p}'   side by side

It writes report.html, dynamics.png, dynamics.json and rollouts.parquet, which docs/dynamics.md
explains; recipes/configs/report.yaml has every setting.
"""

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from data_prep.command import run_command
from data_prep.errors import UserError
from data_prep.files import write_bytes
from eval.dynamics.analysis import Analysis, analyse
from eval.dynamics.figures import draw_figure, name_runs
from eval.dynamics.page import render_page
from eval.dynamics.run_files import look_up, read_run
from eval.run import read_commit


def make_report(cfg: DictConfig) -> tuple[Path, list[Analysis]]:
    """Read, analyse and write; return the report's folder and what it shows. Raises UserError."""
    if problems := check_settings(cfg):
        raise UserError(*problems)
    runs = list_runs(OmegaConf.to_container(cfg.run) if OmegaConf.is_config(cfg.run) else cfg.run)
    groups = [group for group, _ in runs]
    names = "-".join(dict.fromkeys(groups))
    out = Path(cfg.out or (runs[0][1] / "report" if len(runs) == 1 else Path("reports", names)))
    analyses = analyse_runs([folder for _, folder in runs])
    labels = name_runs(analyses, groups)
    tables = [one.rollouts.assign(run=label) for one, label in zip(analyses, labels, strict=True)]
    # an experiment of the paper's says so in its own config.yaml
    overlay = cfg.overlay or next((one.run.overlay for one in analyses if one.run.overlay), None)
    page = render_page(analyses, groups, describe_making(analyses), cfg.shown, overlay)
    results = json.dumps([list_results(one) for one in analyses], indent=1, allow_nan=False)
    files = {
        "report.html": page.encode("utf-8", "backslashreplace"),  # half an emoji in run.json
        "dynamics.png": draw_figure(analyses, groups),
        # every rollout with its features and its step's phase, for further analysis
        "rollouts.parquet": pd.concat(tables, ignore_index=True).to_parquet(index=False),
        "dynamics.json": results.encode() + b"\n",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(out / name, content)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {out}: {error.strerror or error}. Free some space, or "
            "choose another folder: out=FOLDER"
        ) from error
    return out, analyses


def check_settings(cfg: DictConfig) -> list[str]:
    """List what is wrong with the report's own settings."""
    problems = []
    if type(cfg.shown) is not int or cfg.shown < 1:
        problems.append(
            f"shown={cfg.shown} is no number of rollouts: give one, such as shown=20000"
        )
    if cfg.overlay not in (None, "paper"):
        problems.append(f"overlay={cfg.overlay} is not known: overlay=paper, or overlay=null")
    return problems


def list_runs(run: Any) -> list[tuple[str, Path]]:
    """List (group, folder) of each run. run: a folder, a list, or {group: folder or list}.

    Raises UserError where one is no folder.
    """
    groups = run if isinstance(run, dict) else {"": run}
    runs = []
    for group, folders in groups.items():
        for folder in folders if isinstance(folders, list) else [folders]:
            path = Path(str(folder))
            runs.append((str(group) or path.resolve().name, path))
    absent = [f"{folder} is no folder" for _, folder in runs if not folder.is_dir()]
    if absent or not runs:
        raise UserError(
            *absent, "give one: make report run=runs/rlvr/NAME, or make a run first: make rlvr"
        )
    return runs


def analyse_runs(folders: list[Path]) -> list[Analysis]:
    """Read and analyse runs, with a progress bar over their rollouts."""
    from rich.console import Console
    from rich.progress import Progress

    runs = [read_run(folder) for folder in folders]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rollouts", total=sum(len(run.rollouts) for run in runs))
        return [analyse(run, lambda count: bar.update(task, advance=count)) for run in runs]


def describe_making(analyses: list[Analysis]) -> str:
    """Describe in one line the report's rollouts, commits and date."""
    parts = []
    for one in analyses:
        commit = str(look_up(one.run.run, "git", "commit") or "unknown")[:10]
        count = f"{len(one.rollouts):,} rollouts, {len(one.steps):,} steps"
        parts.append(f"{one.run.folder.name}: {count}, commit {commit}")
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return "; ".join(parts) + f". Report made {made} by commit {read_commit() or 'unknown'}."


def list_results(one: Analysis) -> dict[str, Any]:
    """List everything but the rollouts, for scripts and for the model card."""
    steps = [row.dropna().to_dict() for _, row in one.steps.astype(object).iterrows()]
    return {
        "run": str(one.run.folder),
        "rollouts": len(one.rollouts),
        "question_words": one.question_words,
        "steps": steps,
        "phases": one.phases,
        "monitors": [{"first": s.first, "last": s.last, **s.alarm._asdict()} for s in one.spans],
        "evals": one.evals,
        "missing": one.run.missing,
    }


def print_summary(out: Path, analyses: list[Analysis]) -> None:
    """Print what is missing, the phases and alarms of each run, and where the page is."""
    for one in analyses:
        for line in one.run.missing:
            print(f"report: {line}", file=sys.stderr)
        print(f"{one.run.folder}: {len(one.rollouts):,} rollouts, {len(one.steps)} steps")
        for span in one.phases:
            steps = f"  steps {span['first']:>5} to {span['last']:>5}"
            label = f"phase {span['phase']} {span['name']}" if span["phase"] else "no phase"
            print(f"{steps}  {label} (bootstrap {span['confidence']:.0%})")
        for s in one.spans:
            print(f"  steps {s.first:>5} to {s.last:>5}  monitor {s.alarm.monitor}: {s.alarm.says}")
    print(f"report.html, dynamics.png, dynamics.json, rollouts.parquet in {out}/")


def main(cfg: DictConfig) -> None:
    """Make the report, then print its summary."""
    print_summary(*make_report(cfg))


if __name__ == "__main__":
    run_command(main, "report")
