"""Gather the report's charts, lines over steps, for the page; draw those of dynamics.png."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.files import read_mapping
from eval.dynamics.analysis import Analysis
from reward_server.signals import SIGNALS

Chart = dict[str, Any]  # title, format, low, high, height, figure, as in figures.yaml; lines
Line = dict[str, Any]  # name, colour, steps, values; drawn, low, high, by step; area, dots, dash
TABLES = read_mapping(Path(__file__).with_suffix(".yaml"))
PANELS, WORDS, COLOURS = TABLES["panels"], TABLES["words"], TABLES["colours"]


def list_charts(
    analyses: list[Analysis], paper: dict[str, list[Line]] | None = None
) -> list[Chart]:
    """List the charts: words by part, accuracy of the checkpoints, panels, signals in none of them.

    A single run has several metrics in a chart. Of several runs each metric has its own chart, with
    a line for each group. paper: lines to lay under a metric, see `read_curve`.
    """
    single, paper = len(analyses) == 1, paper or {}
    shown = set(TABLES["elsewhere"]).union(*(panel["lines"] for panel in PANELS))
    signals = [
        {"title": signal.name, "format": "number", "lines": {signal.name: (signal.shows, "p6")}}
        for signal in SIGNALS
        if signal.name not in shown
    ]
    charts = [*stack_words(analyses), *chart_evals(analyses, paper.get("accuracy", []))]
    for panel in [*PANELS, *signals]:
        names = panel["lines"]
        for keys in [list(names)] if single else [[key] for key in names]:
            # a part of a panel has the name of its metric
            title = panel["title"] if len(keys) == len(names) else names[keys[0]][0].capitalize()
            lines: list[Line] = []
            for key in keys:
                lines += average_groups(analyses, key, names[key] if single else None)
            for key in keys:
                lines += paper.get(key, [])
            charts.append(panel | {"title": title, "lines": lines})
    return [chart for chart in charts if chart["lines"]]


def make_line(name: str, colour: str, values: pd.Series, **more: Any) -> Line:
    """Make a line of values by step. more: `drawn`, where others than in the legend; low, high."""
    line = {"name": name, "colour": colour, "steps": values.index.tolist(), "values": values}
    return line | more


def stack_words(analyses: list[Analysis]) -> list[Chart]:
    """Stack the mean words of a response by their part, in a chart for each run."""
    title, several = "Mean words of a response, by part", len(analyses) > 1
    shape = {"format": "number", "low": 0, "height": 160 if several else 230, "figure": True}
    charts = []
    for one in analyses:
        words = one.steps.set_index("step")[list(WORDS)]
        tops = words.cumsum(axis="columns")
        lines = []
        for key, (name, colour) in WORDS.items():
            top, low = tops[key], tops[key] - words[key]
            line = make_line(name, colour, words[key], drawn=top, low=low, high=top, area=True)
            lines.append(line)
        named = f"{title}: {one.label}" if several else title
        charts.append({"title": named, "lines": lines, **shape})
    return charts


def chart_evals(analyses: list[Analysis], paper: list[Line]) -> list[Chart]:
    """Chart the accuracy of the checkpoints with its 95 % intervals, for each data set."""
    colours, charts = colour_groups(analyses), []
    for name in dict.fromkeys(row["name"] for one in analyses for row in one.evals):
        lines = []
        for one in analyses:
            rows = pd.DataFrame([row for row in one.evals if row["name"] == name])
            if len(rows):
                rows = rows.set_index("step")
                said = f"{one.label}, n = {rows['n'].iloc[0]}"
                ends = {"low": rows["low"], "high": rows["high"], "dots": True}
                lines.append(make_line(said, colours[one.group], rows["value"], **ends))
        title = f"Accuracy of the checkpoints on {name}"
        chart = {"title": title, "format": "fraction", "figure": True, "lines": [*lines, *paper]}
        charts.append(chart)
    return charts


def average_groups(analyses: list[Analysis], key: str, named: tuple[str, str] | None) -> list[Line]:
    """Average a metric over the seeds of each group, with a band from the least to the greatest.

    A group of one has the 95 % interval of its mean instead, where the metric has one.
    named: name and colour of the line, for those of the group.
    """
    lines = []
    for group, colour in colour_groups(analyses).items():
        of_group = [one.steps.set_index("step") for one in analyses if one.group == group]
        seeds = [steps for steps in of_group if key in steps]
        if not seeds:
            continue
        table = pd.concat([steps[key] for steps in seeds], axis="columns").sort_index()
        values = table.mean(axis="columns")
        # the running mean, over more steps where there are more
        width = 2 * round(min(12, len(values) / 50)) + 1
        drawn = values.rolling(width, center=True, min_periods=1).mean()
        line = make_line(*(named or (group, colour)), values, drawn=drawn)
        if len(seeds) > 1:
            line |= {"low": table.min(axis="columns"), "high": table.max(axis="columns")}
        elif key in TABLES["errors"]:
            error = 1.96 * seeds[0][TABLES["errors"][key]]
            line |= {"low": values - error, "high": values + error}
        lines.append(line)
    return lines


def colour_groups(analyses: list[Analysis]) -> dict[str, str]:
    """Give each group a colour, in order."""
    groups = dict.fromkeys(one.group for one in analyses)
    return dict(zip(groups, TABLES["runs"] * len(groups), strict=False))


def read_curve(steps: list[int]) -> dict[str, list[Line]]:
    """Read the paper's figure 2, digitised, its last step laid on the run's: both are 10 passes."""
    curve = pd.read_csv(Path(__file__).with_name("paper_curve.csv"))
    laid = curve["step"] * steps[-1] / curve["step"].iloc[-1]
    lines = {}
    for key in ("accuracy", "characters"):
        values = pd.Series(np.interp(steps, laid, curve[key]), steps)
        lines[key] = [make_line("the paper", "soft", values, dash=[4, 4])]
    return lines


def draw_figure(analyses: list[Analysis]) -> bytes:
    """Draw the runs as PNG, their phases as bars; those of a single run behind its other curves."""
    import matplotlib
    from matplotlib.figure import Figure

    charts = [chart for chart in list_charts(analyses) if chart.get("figure")]
    heights = [1.8 if "height" in chart else 1.0 for chart in charts]
    steps = [step for chart in charts for line in chart["lines"] for step in line["steps"]]
    ends = (min(steps) - 0.5, max(steps) + 0.5)
    png = BytesIO()
    with matplotlib.rc_context(TABLES["style"]):
        # a figure outside pyplot's state, which would keep it in memory
        figure = Figure(figsize=(7.2, 1.15 * sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(charts), sharex=True, height_ratios=heights, squeeze=False)
        for axis, chart in zip(axes[:, 0], charts, strict=True):
            draw_chart(axis, chart)
        # the first charts are the words of each run
        for axis, one in zip(axes[:, 0], analyses, strict=False):
            draw_bar(axis, one.phases, ends[1] - ends[0])
        for axis in axes[1:, 0] if len(analyses) == 1 else []:
            for span in analyses[0].phases:
                shade = {"color": COLOURS[f"p{span['phase']}"], "alpha": 0.09, "lw": 0}
                if span["phase"]:
                    axis.axvspan(span["first"] - 0.5, span["last"] + 0.5, **shade)
        axes[-1, 0].set(xlabel="step", xlim=ends)
        figure.savefig(png, format="png", dpi=180, metadata={"Software": None})
    return png.getvalue()


def draw_bar(axis: Any, phases: list[dict[str, Any]], width: float) -> None:
    """Draw the phases as a bar above the chart, with their names where there is room."""
    place = {"ymin": 1.03, "ymax": 1.18, "clip_on": False, "lw": 0}
    style = {"color": "white", "fontsize": 7, "weight": "bold", "ha": "center", "va": "center"}
    for span in phases:
        phase, first, last = span["phase"], span["first"] - 0.5, span["last"] + 0.5
        axis.axvspan(first, last, color=COLOURS[f"p{phase}"], alpha=1 if phase else 0.4, **place)
        name = f"{phase} {span['name'].split(' (')[0]}"
        text = name if (last - first) / width > 0.0095 * len(name) else str(phase)
        middle = axis.get_xaxis_transform()
        axis.text((first + last) / 2, 1.1, text if phase else "", transform=middle, **style)


def draw_chart(axis: Any, chart: Chart) -> None:
    """Draw a chart's lines: areas, or bands with each step thin or as a dot and the mean bold."""
    for line in chart["lines"]:
        steps, values, colour = line["steps"], line["values"], COLOURS[line["colour"]]
        # a legend leaves out a name that begins with _, and a long one would leave no room
        area, name = "area" in line, f" {line['name']:.48}"
        if "low" in line:
            style = {"alpha": 0.88, "label": name} if area else {"alpha": 0.16}
            axis.fill_between(steps, line["low"], line["high"], color=colour, lw=0, **style)
        if not area:
            axis.plot(steps, values, lw=0.6, alpha=0.35, color=colour)
            mark = {"marker": "o" if "dots" in line else "", "ms": 3.5, "lw": 1.6}
            axis.plot(steps, line.get("drawn", values), color=colour, label=name, **mark)
    stacked = "height" in chart
    axis.set_title(chart["title"][:90], pad=28 if stacked else 6)
    axis.set_ylim(chart.get("low"), chart.get("high"))
    if stacked:  # room above the areas for their legend
        axis.set_ylim(top=1.22 * axis.get_ylim()[1])
    axis.legend(ncols=5, loc="upper left" if stacked else "best", handlelength=1)
