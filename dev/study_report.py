"""Report a study: one table, one figure and the verdicts, from the samples on disk alone.

A number is a mean over training seeds and questions; its interval is from the two-level bootstrap,
of differences on the same questions. The base is one model: its interval is over questions.
"""

import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from data_prep.command import read_commit
from data_prep.files import read_jsonl, write_json, write_text
from eval.compare import judge
from eval.plots import COLOURS
from eval.statistics import CONFIDENCE, RESAMPLES, sum_clusters
from eval.summary import find_places
from eval.tables import format_interval, format_points, format_value

Scores = dict[str, pd.DataFrame]
"""Measure → a row a seed, a column a question (its number in the bank)."""

# name → evaluation, benchmark, key of a sample
MEASURES = {
    "test, T = 1": ("t1", "bank/test", "correct"),
    "test, greedy": ("greedy", "bank/test", "correct"),
    "ood, T = 1": ("t1", "bank/ood", "correct"),
    "ood, greedy": ("greedy", "bank/ood", "correct"),
    "format": ("t1", "bank/test", "format_ok"),
    "rotated": ("greedy", "bank_rotated/test", "correct"),
    "flips": ("greedy", "bank_rotated/test", "flips"),
    "gold replaced": ("greedy", "bank_replaced/test", "correct"),
    "no stem": ("greedy", "bank_stemless/test", "correct"),
}
LOSSES = {
    "lost when rotated": "rotated",
    "lost when gold replaced": "gold replaced",
    "lost without stem": "no stem",
}
"""Name → the view whose accuracy is taken from the greedy one on its questions."""
SHOWN = list(MEASURES)[:4]
PAIRS = [
    ("true", "base"),
    ("true", "format_only"),
    ("true", "coin"),
    ("true", "shuffled_labels"),
    ("true", "wrong_penalty"),
    ("true", "sft_letter"),
    ("true", "sft_named"),
    ("true", "rejection"),
    ("grpo", "true"),
]
MARGIN, AHEAD = 0.03, 0.08
NAMES = {
    "base": "base",
    "true": "PPO, true reward",
    "grpo": "GRPO, true reward",
    "format_only": "PPO, format only",
    "coin": "PPO, coin",
    "shuffled_labels": "PPO, shuffled labels",
    "wrong_penalty": "PPO, wrong penalty",
    "rejection": "SFT, own right answers",
    "sft_named": "SFT, named",
    "sft_letter": "SFT, letter",
}
HUES = dict(zip(NAMES, ["#76808a", *COLOURS[:5], *COLOURS[6:], "#a08a2c", "#5f7fbf"], strict=True))
INK, DARK = "#7d8590", "#30363d"
"""Grey of text and axes, legible on a white and on a black page."""


def write_report(
    folder: Path, runs: Path, seeds: dict[str, list[int]], modes: dict[str, str]
) -> str:
    """Write table.md, study.json and study.png; returns the table. seeds: of each condition."""
    names: dict[str, list[Any]] = {"base": [None], **seeds}
    scores: dict[str, Scores] = {}
    given: dict[str, float | None] = {}
    for name, each in names.items():
        units = ["base" if seed is None else f"{name}-{seed}" for seed in each]
        tables = [read_scores(folder / "evaluations", unit, modes[name]) for unit in units]
        scores[name] = {key: pd.DataFrame([table[key] for table in tables]) for key in tables[0]}
        right, said = scores[name]["test, T = 1"], scores[name]["format"]
        given[name] = float(right.sum().sum() / said.sum().sum()) if said.sum().sum() else None
    clusters, chance = read_questions(folder / "evaluations", modes["base"])
    rows = {
        name: {key: measure(table, clusters, key) for key, table in found.items()}
        for name, found in scores.items()
    }
    differences = compare(scores, seeds, clusters)
    curves = {
        name: curve for name, each in seeds.items() if (curve := read_curves(runs, name, each))
    }
    record: dict[str, Any] = {
        "made": {
            "command": ["python", "-m", "dev.study", *sys.argv[1:]],
            "date": datetime.now(timezone.utc).date().isoformat(),
            "commit": read_commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "seconds": round(sum(json.loads((folder / "units.json").read_text()).values())),
        },
        "seeds": seeds,
        "given_format": given,
        "rows": rows,
        "differences": differences,
        "chance": chance,
        "verdicts": judge_study(rows, differences, chance),
        "curves": curves,
    }
    write_json(folder / "study.json", record)
    text = render(record)
    write_text(folder / "table.md", text)
    draw(folder / "study.png", record)
    return text


