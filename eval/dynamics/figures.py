"""The figures for a paper, as PNG: dynamics.png (the run on one page) and features.png, phases behind every curve."""

from pathlib import Path
from typing import Any

import numpy as np

from eval.dynamics.analysis import Analysis, find_spans
from eval.dynamics.phases import NAMES

PHASE_COLOURS = ["#c3c8ce", "#b8505a", "#d99a2b", "#2f9e8f", "#a64d9f", "#e0663a", "#3b6fc9"]
PARTS = {
    "words_before": ("before <think>", "#e0663a"),
    "words_think": ("inside <think>", "#3b6fc9"),
    "words_answer": ("answer", "#2f9e8f"),
    "words_after": ("after", "#98a1ab"),
    "words_untagged": ("no <think>", "#b8505a"),
}
RUNS = ["#3b6fc9", "#e0663a", "#2f9e8f", "#a64d9f", "#d99a2b", "#626c77"]
FEATURES = {
    "leak": ("answer before reasoning", "share"),
    "pre_think": ("text before <think>", "share"),
    "agrees": ("reasoning agrees with the answer", "share"),
    "overlap": ("question's terms mentioned", "share"),
    "leak_position": ("place of the first statement", "share"),
    "steps": ("steps of reasoning", "number"),
    "repetition": ("repeated four-word runs", "share"),
    "truncated": ("truncated", "share"),
    "response_length": ("response tokens", "number"),
}
STYLE: dict[Any, Any] = {
    **{
        "font.size": 8.5,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    },
    **{
        "axes.edgecolor": "#98a1ab",
        "xtick.color": "#626c77",
        "ytick.color": "#626c77",
        "axes.labelcolor": "#1c2127",
    },
    **{
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8,
    },
}


def draw_figures(folder: Path, analyses: list[Analysis], labels: list[str]) -> list[Path]:
    """Writes the figures; returns their paths."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figures = {
            "dynamics.png": draw_dynamics(analyses, labels),
            "features.png": draw_features(analyses, labels),
        }
        paths = []
        for name, figure in figures.items():
            partial = folder / f"{name}.partial"
            figure.savefig(partial, format="png", dpi=180, metadata={"Software": None})
            paths.append(partial.replace(folder / name))
    return paths


def start_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Any, Any]:
    """A figure outside pyplot's state, in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex=True, squeeze=False, **options)


def draw_dynamics(analyses: list[Analysis], labels: list[str]) -> Any:
    """Ribbon and words by part of each run, then reward, accuracy, format, dev accuracy and KL."""
    single = len(analyses) == 1
    tall = [0.35, 1.5] * len(analyses) + [1.0, 1.0, 1.0, 0.8]
    figure, axes = start_figure(
        len(tall), 1, (7.2, 1.15 * sum(tall) + 0.6), gridspec_kw={"height_ratios": tall}
    )
    column = axes[:, 0]
    first = min(one.steps[0]["step"] for one in analyses)
    last = max(one.steps[-1]["step"] for one in analyses)
    for number, (one, label) in enumerate(zip(analyses, labels, strict=True)):
        draw_ribbon(column[2 * number], one, "" if single else label, (first, last))
        draw_words(column[2 * number + 1], one)
    rest = column[2 * len(analyses) :]
    both = "accuracy (solid) and share that follows the format (dotted)"
    panels = [
        ("rollout/reward_mean", "reward"),
        ("accuracy", both),
        ("kl", "KL to the base model (nats a token)"),
    ]
    for axis, (key, title) in zip((rest[0], rest[1], rest[3]), panels, strict=True):
        for index, (one, label) in enumerate(zip(analyses, labels, strict=True)):
            draw_line(
                axis,
                one,
                key,
                RUNS[index % len(RUNS)],
                label if axis is rest[0] and not single else "",
            )
            if key == "accuracy":
                draw_line(axis, one, "format_rate", RUNS[index % len(RUNS)], "", ":")
                axis.set_ylim(0, 1.05)
        axis.set_title(title)
        if single:
            shade(axis, analyses[0])
    sets = {f"{row['name']}, n = {row['n']}" for one in analyses for row in one.evals}
    for index, (one, of) in enumerate(zip(analyses, labels, strict=True)):
        for name in dict.fromkeys(found["name"] for found in one.evals):
            found = [row for row in one.evals if row["name"] == name]
            value = np.array([row["value"] for row in found])
            errors = [value - [row["low"] for row in found], [row["high"] for row in found] - value]
            steps, style = (
                [row["step"] for row in found],
                {"fmt": "o-", "ms": 3.5, "lw": 1, "elinewidth": 1.2},
            )
            told = (
                f"{'' if single else of + ': '}{name}, n = {found[0]['n']}"
                if len(sets) > 1
                else None
            )
            rest[2].errorbar(
                steps, value, yerr=errors, color=RUNS[index % len(RUNS)], label=told, **style
            )
    which = f" on {sets.copy().pop()}" if len(sets) == 1 else ""
    rest[2].set_title(f"accuracy of the checkpoints{which}, 95 % intervals")
    if len(sets) > 1:
        rest[2].legend(loc="best")
    if single:
        shade(rest[2], analyses[0])
    else:
        rest[0].legend(ncols=3, loc="lower right")
    column[-1].set_xlabel("step")
    column[-1].set_xlim(first - 0.5, last + 0.5)
    return figure


