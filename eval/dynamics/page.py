"""The report as one HTML page that asks for nothing: charts, monitors, and a browser of every rollout.

Model output reaches the page only inside packed data and is shown as text, never as markup.
"""

import json
import zlib
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from eval.dynamics.analysis import Analysis, find_spans
from eval.dynamics.features import UNKNOWN, Features
from eval.dynamics.monitors import MONITORS
from eval.dynamics.phases import NAMES
from eval.dynamics.texts import CHUNK, pack_texts, to_base64

WEB = Path(__file__).parent / "web"
SCRIPTS = ("texts.js", "charts.js", "browser.js", "main.js")
COLUMNS = {
    **{
        "step": "u32",
        "question": "u32",
        "reward": "f32",
        "tokens": "u16",
        "stated": "u16",
        "flags": "u16",
    },
    **{"steps": "u8", "repetition": "u8", "overlap": "u8", "reason": "u8"},
}
"""What the browser filters by, one array each, widest first so that each begins at a multiple of its width."""
PANELS: list[dict[str, Any]] = [
    {
        "title": "Reward",
        "format": "number",
        "keys": [["rollout/reward_mean", "mean reward", "think"]],
    },
    {
        "title": "Accuracy and format",
        **{"format": "share", "min": 0, "max": 1},
        "keys": [
            ["accuracy", "accuracy", "answer"],
            ["format_rate", "follows the format", "think"],
        ],
    },
    {
        "title": "Response length",
        "format": "number",
        "min": 0,
        "keys": [["response_length", "tokens", "think"]],
    },
    {
        "title": "Exploits",
        **{"format": "share", "min": 0, "max": 1},
        "keys": [
            ["leak", "answer before reasoning", "p4"],
            ["pre_think", "text before <think>", "before"],
        ],
    },
    {
        "title": "Does the reasoning count?",
        **{"format": "share", "min": 0, "max": 1},
        "keys": [
            ["agrees", "agrees with the answer", "answer"],
            ["overlap", "question's terms mentioned", "think"],
            ["leak_position", "place of the first statement", "p4"],
        ],
    },
    {
        "title": "Steps of reasoning",
        "format": "number",
        "min": 0,
        "keys": [["steps", "sentences", "think"]],
    },
    {
        "title": "Repetition and truncation",
        **{"format": "share", "min": 0},
        "keys": [
            ["repetition", "repeated four-word runs", "before"],
            ["truncated", "truncated", "untagged"],
        ],
    },
    {"title": "KL to the base model", "format": "small", "keys": [["kl", "nats a token", "think"]]},
    {
        "title": "Rollouts against training (vllm_kl)",
        "format": "small",
        "keys": [["vllm_kl", "nats a token", "think"]],
    },
    {"title": "Entropy", "format": "small", "keys": [["entropy_loss", "nats a token", "think"]]},
    {
        "title": "Gradient norm",
        "format": "number",
        "min": 0,
        "keys": [["actor_grad_norm", "actor", "think"]],
    },
]


def render_page(
    analyses: list[Analysis],
    groups: list[str],
    vocabulary: list[str],
    codes: dict[str, bytes],
    made: str,
    max_mb: float,
) -> tuple[str, str]:
    """The page, and a sentence on the texts that were left out, empty where none were.

    groups: of each run, the name under which seeds are drawn together. max_mb: megabytes; beyond it the texts of whole
    questions are left out, evenly, and the page says so.
    """
    questions = list(dict.fromkeys(row["id"] for one in analyses for row in one.record.rollouts))
    place = {key: number for number, key in enumerate(questions)}
    known: dict[str, dict[str, Any]] = {}
    for one in analyses:
        known |= one.record.questions
    prompts = [known.get(key, {}).get("prompt", "") for key in questions]
    starts = range(0, len(prompts), CHUNK)
    packed = {
        f"q{start // CHUNK}": pack_texts(prompts[start : start + CHUNK], codes) for start in starts
    }
    reasons = sorted({row.get("reason") or "" for one in analyses for row in one.record.rollouts})
    for number, one in enumerate(analyses):
        packed[f"columns{number}"] = pack_columns(one, place, reasons)
    texts = {
        f"r{r}c{c}": chunk for r, one in enumerate(analyses) for c, chunk in enumerate(one.chunks)
    }
    packed["vocabulary"] = pack_json(vocabulary)
    labels = name_runs(analyses, groups)
    report = {
        "runs": [describe_run(*named) for named in zip(analyses, labels, groups, strict=True)],
        **{
            "names": NAMES,
            "panels": PANELS,
            "questions": questions,
            "reasons": reasons,
            "chunk": CHUNK,
        },
        "gold": [known.get(key, {}).get("answer", "") for key in questions],
        "range": [
            min(one.steps[0]["step"] for one in analyses),
            max(one.steps[-1]["step"] for one in analyses),
        ],
        **{"monitors": len(MONITORS), "left_out": ""},
    }
    packed["report"] = pack_json(report)
    kept = choose_texts(
        texts, max_mb * 1e6 - sum(len(data) for data in packed.values()) * 4 / 3 - 2e5
    )
    left_out = ""
    if len(kept) < len(texts):
        total = sum(len(one.record.rollouts) for one in analyses)
        shown = sum(
            min(CHUNK, len(analyses[r].record.rollouts) - c * CHUNK)
            for r, c in map(read_place, kept)
        )
        left_out = (
            f"The texts of {total - shown:,} of {total:,} rollouts are not on this page, which would be larger than "
            f"{max_mb:g} MB (max_mb=…): those of whole questions. They are in the run folder, and count in every curve."
        )
        packed["report"] = pack_json(report | {"left_out": left_out})
    packed |= kept
    data = "\n".join(
        f'<script type="text/plain" id="{key}">{to_base64(raw)}</script>'
        for key, raw in packed.items()
    )
    missing = [
        f"{label}: {line}" if len(analyses) > 1 else line
        for label, one in zip(labels, analyses, strict=True)
        for line in one.record.missing
    ]
    filled = {
        "title": escape("Training dynamics: " + " against ".join(dict.fromkeys(groups))),
        "made": escape(made),
        "missing": render_missing([*missing, *([left_out] if left_out else [])]),
        "style": (WEB / "style.css").read_text(encoding="utf-8"),
        "script": "\n".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "data": data,
    }
    head, *rest = (WEB / "page.html").read_text(encoding="utf-8").split("{{")
    pieces = [head]
    for part in rest:
        key, _, text = part.partition("}}")
        pieces += [filled[key], text]
    return "".join(pieces), left_out