def read_scores(place: Path, unit: str, mode: str) -> dict[str, pd.Series]:
    """Read the score of each question in each measure, of one trained model."""
    found = {}
    for name, (kind, benchmark, key) in MEASURES.items():
        frame = read_samples(place, unit, kind, benchmark, mode)
        frame["place"] = find_places(frame)
        questions = frame.groupby("question", sort=False)
        scores = questions["place"].nunique() > 1 if key == "flips" else questions[key].mean()
        found[name] = scores.astype(float)
    for name, view in LOSSES.items():
        found[name] = (found["test, greedy"] - found[view]).dropna()
    return found


def read_samples(place: Path, unit: str, kind: str, benchmark: str, mode: str) -> pd.DataFrame:
    """Read one file of samples; question: the number of the row that a view was made from."""
    file = f"model.{benchmark.replace('/', '-')}.{mode}.jsonl"
    frame = pd.DataFrame(read_jsonl(place / f"{unit}-{kind}" / "samples" / file), dtype=object)
    frame["question"] = frame["id"].str.split("/").str[2].astype(int)
    return frame


def read_questions(place: Path, mode: str) -> tuple[dict[str, pd.Series], dict[str, float]]:
    """Read which questions of test and ood are the same one, and what a guess is right in."""
    found, chance = {}, {}
    for split in ("test", "ood"):
        frame = read_samples(place, "base", "greedy", f"bank/{split}", mode)
        found[split] = frame.set_index("question")["cluster"]
        chance[split] = round(float((1 / frame["num_options"].astype(float)).mean()), 6)
    return found, chance


def measure(table: pd.DataFrame, clusters: dict[str, pd.Series], key: str) -> dict[str, Any]:
    """Compute mean and interval of scores [seeds, questions] of the measure `key`."""
    return measure_scores(table, clusters["ood" if key.startswith("ood") else "test"])


def measure_scores(table: pd.DataFrame, clusters: pd.Series) -> dict[str, Any]:
    """Compute mean and interval of scores [seeds, questions]; sd: of the seeds' means.

    clusters: of each question by its number, of those that are the same one.
    """
    own = clusters[table.columns]
    low, high = bootstrap_seeds(table.to_numpy(float), own.to_numpy(str))
    means = table.mean(axis=1)
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    found = {"value": float(means.mean()), "low": low, "high": high, "sd": spread}
    return {name: round(value, 6) for name, value in found.items()} | {
        "n": table.shape[1],
        "seeds": len(table),
    }


