"""Draw dynamics.png, a run on one page: phases, words by part, reward, accuracy and KL."""

from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from eval.dynamics.analysis import Analysis, find_spans
from eval.dynamics.phases import NAMES

PHASE_COLOURS = ["#c3c8ce", "#b8505a", "#d99a2b", "#2f9e8f", "#a64d9f", "#e0663a", "#3b6fc9"]
RUN_COLOURS = ["#3b6fc9", "#e0663a", "#2f9e8f", "#a64d9f", "#d99a2b", "#626c77"]
PARTS = {
    "words_before": ("before <think>", "#e0663a"),
    "words_think": ("inside <think>", "#3b6fc9"),
    "words_answer": ("answer", "#2f9e8f"),
    "words_after": ("after", "#98a1ab"),
    "words_untagged": ("no <think>", "#b8505a"),
}
PANELS = {
    "rollout/reward_mean": "reward",
    "accuracy": "accuracy (solid) and fraction that follows the format (dotted)",
    "evals": "accuracy of the checkpoints, 95 % intervals",
    "kl": "KL to the base model (nats a token)",
}
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def draw_figure(analyses: list[Analysis], labels: list[str]) -> bytes:
    """Draw the runs, a colour each, as PNG; a single run has its phases behind every curve."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    single = len(analyses) == 1
    heights = [0.35, 1.5] * len(analyses) + [1.0] * len(PANELS)
    png = BytesIO()
    with matplotlib.rc_context(STYLE):
        # a figure outside pyplot's state, which would keep it in memory
        figure = Figure(figsize=(7.2, 1.15 * sum(heights) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        ratios = {"height_ratios": heights}
        axes = figure.subplots(len(heights), sharex=True, gridspec_kw=ratios)
        for place, (one, label) in enumerate(zip(analyses, labels, strict=True)):
            draw_ribbon(axes[2 * place], one, "" if single else label)
            draw_words(axes[2 * place + 1], one)
        for axis, (key, title) in zip(axes[2 * len(analyses) :], PANELS.items(), strict=True):
            axis.set_title(title)
            for one, label, colour in zip(analyses, labels, RUN_COLOURS * 9, strict=False):
                if key == "evals":
                    draw_evals(axis, one, "" if single else f"{label}: ", colour)
                else:
                    draw_line(axis, one, key, colour, "" if single else label)
                if key == "accuracy":
                    draw_line(axis, one, "format_rate", colour, "", ":")
            for first, last, phase in find_spans(analyses[0]) if single else []:
                if phase:
                    axis.axvspan(
                        first - 0.5, last + 0.5, color=PHASE_COLOURS[phase], alpha=0.09, lw=0
                    )
            if axis.get_legend_handles_labels()[1]:
                axis.legend(ncols=3, loc="best")
        drawn = [row["step"] for one in analyses for row in [*one.steps, *one.evals]]
        axes[-1].set(xlabel="step", xlim=(min(drawn) - 0.5, max(drawn) + 0.5))
        figure.savefig(png, format="png", dpi=180, metadata={"Software": None})
    return png.getvalue()


def draw_ribbon(axis: Any, one: Analysis, label: str) -> None:
    """Draw the phases as one bar, with their names where there is room."""
    total = one.steps[-1]["step"] - one.steps[0]["step"] + 1
    for first, last, phase in find_spans(one):
        colour = PHASE_COLOURS[phase]
        axis.axvspan(first - 0.5, last + 0.5, color=colour, lw=0, alpha=1 if phase else 0.4)
        room = (last - first + 1) / total
        texts = [f"{phase} {NAMES[phase]}", f"{phase} {NAMES[phase].split(' (')[0]}", str(phase)]
        shown = next((text for text in texts if room > 0.01 * len(text)), "")
        style = {"color": "white", "fontsize": 7.5, "weight": "bold"}
        axis.text(
            (first + last) / 2, 0.5, shown if phase else "", ha="center", va="center", **style
        )
    axis.set(ylim=(0, 1), yticks=[], title=label)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)


def draw_words(axis: Any, one: Analysis) -> None:
    """Stack the mean words of a response by their part."""
    values = np.array([[row[key] for row in one.steps] for key in PARTS])
    names, colours = zip(*PARTS.values(), strict=True)
    steps = [row["step"] for row in one.steps]
    axis.stackplot(steps, values, colors=colours, labels=names, alpha=0.88, lw=0)
    axis.set(title="mean words of a response, by part", ylim=(0, 1.22 * values.sum(0).max() + 0.1))
    axis.legend(ncols=5, loc="upper left", handlelength=1, columnspacing=1.2)


def draw_line(
    axis: Any, one: Analysis, key: str, colour: str, label: str, style: str = "-"
) -> None:
    """Draw each step thin, the running mean bold."""
    found = {row["step"]: row[key] for row in one.steps if key in row}
    values = pd.Series(found, dtype=float)
    radius = min(12, len(values) // 50)
    axis.plot(values, color=colour, lw=0.6, alpha=0.35 if radius else 0)
    mean = values.rolling(2 * radius + 1, center=True, min_periods=1).mean()
    axis.plot(mean, style, color=colour, lw=1.6, label=label or None)


def draw_evals(axis: Any, one: Analysis, prefix: str, colour: str) -> None:
    """Draw each evaluation's accuracy with its interval."""
    for name, rows in pd.DataFrame(one.evals).groupby("name") if one.evals else []:
        value = rows["value"]
        axis.errorbar(
            rows["step"],
            value,
            yerr=[value - rows["low"], rows["high"] - value],
            color=colour,
            label=f"{prefix}{name}, n = {rows['n'].iloc[0]}",
            fmt="o-",
            ms=3.5,
            lw=1,
        )
