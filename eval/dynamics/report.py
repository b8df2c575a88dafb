"""Write the report on a run's training dynamics from what the run left on disk.

make report                                                     the run of the experiment's name
python -m eval.dynamics.report run=runs/rlvr/mine               any run folder
python -m eval.dynamics.report 'run={strict: runs/rlvr/s, paper: runs/rlvr/p}'   side by side

It writes report.html, dynamics.png, dynamics.json and rollouts.parquet, which docs/dynamics.md
explains; recipes/configs/report.yaml has every setting.
"""

import base64
import gzip
import json
import sys
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from omegaconf import DictConfig, OmegaConf

from data_prep.command import read_commit, run_command, show_text
from data_prep.errors import UserError
from data_prep.files import write_bytes
from eval.dynamics.analysis import Analysis, analyse
from eval.dynamics.features import label_pieces
from eval.dynamics.figures import TABLES, draw_figure, list_charts, read_curve
from eval.dynamics.monitors import MONITORS
from eval.dynamics.phases import NAMES
from eval.dynamics.run_files import find_value, read_run

WEB = Path(__file__).parent / "web"
PAGES = Environment(loader=FileSystemLoader(WEB), autoescape=True)
STYLES = ("../../base.css", "vendor/uPlot.min.css", "style.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "charts.js", "browser.js")
"""Our own files, the only text that the template does not escape."""


def make_report(cfg: DictConfig) -> tuple[Path, list[Analysis]]:
    """Read, analyse and write; return the report's folder and what it shows. Raises UserError."""
    problems = []
    if type(cfg.shown) is not int or cfg.shown < 1:
        problems.append(f"shown={cfg.shown} is no number of rollouts, such as shown=20000")
    if cfg.overlay not in (None, "paper"):
        problems.append(f"overlay={cfg.overlay} is not known: overlay=paper, or overlay=null")
    if problems:
        raise UserError(*problems)
    runs = list_runs(OmegaConf.to_container(cfg.run) if OmegaConf.is_config(cfg.run) else cfg.run)
    groups = [group for group, _ in runs]
    names = "-".join(dict.fromkeys(groups))
    out = Path(cfg.out or (runs[0][1] / "report" if len(runs) == 1 else Path("reports", names)))
    analyses = []
    for group, run in [(group, read_run(folder)) for group, folder in runs]:
        label = group if groups.count(group) == 1 else f"{group}: {run.folder.name}"
        analyses.append(analyse(run, group, label))
    # an experiment of the paper's says so in its own config.yaml
    configs = [one.run.config for one in analyses]
    overlay = "paper" in (cfg.overlay, *(find_value(config, "overlay") for config in configs))
    page = render_page(analyses, describe_making(analyses), cfg.shown, overlay)
    results = json.dumps([list_results(one) for one in analyses], indent=1, allow_nan=False)
    tables = [one.rollouts.assign(run=one.label) for one in analyses]
    files = {
        "report.html": page.encode("utf-8", "backslashreplace"),  # half an emoji in run.json
        "dynamics.png": draw_figure(analyses),
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


def describe_making(analyses: list[Analysis]) -> str:
    """Describe in one line the report's rollouts, commits and date."""
    parts = []
    for one in analyses:
        commit = str(find_value(one.run.run, "git.commit", "unknown"))[:10]
        count = f"{len(one.rollouts):,} rollouts, {len(one.steps):,} steps"
        parts.append(f"{one.run.folder.name}: {count}, commit {commit}")
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return "; ".join(parts) + f". Report made {made} by commit {read_commit() or 'unknown'}."


def list_results(one: Analysis) -> dict[str, Any]:
    """List everything but the rollouts, for scripts and for the model card."""
    return {
        "run": str(one.run.folder),
        "rollouts": len(one.rollouts),
        "question_words": one.question_words,
        "steps": [row.dropna().to_dict() for _, row in one.steps.astype(object).iterrows()],
        "phases": one.phases,
        "monitors": [{"first": s.first, "last": s.last, **s.alarm._asdict()} for s in one.spans],
        "evals": one.evals,
        "missing": one.run.missing,
    }


def render_page(analyses: list[Analysis], made: str, shown: int, overlay: bool) -> str:
    """Render the page, which loads nothing.

    Model output reaches it only inside packed data, and is shown as text, never as markup.
    shown: rollouts listed, of all runs together. overlay: lay the paper's figure under the curves.
    """
    several = len(analyses) > 1
    steps = sorted({step for one in analyses for step in one.rollouts["step"].tolist()})
    report = {
        "charts": list_charts(analyses, read_curve(steps) if overlay else None),
        "bands": [] if several else analyses[0].phases,
        "range": [steps[0], steps[-1]],
        "names": NAMES,
        "labels": [one.label for one in analyses],
    }
    # a page of all rollouts would be too large to open; curves were computed from all of them
    listed = [draw_evenly(one.rollouts, max(1, shown // len(analyses))) for one in analyses]
    ids = sorted({key for rollouts in listed for key in rollouts["id"]})
    known = {key: row for one in analyses for key, row in one.run.questions.items()}
    kept = {"id", "prompt", "answer"}
    questions = [
        known[key].model_dump(include=kept) if key in known else {"id": key} for key in ids
    ]
    data = {
        "report": report,
        "rollouts": {"questions": questions, "runs": [list_columns(rows, ids) for rows in listed]},
    }
    # what a reader must know before the curves: missing files, rollouts that are not listed
    missing = [
        f"{one.label}: {line}" if several else line for one in analyses for line in one.run.missing
    ]
    total, count = sum(len(one.rollouts) for one in analyses), sum(map(len, listed))
    if count < total:
        absent = f"{total - count:,} of {total:,} rollouts are not in the list below"
        drawn = f"drawn evenly over the steps (shown={shown}); rollouts.parquet has all"
        missing.append(f"{absent}, which is {drawn}")
    groups = dict.fromkeys(one.group for one in analyses)
    return PAGES.get_template("page.html.j2").render(
        title="Training dynamics: " + " against ".join(groups),
        made=made,
        missing=missing,
        runs=analyses,
        labels=dict(enumerate(report["labels"])),
        range=report["range"],
        phases={phase: f"{phase or ''} {name}" for phase, name in NAMES.items()},
        tables=TABLES,
        overlay=overlay,
        monitors=len(MONITORS),
        style="\n".join((WEB / name).read_text(encoding="utf-8") for name in STYLES),
        script="\n".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS),
        data={name: pack(value) for name, value in data.items()},
    )


def draw_evenly(rollouts: pd.DataFrame, shown: int) -> pd.DataFrame:
    """Draw at most `shown` rollouts, as many of each step as of the next, in order of step.

    Questions are taken in one fixed order, so that a listed question is listed at every step.
    """
    order = rollouts["id"].map(lambda key: zlib.crc32(key.encode()))
    place = rollouts.assign(order=order).sort_values("order", kind="stable")
    rank = place.groupby(["step", "split"]).cumcount().sort_values(kind="stable")
    return rollouts.loc[rank.index[:shown]].sort_values(["step", "id"], kind="stable")


def list_columns(rollouts: pd.DataFrame, ids: list[str]) -> dict[str, Any]:
    """List what the browser needs of each rollout, by column; null where it is unknown."""
    verdict = rollouts["format_ok"].map({True: "wrong", False: "failed"})
    pieces = rollouts["response"].map(label_pieces)
    return {
        **rollouts[TABLES["rollout"]].astype(float).round(2),
        "verdict": verdict.mask(rollouts["correct"], "right").tolist(),
        "question": pd.Index(ids).get_indexer(rollouts["id"]).tolist(),
        "train": (rollouts["split"] == "train").tolist(),
        "reason": rollouts["reason"].fillna("").tolist(),
        "pieces": [[piece for piece in of_one if piece[1]] for of_one in pieces],
    }


def list_numbers(values: pd.Series) -> list[float | None]:
    """List numbers with five digits; null for what is unknown, since JSON has no NaN."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def pack(value: Any) -> str:
    """Pack JSON as base64 of gzip, for the page's DecompressionStream."""
    raw = json.dumps(value, allow_nan=False, default=list_numbers).encode()
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")


def print_summary(out: Path, analyses: list[Analysis]) -> None:
    """Print what is missing, the phases and alarms of each run, and where the page is."""
    for one in analyses:
        for line in one.run.missing:
            print(f"report: {show_text(line)}", file=sys.stderr)
        folder = show_text(one.run.folder)
        print(f"{folder}: {len(one.rollouts):,} rollouts, {len(one.steps)} steps")
        for span in one.phases:
            name = f"phase {span['phase']} {span['name']}" if span["phase"] else "no phase"
            steps = f"  steps {span['first']:>5} to {span['last']:>5}"
            print(f"{steps}  {name} (bootstrap {span['confidence']:.0%})")
        for s in one.spans:
            print(f"  steps {s.first:>5} to {s.last:>5}  monitor {s.alarm.monitor}: {s.alarm.says}")
    files = "report.html, dynamics.png, dynamics.json, rollouts.parquet"
    print(f"{files} in {show_text(out)}/")


if __name__ == "__main__":
    run_command(lambda cfg: print_summary(*make_report(cfg)), "report")
