"""Render the report as one HTML page that loads nothing: charts, monitors, rollouts.

Model output reaches the page only inside packed data, and is shown as text, never as markup.
"""

import base64
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from eval.dynamics.analysis import Analysis
from eval.dynamics.features import label_pieces
from eval.dynamics.figures import TABLES, WORDS, list_charts, name_runs, read_curve, to_json
from eval.dynamics.monitors import MONITORS
from eval.dynamics.phases import NAMES

WEB = Path(__file__).parent / "web"
STYLES = ("vendor/uPlot.min.css", "style.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "charts.js", "browser.js", "main.js")


def render_page(
    analyses: list[Analysis], groups: list[str], made: str, shown: int, overlay: str | None
) -> str:
    """Render the page.

    groups: of each run, the name under which seeds are drawn together. shown: rollouts listed, of
    all runs together. overlay: `paper` lays its figure 2 under the curves.
    """
    labels = name_runs(analyses, groups)
    steps = sorted({step for one in analyses for step in one.rollouts["step"].tolist()})
    paper = read_curve(steps) if overlay == "paper" else None
    report = {
        "charts": list_charts(analyses, groups, paper),
        "bands": analyses[0].phases if len(analyses) == 1 else [],
        "range": [steps[0], steps[-1]],
        "names": NAMES,
        "labels": labels,
    }
    # a page of all rollouts would be too large to open; curves were computed from all of them
    drawn = [draw_evenly(one.rollouts, max(1, shown // len(analyses))) for one in analyses]
    ids = sorted({key for rollouts in drawn for key in rollouts["id"]})
    known = {key: row for one in analyses for key, row in one.run.questions.items()}
    kept = {"id", "prompt", "answer"}
    rollouts = {
        "questions": [
            known[key].model_dump(include=kept) if key in known else {"id": key} for key in ids
        ],
        "runs": [list_columns(rows, ids) for rows in drawn],
    }
    total, count = (sum(map(len, of)) for of in ((one.rollouts for one in analyses), drawn))
    # what a reader must know before the curves: missing files, rollouts that are not listed
    missing = [
        f"{label}: {line}" if len(analyses) > 1 else line
        for label, one in zip(labels, analyses, strict=True)
        for line in one.run.missing
    ]
    if count < total:
        missing.append(
            f"{total - count:,} of {total:,} rollouts are not in the list below, which is drawn "
            f"evenly over the steps (shown={shown}); all of them count in every curve and are in "
            "rollouts.parquet"
        )
    page = Environment(loader=FileSystemLoader(WEB), autoescape=True).get_template("page.html.j2")
    return page.render(
        title="Training dynamics: " + " against ".join(dict.fromkeys(groups)),
        made=made,
        missing=missing,
        runs=analyses,
        labels=dict(enumerate(labels)),
        range=report["range"],
        phases={phase: f"{phase or ''} {name}" for phase, name in NAMES.items()},
        parts=WORDS.values(),
        overlay=overlay,
        monitors=len(MONITORS),
        style=join_files(STYLES),
        script=join_files(SCRIPTS),
        data={"report": pack(report), "rollouts": pack(rollouts)},
    )


def join_files(names: tuple[str, ...]) -> str:
    """Join our own files, which are the only text that the template does not escape."""
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in names)


def draw_evenly(rollouts: pd.DataFrame, shown: int) -> pd.DataFrame:
    """Draw at most `shown` rollouts, as many of each step as of the next, in order of step.

    Questions are taken in one fixed order, so that a listed question is listed at every step.
    """
    order = rollouts["id"].map(lambda key: zlib.crc32(key.encode()))
    place = rollouts.assign(order=order).sort_values("order", kind="stable")
    rank = place.groupby(["step", "split"]).cumcount().sort_values(kind="stable")
    return rollouts.loc[rank.index[:shown]].sort_values(["step", "id"], kind="stable")


def list_columns(rollouts: pd.DataFrame, ids: list[str]) -> dict[str, list[Any]]:
    """List what the browser needs of each rollout, by column; null where it is unknown."""
    numbers = rollouts[TABLES["rollout"]].astype(float).round(2)
    columns: dict[str, list[Any]] = {key: to_json(numbers[key]) for key in numbers}
    place = {key: number for number, key in enumerate(ids)}
    verdict = rollouts["format_ok"].map({True: "wrong", False: "failed"})
    columns["verdict"] = verdict.mask(rollouts["correct"], "right").tolist()
    columns["question"] = rollouts["id"].map(place).tolist()
    columns["train"] = (rollouts["split"] == "train").tolist()
    columns["reason"] = rollouts["reason"].fillna("").tolist()
    pieces = rollouts["response"].map(label_pieces)
    columns["pieces"] = [[piece for piece in of_one if piece[1]] for of_one in pieces]
    return columns


def pack(value: Any) -> str:
    """Pack JSON as base64 of gzip, for the page's DecompressionStream."""
    raw = json.dumps(value, allow_nan=False).encode()
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")
