"""Gather the report's charts, lines over steps, for the page; draw those of dynamics.png."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from eval.dynamics.analysis import Analysis
from reward_server.signals import SIGNALS, Signal

Chart = dict[str, Any]  # title, format, low, high, height, figure, as in figures.yaml; lines
Line = dict[str, Any]  # name, colour, steps, values; drawn, low, high, area, dots, dash
TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PANELS, WORDS, COLOURS = TABLES["panels"], TABLES["words"], TABLES["colours"]
CURVE = Path(__file__).parent / "paper_curve.csv"
"""The paper's figure 2, digitised: step, accuracy on the test set, characters of a response."""
ERRORS = {"rollout/reward_mean": "reward_se", "accuracy": "accuracy_se"}
"""Standard errors of a step's means."""


def list_charts(
    analyses: list[Analysis], groups: list[str], paper: dict[str, list[Line]] | None = None
) -> list[Chart]:
    """List the charts: words by part, accuracy of the checkpoints, panels, signals in none of them.

    A single run has several metrics in a chart. Of several runs each metric has its own chart, with
    a line for each group. paper: lines to lay under a metric, see `read_curve`.
    """
    single, paper = len(analyses) == 1, paper or {}
    shown = set(TABLES["elsewhere"]).union(*(panel["lines"] for panel in PANELS))
    signals = [describe_signal(signal) for signal in SIGNALS if signal.name not in shown]
    charts = [*stack_words(analyses, groups), *chart_evals(analyses, groups, paper)]
    for panel in [*PANELS, *signals]:
        for part in [panel] if single else split_panel(panel):
            lines = []
            for key, (name, colour) in part["lines"].items():
                for line in average_groups(analyses, groups, key):
                    lines.append(line | {"name": name, "colour": colour} if single else line)
            for key in part["lines"]:
                lines += paper.get(key, [])
            charts.append(part | {"lines": lines})
    return [chart for chart in charts if chart["lines"]]


def describe_signal(signal: Signal) -> Chart:
    """Describe a panel for a signal of the reward hook, as in figures.yaml."""
    fraction = signal.unit in ("0 or 1", "fraction")
    bounds = {"format": "fraction", "low": 0, "high": 1} if fraction else {"format": "number"}
    return {"title": signal.name, **bounds, "lines": {signal.name: (signal.shows, "p6")}}


def split_panel(panel: Chart) -> list[Chart]:
    """Split a panel of several metrics in one for each, with the metric's name as title."""
    if len(panel["lines"]) == 1:
        return [panel]
    lines = panel["lines"].items()
    return [panel | {"title": one[0].capitalize(), "lines": {key: one}} for key, one in lines]


def make_line(name: str, colour: str, curves: dict[str, pd.Series], **style: Any) -> Line:
    """Make a line. curves, by step: values, for the legend; drawn, where others; low, high."""
    line = {"name": name, "colour": colour, "steps": curves["values"].index.tolist(), **style}
    return line | {key: to_json(values) for key, values in curves.items()}