def draw_ribbon(axis: Any, one: Analysis, label: str, steps: tuple[int, int]) -> None:
    """The phases as one bar, their names where there is room; steps: first and last of the axis."""
    total = steps[1] - steps[0] + 1
    for first, last, phase in find_spans(one):
        axis.axvspan(
            first - 0.5, last + 0.5, color=PHASE_COLOURS[phase], lw=0, alpha=1 if phase else 0.4
        )
        text = f"{phase} {NAMES[phase]}" if phase else "none"
        room = (last - first + 1) / total
        shown = text if room > 0.0125 * len(text) else str(phase or "") if room > 0.03 else ""
        colour = "white" if phase else "#626c77"
        axis.text(
            (first + last) / 2,
            0.5,
            shown,
            ha="center",
            va="center",
            color=colour,
            fontsize=7.5,
            weight="bold",
        )
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_title(label)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)


def draw_words(axis: Any, one: Analysis) -> None:
    """Mean words of a response, stacked by the part they stand in."""
    steps = [row["step"] for row in one.steps]
    values = [[row[key] for row in one.steps] for key in PARTS]
    names, colours = zip(*PARTS.values(), strict=True)
    axis.stackplot(steps, values, colors=colours, labels=names, alpha=0.88, lw=0)
    axis.set_title("where the words stand: mean words of a response")
    axis.set_ylim(0, 1.22 * max(sum(column) for column in zip(*values, strict=True)))
    axis.legend(ncols=5, loc="upper left", handlelength=1, columnspacing=1.2)


def draw_line(
    axis: Any, one: Analysis, key: str, colour: str, label: str, style: str = "-"
) -> None:
    """Each step thin, the running mean bold."""
    found = [(row["step"], row[key]) for row in one.steps if key in row]
    if not found:
        return
    steps, values = (np.array(column) for column in zip(*found, strict=True))
    radius = min(12, len(values) // 50)
    axis.plot(steps, values, color=colour, lw=0.6, alpha=0.35 if radius else 0)
    window = np.ones(2 * radius + 1)
    mean = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    axis.plot(steps, mean, style, color=colour, lw=1.6, label=label or None)


def shade(axis: Any, one: Analysis) -> None:
    """The phases, pale behind a curve."""
    for first, last, phase in find_spans(one):
        if phase:
            axis.axvspan(
                first - 0.5, last + 0.5, color=PHASE_COLOURS[phase], alpha=0.09, lw=0, zorder=0
            )


def draw_features(analyses: list[Analysis], labels: list[str]) -> Any:
    """Every feature over steps, a colour a run."""
    figure, axes = start_figure(3, 3, (8.4, 5.4))
    for axis, (key, (title, kind)) in zip(axes.flat, FEATURES.items(), strict=True):
        for index, (one, label) in enumerate(zip(analyses, labels, strict=True)):
            draw_line(axis, one, key, RUNS[index % len(RUNS)], label)
        axis.set_title(title)
        if kind == "share":
            axis.set_ylim(-0.02, 1.02)
        else:
            axis.set_ylim(bottom=0)
        if len(analyses) == 1:
            shade(axis, analyses[0])
    for axis in axes[-1]:
        axis.set_xlabel("step")
    if len(analyses) > 1:
        axes[0, 0].legend()
    return figure
