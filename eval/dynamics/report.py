"""The report on a run's training dynamics, from what the run left on disk: report.html, PNGs, dynamics.json.

make report                                                     the run of the experiment's name
python -m eval.dynamics.report run=runs/rlvr/mine                        any run folder
python -m eval.dynamics.report 'run={strict: runs/rlvr/s, paper: runs/rlvr/p}'   side by side

docs/dynamics.md explains phases, features and monitors; recipes/configs/report.yaml has every setting.
"""

import json
import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from data_prep.errors import UserError
from data_prep.files import write_text
from eval.choices import add_experiment
from eval.dynamics.analysis import Analysis, analyse, find_spans
from eval.dynamics.features import Features
from eval.dynamics.figures import draw_figures
from eval.dynamics.page import name_runs, render_page
from eval.dynamics.phases import NAMES
from eval.dynamics.run_files import read_run
from eval.dynamics.texts import build_vocabulary, encode_vocabulary
from eval.provenance import read_commit

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"
SAMPLED = 4000  # texts of each run that the page's vocabulary is counted on


def make_report(cfg: DictConfig) -> tuple[Path, list[Analysis]]:
    """Reads, analyses and writes; returns the report's folder and what it shows. Raises UserError."""
    runs = list_runs(OmegaConf.to_container(cfg.run) if not isinstance(cfg.run, str) else cfg.run)
    if absent := [f"{folder} is no folder" for _, folder in runs if not folder.is_dir()]:
        raise UserError(
            *absent, "give one: make report run=runs/rlvr/NAME, or make a run first: make rlvr"
        )
    groups = [group for group, _ in runs]
    names = "-".join(dict.fromkeys(groups))
    out = Path(cfg.out or (runs[0][1] / "report" if len(runs) == 1 else Path("reports", names)))
    analyses, page, left_out = make_page(runs, cfg.max_mb)
    out.mkdir(parents=True, exist_ok=True)
    draw_figures(out, analyses, name_runs(analyses, groups))
    write_text(out / "dynamics.json", json.dumps(summarise(analyses), indent=1) + "\n")
    write_text(out / "report.html", page)
    for line in [
        *(line for one in analyses for line in one.record.missing),
        *([left_out] if left_out else []),
    ]:
        print(f"report: {line}", file=sys.stderr)
    return out, analyses


def make_page(runs: list[tuple[str, Path]], max_mb: float) -> tuple[list[Analysis], str, str]:
    """Analyses runs, (group, folder) each; returns the analyses, the page, and what was left out of it."""
    records = [read_run(folder) for _, folder in runs]
    texts = [
        row["response"]
        for one in records
        for row in one.rollouts[:: max(1, len(one.rollouts) // SAMPLED)]
    ]
    texts += [
        row.get("prompt", "") for one in records for row in list(one.questions.values())[:1000]
    ]
    vocabulary = build_vocabulary(texts)
    codes = encode_vocabulary(vocabulary)
    with show_progress(sum(len(one.rollouts) for one in records)) as progress:
        analyses = [analyse(one, codes, progress) for one in records]
    groups = [group for group, _ in runs]
    page, left_out = render_page(
        analyses, groups, vocabulary, codes, describe_making(analyses), max_mb
    )
    return analyses, page, left_out


def list_runs(run: Any) -> list[tuple[str, Path]]:
    """(group, folder) of each run. run: a folder, a list, or {group: folder or list}."""
    if isinstance(run, str):
        return [(Path(run).resolve().name, Path(run))]
    if isinstance(run, list):
        return [(Path(folder).resolve().name, Path(folder)) for folder in run]
    return [
        (str(group), Path(folder))
        for group, some in run.items()
        for folder in ([some] if isinstance(some, str) else some)
    ]


def describe_making(analyses: list[Analysis]) -> str:
    """One line: of how much, by which commits, when."""
    parts = []
    for one in analyses:
        commit = (one.record.run.get("git") or {}).get("commit", "unknown")[:10]
        count = f"{len(one.record.rollouts):,} rollouts, {len(one.steps):,} steps"
        parts.append(f"{one.record.folder.name}: {count}, commit {commit}")
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return "; ".join(parts) + f". Report made {made} by commit {read_commit() or 'unknown'}."


def summarise(analyses: list[Analysis]) -> list[dict[str, Any]]:
    """dynamics.json: everything but the rollouts, for scripts and for the model card."""
    return [
        {
            "run": str(one.record.folder),
            "rollouts": len(one.record.rollouts),
            "question_words": one.question_words,
            "features": list(Features._fields),
            "steps": [
                {**row, "phase": phase, "confidence": confidence}
                for row, phase, confidence in zip(
                    one.steps, one.phases, one.confidence, strict=True
                )
            ],
            "phases": describe_phases(one),
            "monitors": [
                {"first": s.first, "last": s.last, **s.alarm._asdict()} for s in one.spans
            ],
            "evals": one.evals,
            "missing": one.record.missing,
        }
        for one in analyses
    ]


def describe_phases(one: Analysis) -> list[dict[str, Any]]:
    """The spans of steps of one phase, with their mean confidence."""
    confidence = dict(zip((row["step"] for row in one.steps), one.confidence, strict=True))
    described = []
    for first, last, phase in find_spans(one):
        shares = [share for step, share in confidence.items() if first <= step <= last]
        span = {"phase": phase, "name": NAMES[phase], "first": first, "last": last}
        described.append({**span, "confidence": sum(shares) / len(shares)})
    return described


@contextmanager
def show_progress(total: int) -> Any:
    """A bar over the rollouts that are read, gone at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rollouts", total=total)

        def advance(done: int) -> None:
            bar.update(task, advance=done)

        yield advance


def print_summary(out: Path, analyses: list[Analysis]) -> None:
    """The phases and alarms of each run, and where the page is."""
    for one in analyses:
        print(f"{one.record.folder}: {len(one.record.rollouts):,} rollouts, {len(one.steps)} steps")
        for span in describe_phases(one):
            label = f"phase {span['phase']} {span['name']}" if span["phase"] else "no phase"
            print(
                f"  steps {span['first']:>5} to {span['last']:>5}  {label} (bootstrap {span['confidence']:.0%})"
            )
        for s in one.spans:
            print(f"  steps {s.first:>5} to {s.last:>5}  monitor {s.alarm.monitor}: {s.alarm.says}")
    print(f"report.html, dynamics.png, features.png, dynamics.json in {out}/")


@hydra.main(config_path=str(CONFIGS), config_name="report", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Makes the report. Exits with 2 and one line for each problem where the user must act."""
    try:
        print_summary(*make_report(cfg))
    except UserError as error:
        for problem in error.problems:
            print(f"report: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    add_experiment(sys.argv)
    main()