def to_json(values: pd.Series) -> list[float | None]:
    """List numbers with five digits; null for what is unknown, since JSON has no NaN."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def stack_words(analyses: list[Analysis], groups: list[str]) -> list[Chart]:
    """Stack the mean words of a response by their part, in a chart for each run."""
    title, several = "Mean words of a response, by part", len(analyses) > 1
    charts = []
    for one, label in zip(analyses, name_runs(analyses, groups), strict=True):
        words = one.steps.set_index("step")[list(WORDS)]
        tops = words.cumsum(axis="columns")
        lines = []
        for key, (name, colour) in WORDS.items():
            top = tops[key]
            curves = {"values": words[key], "drawn": top, "low": top - words[key], "high": top}
            lines.append(make_line(name, colour, curves, area=True))
        shape = {"format": "number", "low": 0, "height": 160 if several else 230, "figure": True}
        charts.append({"title": f"{title}: {label}" if several else title, **shape, "lines": lines})
    return charts


def chart_evals(
    analyses: list[Analysis], groups: list[str], paper: dict[str, list[Line]]
) -> list[Chart]:
    """Chart the accuracy of the checkpoints with its intervals, for each data set."""
    labels, colours = name_runs(analyses, groups), colour_groups(groups)
    charts = []
    for name in dict.fromkeys(row["name"] for one in analyses for row in one.evals):
        lines = []
        for one, group, label in zip(analyses, groups, labels, strict=True):
            rows = pd.DataFrame([row for row in one.evals if row["name"] == name])
            if rows.empty:
                continue
            curves = rows.set_index("step").rename(columns={"value": "values"})
            known = {key: curves[key] for key in ("values", "low", "high")}
            said, colour = label, colours[group]
            if len(analyses) == 1:
                said, colour = f"n = {rows['n'][0]}, 95 % interval", "p3"
            lines.append(make_line(said, colour, known, dots=True))
        title = f"Accuracy of the checkpoints on {name}"
        lines += paper.get("accuracy", [])
        charts.append({"title": title, "format": "fraction", "figure": True, "lines": lines})
    return charts


def average_groups(analyses: list[Analysis], groups: list[str], key: str) -> list[Line]:
    """Average a metric over the seeds of each group, with a band from the least to the greatest.

    A group of one has the 95 % interval of its mean instead, where the metric has one.
    """
    lines = []
    for group, colour in colour_groups(groups).items():
        runs = [one.steps for one, of in zip(analyses, groups, strict=True) if of == group]
        seeds = [steps.set_index("step") for steps in runs if key in steps]
        if not seeds:
            continue
        table = pd.concat([steps[key] for steps in seeds], axis="columns").sort_index()
        values = table.mean(axis="columns")
        # the running mean, over more steps where there are more
        radius = round(min(12, len(values) / 50))
        drawn = values.rolling(2 * radius + 1, center=True, min_periods=1).mean()
        curves = {"values": values, "drawn": drawn}
        if len(seeds) > 1:
            curves |= {"low": table.min(axis="columns"), "high": table.max(axis="columns")}
        elif key in ERRORS:
            error = 1.96 * seeds[0][ERRORS[key]]
            curves |= {"low": values - error, "high": values + error}
        lines.append(make_line(group, colour, curves))
    return lines


def read_curve(steps: list[int]) -> dict[str, list[Line]]:
    """Read the paper's curve at the run's steps, its last laid on theirs: both are 10 passes."""
    curve = pd.read_csv(CURVE)
    laid = curve["step"] * steps[-1] / curve["step"].iloc[-1]
    lines = {}
    for key in ("accuracy", "characters"):
        values = pd.Series(np.interp(steps, laid, curve[key]), steps)
        lines[key] = [make_line("the paper", "soft", {"values": values}, dash=[4, 4])]
    return lines


def name_runs(analyses: list[Analysis], groups: list[str]) -> list[str]:
    """Name each run by its group, and by its folder too where the group has several."""
    return [
        group if groups.count(group) == 1 else f"{group}: {one.run.folder.name}"
        for one, group in zip(analyses, groups, strict=True)
    ]


def colour_groups(groups: list[str]) -> dict[str, str]:
    """Give each group a colour, in order."""
    return dict(zip(dict.fromkeys(groups), TABLES["runs"] * len(groups), strict=False))


def draw_figure(analyses: list[Analysis], groups: list[str]) -> bytes:
    """Draw the runs as PNG; a single run has its phases as a bar and behind every curve."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    charts = [chart for chart in list_charts(analyses, groups) if chart.get("figure")]
    count, labels = len(analyses), name_runs(analyses, groups)
    heights = [0.35, 1.5] * count + [1.0] * (len(charts) - count)
    png = BytesIO()
    with matplotlib.rc_context(TABLES["style"]):
        # a figure outside pyplot's state, which would keep it in memory
        figure = Figure(figsize=(7.2, 1.15 * sum(heights) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        ratios = {"height_ratios": heights}
        axes = figure.subplots(len(heights), sharex=True, gridspec_kw=ratios)
        for axis, one, label in zip(axes[::2], analyses, labels, strict=False):
            draw_phases(axis, one, label if count > 1 else "")
        below = [*axes[1 : 2 * count : 2], *axes[2 * count :]]
        for place, (axis, chart) in enumerate(zip(below, charts, strict=True)):
            draw_chart(axis, chart, analyses[0].phases if count == 1 and place else [])
        steps = [step for chart in charts for line in chart["lines"] for step in line["steps"]]
        axes[-1].set(xlabel="step", xlim=(min(steps) - 0.5, max(steps) + 0.5))
        figure.savefig(png, format="png", dpi=180, metadata={"Software": None})
    return png.getvalue()


def draw_phases(axis: Any, one: Analysis, label: str) -> None:
    """Draw the phases as one bar, with their names where there is room."""
    total = one.phases[-1]["last"] - one.phases[0]["first"] + 1
    for span in one.phases:
        first, last, phase, name = (span[key] for key in ("first", "last", "phase", "name"))
        colour = COLOURS[f"p{phase}"]
        axis.axvspan(first - 0.5, last + 0.5, color=colour, lw=0, alpha=1 if phase else 0.4)
        room = (last - first + 1) / total
        texts = [f"{phase} {name}", f"{phase} {name.split(' (')[0]}", str(phase)]
        shown = next((text for text in texts if phase and room > 0.01 * len(text)), "")
        style = {"color": "white", "fontsize": 7.5, "weight": "bold"}
        axis.text((first + last) / 2, 0.5, shown, ha="center", va="center", **style)
    axis.set(ylim=(0, 1), yticks=[], title=label)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)


def draw_chart(axis: Any, chart: Chart, phases: list[dict[str, Any]]) -> None:
    """Draw a chart's lines: areas, dots with intervals, or each step thin and the mean bold."""
    for line in chart["lines"]:
        steps, style = line["steps"], {"color": COLOURS[line["colour"]], "label": line["name"]}
        values, drawn, low, high = (
            np.array(line.get(key, line["values"]), float)
            for key in ("values", "drawn", "low", "high")
        )
        if "area" in line:
            axis.fill_between(steps, low, high, alpha=0.88, lw=0, **style)
        elif "dots" in line:
            bars = [values - low, high - values]
            axis.errorbar(steps, values, yerr=bars, fmt="o-", ms=3.5, lw=1, **style)
        else:
            axis.plot(steps, values, lw=0.6, alpha=0.35, color=style["color"])
            axis.plot(steps, drawn, lw=1.6, **style)
    for span in phases:
        if span["phase"]:
            ends = (span["first"] - 0.5, span["last"] + 0.5)
            axis.axvspan(*ends, color=COLOURS[f"p{span['phase']}"], alpha=0.09, lw=0)
    axis.set_title(chart["title"])
    axis.set_ylim(chart.get("low"), chart.get("high"))
    if "height" in chart:  # room above the areas for their legend
        axis.set_ylim(top=1.22 * axis.get_ylim()[1])
    axis.legend(ncols=5, loc="upper left" if "height" in chart else "best", handlelength=1)