def bootstrap_seeds(
    scores: ArrayLike, clusters: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Compute the interval of a mean over training seeds and questions, by a two-level bootstrap.

    scores [seeds, n]: the same n questions for every seed, differences where two recipes are
    compared; clusters [n]. Whole clusters are resampled. A handful of seeds resampled would cover
    less than 90 %: their mean is drawn from Student's t. One seed: over questions alone.
    """
    table = np.atleast_2d(np.asarray(scores, float))
    sums = np.array([sum_clusters(row, clusters)[0] for row in table])
    sizes = sum_clusters(table[0], clusters)[1]
    (seeds, count), total = sums.shape, sizes.sum()
    rng = np.random.default_rng(seed)
    drawn = rng.integers(count, size=(resamples, count))
    draws = sums.mean(axis=0)[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    if seeds > 1:
        means = sums.sum(axis=1) / total
        # what is left of a cluster without its own and the seed's mean is noise; it is in the
        # variance of both levels, and is taken out of that of questions
        parts = (sums - means[:, None] * sizes) / total
        noise = np.square(parts - parts.mean(axis=0)).sum() / (seeds - 1)
        rest = max(0.0, 1 - noise / seeds / max(float(draws.var()), 1e-12))
        draws = means.mean() + (draws - means.mean()) * np.sqrt(rest)
        spread = np.sqrt(np.var(means, ddof=1) / seeds)
        draws = draws + rng.standard_t(seeds - 1, resamples) * spread
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def compare(
    scores: dict[str, Scores], seeds: dict[str, list[int]], clusters: dict[str, pd.Series]
) -> list[dict[str, Any]]:
    """Compare each pair on the same questions, over the seeds that both have."""
    found = []
    for a, b in PAIRS:
        if a not in scores or b not in scores:
            continue
        both = seeds[a] if b == "base" else [seed for seed in seeds[a] if seed in seeds[b]]
        for key in (*SHOWN, "flips", *LOSSES) if both else ():
            left = scores[a][key].iloc[[seeds[a].index(seed) for seed in both]]
            places = [0] * len(both) if b == "base" else [seeds[b].index(seed) for seed in both]
            right = scores[b][key].iloc[places][left.columns]
            table = left.reset_index(drop=True) - right.reset_index(drop=True)
            found.append({"a": a, "b": b, "measure": key} | measure(table, clusters, key))
    return found


def judge_study(
    rows: dict[str, dict[str, Any]], differences: list[dict[str, Any]], chance: dict[str, float]
) -> list[dict[str, str]]:
    """Judge the paper's two claims in miniature, then what the reward adds over each other recipe."""
    verdicts = []
    found = {(one["a"], one["b"], one["measure"]): one for one in differences}
    for kind, key, limit in (("level", "test, greedy", MARGIN), ("ahead", "ood, greedy", AHEAD)):
        if not (one := found.get(("true", "sft_named", key))):
            continue
        verdict, ending = judge(kind, one["low"], one["high"], 0.0, limit)
        if rows["sft_named"][key]["low"] <= chance[key.partition(",")[0]]:
            verdict, ending = "cannot be judged", "SFT is not above chance there"
        claim = "level with" if kind == "level" else "ahead of"
        # wrong in its format is wrong: a part of the difference says nothing of the questions
        rate = f"SFT follows its format in {format_value(rows['sft_named']['format'])} % at T = 1"
        verdicts.append(
            {
                "claim": kind,
                "verdict": verdict,
                "sentence": f"RLVR {claim} SFT (named) on {key}: {verdict}. "
                f"{show_difference(one)}; {ending}; {rate}.",
            }
        )
    for (a, b, key), one in found.items():
        if key in SHOWN:
            is_more, is_less = one["low"] > 0, one["high"] < 0
            verdict = "more" if is_more else "less" if is_less else "no difference shown"
            sentence = f"{NAMES[a]} − {NAMES[b]}, {key}: {show_difference(one)}; {verdict}."
            verdicts.append({"claim": f"{a} − {b}", "verdict": verdict, "sentence": sentence})
    return verdicts


def show_difference(one: dict[str, Any]) -> str:
    """Show a difference in points with its interval: `+8.0 (+3.1 to +12.9)`."""
    value, low, high = (format_points(one[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def read_curves(runs: Path, name: str, seeds: list[int]) -> dict[str, list[float]]:
    """Read the accuracy in training, five steps averaged, as mean and range over seeds."""
    tables = {}
    for seed in seeds:
        path = runs / f"{name}-{seed}" / "metrics.jsonl"
        lines = [row for row in read_jsonl(path) if row["kind"] == "train"] if path.exists() else []
        if lines and "accuracy" in lines[0]:
            found = {row["step"]: row["accuracy"] for row in lines}
            tables[seed] = pd.Series(found).rolling(5, min_periods=1).mean()
    if not tables:
        return {}
    table = pd.DataFrame(tables).dropna()
    ends = {"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)}
    return {"step": list(table.index)} | {
        end: [round(float(value), 6) for value in values] for end, values in ends.items()
    }


def render(record: dict[str, Any]) -> str:
    """Render tables and verdicts in Markdown; the same samples give the same text."""
    rows, given = record["rows"], record["given_format"]
    keys = list(MEASURES)
    any_row, chance = next(iter(rows.values())), record["chance"]
    sizes = ", ".join(f"{key} {any_row[key]['n']}" for key in keys)
    lines = [
        f"Strict accuracy in % (95 % interval over seeds and questions). n: {sizes}. "
        f"Chance: test {100 * chance['test']:.1f}, ood {100 * chance['ood']:.1f}.",
        "",
        "| recipe | seeds | " + " | ".join([*keys, "given the format"]) + " |",
        "|---|--:|" + "--:|" * (len(keys) + 1),
    ]
    for name in [name for name in NAMES if name in rows]:
        cells = [
            f"{format_value(rows[name][key])} ({format_interval(rows[name][key])})" for key in keys
        ]
        cells.append("–" if given[name] is None else f"{100 * given[name]:.1f}")
        lines.append(f"| {NAMES[name]} | {rows[name][keys[0]]['seeds']} | {' | '.join(cells)} |")
    measures = list(dict.fromkeys(one["measure"] for one in record["differences"]))
    lines += ["", "Differences in points, on the same questions and seeds.", ""]
    lines += ["| a − b | " + " | ".join(measures) + " |", "|---|" + "--:|" * len(measures)]
    for a, b in PAIRS:
        own = {
            one["measure"]: one for one in record["differences"] if (one["a"], one["b"]) == (a, b)
        }
        if own:
            cells = [show_difference(own[key]) for key in measures]
            lines.append(f"| {NAMES[a]} − {NAMES[b]} | {' | '.join(cells)} |")
    lines += [""] + [f"* {verdict['sentence']}" for verdict in record["verdicts"]]
    return "\n".join(lines) + "\n"


def draw(path: Path, record: dict[str, Any]) -> None:
    """Draw accuracy in training with bands over seeds, and accuracy after it with intervals."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        draw_curves(left, record["curves"])
        draw_bars(right, record["rows"], record["chance"])
        figure.savefig(path, transparent=True)


def draw_curves(axes: Any, curves: dict[str, Any]) -> None:
    """Draw a line a recipe, named at its end."""
    ends = []
    for name, curve in curves.items():
        values = {key: 100 * np.array(curve[key]) for key in ("mean", "low", "high")}
        axes.fill_between(
            curve["step"], values["low"], values["high"], color=HUES[name], alpha=0.2, lw=0
        )
        axes.plot(curve["step"], values["mean"], color=HUES[name], lw=1.8)
        ends.append((float(values["mean"][-1]), name, curve["step"][-1]))
    # names that would lie on each other move up
    height = -10.0
    for value, name, step in sorted(ends):
        height = max(value, height + 3.6)
        axes.annotate(
            NAMES[name].removeprefix("PPO, "),
            (step, height),
            xytext=(4, 0),
            textcoords="offset points",
            color=HUES[name],
            va="center",
            fontsize=8.5,
        )
    axes.set(xlabel="step", ylabel="accuracy in training (%), T = 1", ylim=(0, None))
    axes.set_title("Training: mean and range over seeds", fontsize=9.5, loc="left", color=INK)
    axes.grid(axis="y", color=INK, alpha=0.25, lw=0.6)


def draw_bars(axes: Any, rows: dict[str, Any], chance: dict[str, float]) -> None:
    """Draw bars at T = 1 with intervals, test full and ood pale; circles greedy, dots chance."""
    names = [name for name in NAMES if name in rows][::-1]
    for place, name in enumerate(names):
        for key, shift, alpha in (("test", 0.2, 0.95), ("ood", -0.2, 0.45)):
            one, greedy = rows[name][f"{key}, T = 1"], rows[name][f"{key}, greedy"]
            value, low, high = (100 * one[end] for end in ("value", "low", "high"))
            axes.barh(place + shift, value, 0.36, color=HUES[name], alpha=alpha)
            guess, ends = [100 * chance[key]] * 2, [place + shift - 0.2, place + shift + 0.2]
            axes.plot(guess, ends, color=INK, lw=1.3, ls=":")
            # dark in white: legible on a bar, on a white and on a black page
            for ink, width in (("white", 3.4), (DARK, 1.4)):
                line = {"color": ink, "lw": width, "solid_capstyle": "butt"}
                axes.plot([low, high], [place + shift] * 2, **line)
            ring = {"ms": 5.5, "mfc": "white", "mec": DARK, "mew": 1.2}
            axes.plot(100 * greedy["value"], place + shift, "o", **ring)
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
    axes.set_xlabel("accuracy (%): test, ood (pale), greedy (circle), chance (dotted)")
    axes.set_title(
        "Afterwards: T = 1, 95 % over seeds and questions", fontsize=9.5, loc="left", color=INK
    )
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=INK, alpha=0.25, lw=0.6)