def name_runs(analyses: list[Analysis], groups: list[str]) -> list[str]:
    """A label for each run: its group's name, with its own where the group has several."""
    return [
        group if groups.count(group) == 1 else f"{group}: {one.record.folder.name}"
        for one, group in zip(analyses, groups, strict=True)
    ]


def choose_texts(texts: dict[str, bytes], budget: float) -> dict[str, bytes]:
    """The chunks that fit into `budget` bytes of base64, spread evenly."""
    total = sum(len(data) for data in texts.values()) * 4 / 3
    share = max(0.0, min(1.0, budget / total)) if total else 1.0
    keys = list(texts)
    return {key: texts[key] for n, key in enumerate(keys) if int((n + 1) * share) > int(n * share)}


def read_place(key: str) -> tuple[int, int]:
    """Run and chunk of `r3c12`."""
    run, _, chunk = key[1:].partition("c")
    return int(run), int(chunk)


def pack_json(value: Any) -> bytes:
    """Deflated JSON; NaN, which JSON has not, must not come."""
    return zlib.compress(json.dumps(value, allow_nan=False).encode(), 9)


def pack_columns(one: Analysis, place: dict[str, int], reasons: list[str]) -> bytes:
    """The arrays of COLUMNS, one after the other, deflated. 65535 and 255: unknown."""
    rows = one.record.rollouts
    feature = {name: one.features[:, index] for index, name in enumerate(Features._fields)}
    flags = np.zeros(len(rows), dtype=np.uint16)
    agrees = feature["agrees"]
    marks = [
        *([bool(row.get(key)) for row in rows] for key in ("correct", "format_ok", "truncated")),
        [row["split"] == "train" for row in rows],
        *(feature["pre_think"] > 0, feature["leak"] > 0, agrees == 1, agrees != UNKNOWN),
    ]
    for bit, mark in enumerate(marks):
        flags |= np.array(mark, dtype=np.uint16) << bit
    stated, overlap = feature["first_statement"], feature["overlap"]
    arrays: dict[str, Any] = {
        "step": [row["step"] for row in rows],
        "question": [place[row["id"]] for row in rows],
        "reward": [row["reward"] for row in rows],
        "tokens": np.minimum([row.get("response_tokens", 0) for row in rows], 65535),
        "stated": np.where(stated == UNKNOWN, 65535, np.minimum(stated, 65534)),
        "flags": flags,
        "steps": np.minimum(feature["steps"], 255),
        "repetition": np.round(100 * feature["repetition"]),
        "overlap": np.where(overlap == UNKNOWN, 255, np.round(100 * overlap)),
        "reason": [reasons.index(row.get("reason") or "") for row in rows],
    }
    kinds = {"u8": "u1", "u16": "<u2", "u32": "<u4", "f32": "<f4"}
    parts = [np.asarray(arrays[key]).astype(kinds[kind]).tobytes() for key, kind in COLUMNS.items()]
    return zlib.compress(b"".join(parts), 9)


def describe_run(one: Analysis, label: str, group: str) -> dict[str, Any]:
    """What the page draws of a run."""
    steps = [row["step"] for row in one.steps]
    keys = dict.fromkeys(key for row in one.steps for key in row if key != "step")
    series = {key: [clean(row.get(key)) for row in one.steps] for key in keys}
    spans = [{"first": s.first, "last": s.last, **s.alarm._asdict()} for s in one.spans]
    rewards, errors = (
        np.array([row[key] for row in one.steps]) for key in ("rollout/reward_mean", "reward_se")
    )
    right, n = (np.array([row[key] for row in one.steps]) for key in ("accuracy", "n"))
    half = 1.96 * np.sqrt(right * (1 - right) / n)
    return {
        **{
            "label": label,
            "group": group,
            "count": len(one.record.rollouts),
            "column_types": list(COLUMNS.items()),
        },
        **{
            "steps": steps,
            "phases": one.phases,
            "confidence": one.confidence,
            "bands": find_spans(one),
            "series": series,
        },
        "bands_of": {
            "rollout/reward_mean": [list(rewards - 1.96 * errors), list(rewards + 1.96 * errors)],
            "accuracy": [list(np.maximum(0, right - half)), list(np.minimum(1, right + half))],
        },
        **{"evals": one.evals, "spans": spans},
    }


def clean(value: Any) -> float | None:
    """A number for JSON, four digits after the first; None for what is not finite."""
    return float(f"{value:.5g}") if value is not None and np.isfinite(value) else None


def render_missing(missing: list[str]) -> str:
    """What is not there, said at the top."""
    if not missing:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in missing)
    return f'<div class="note">What this report had to do without:<ul>{lines}</ul></div>'
