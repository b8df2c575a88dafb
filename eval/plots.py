"""Plots of the report as SVG text, to be put into the page as it is."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

from eval.tables import Result, name_system

COLOURS = ["#2a7fc1", "#d1495b", "#3c8d53", "#8a5fbf", "#c77d1e", "#76808a", "#12908e", "#b8468f"]
"""Colours of systems; each can be read on a white and on a dark page."""
INK, SOFT, LINE = "#1d2329", "#5c6670", "#d9dee3"
"""Colours of text, axes and grid; `finish` makes them the page's own, for light and dark."""
STYLE = Path(__file__).with_suffix(".mplstyle")
LONGEST = 48
"""Characters of a label; a subject of hundreds would leave no room for the plot."""


def plot_accuracy(results: list[Result]) -> str:
    """Plot a benchmark: strict accuracy with its interval, lenient as a ring, chance as a line."""
    names = list(map(name_system, results))
    figure, axes = start(names, max(1.6, 0.34 * len(names) + 0.9))
    for row, result in enumerate(results):
        colour, y = COLOURS[row % len(COLOURS)], len(names) - 1 - row
        draw_interval(axes, result["accuracy"], y, colour)
        lenient = 100 * result["accuracy_lenient"]["value"]
        axes.plot(lenient, y, "o", ms=9, mfc="none", mec=colour, mew=0.8)
    axes.axvline(100 * results[0]["chance"], color=SOFT, lw=1, ls=":")
    return finish(figure)


def plot_parts(results: list[Result], key: str, label: str) -> str:
    """Plot strict accuracy of each part (`by_group`, …) with intervals, a colour a system."""
    parts = list(dict.fromkeys(part for result in results for part in result[key]))
    figure, axes = start(parts, max(1.8, 0.13 * len(parts) * (len(results) + 1) + 1.0))
    for place, part in enumerate(parts):
        y = len(parts) - 1 - place
        for index, result in enumerate(results):
            if part in result[key]:
                colour = COLOURS[index % len(COLOURS)]
                height = y + 0.4 - 0.8 / len(results) * (index + 0.5)
                draw_interval(axes, result[key][part], height, colour, 3.5)
                chance = 100 * result[key][part]["chance"]
        axes.plot([chance, chance], [y - 0.45, y + 0.45], color=SOFT, lw=1, ls=":")
    axes.set_ylabel(label, parse_math=False)
    if len(results) > 1:
        draw_legend(figure, list(map(name_system, results)))
    return finish(figure)


def draw_interval(axes: Any, measured: Result, y: float, colour: str, size: float = 5) -> None:
    """Draw a dot with its interval, in per cent."""
    low, value, high = (100 * measured[key] for key in ("low", "value", "high"))
    axes.plot([low, high], [y, y], color=colour, lw=1.6, solid_capstyle="round")
    axes.plot(value, y, "o", color=colour, ms=size)


def draw_legend(figure: Any, names: list[str]) -> None:
    """Draw the systems' colours below the plot."""
    from matplotlib.lines import Line2D

    colours = COLOURS * len(names)
    marks = [Line2D([], [], color=colours[i], marker="o", ms=4) for i in range(len(names))]
    # names follow below: matplotlib leaves out one that begins with _ and reads $ as a formula
    widths = ["x" * len(shorten(name)) for name in names]
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": INK}
    legend = figure.legend(marks, widths, loc="outside lower center", ncols=4, **style)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(shorten(name))


def shorten(text: str) -> str:
    """Shorten a label to one line of LONGEST characters."""
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def start(names: list[str], height: float) -> tuple[Any, Any]:
    """Start a plot of per cent, in inches, with a named row for each of `names` from the top."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=STYLE):
        # a figure outside pyplot's state, which would keep it in memory
        figure = Figure(figsize=(7.4, height), layout="constrained")
        axes = figure.subplots()
    axes.set_xlabel("accuracy (%)")
    axes.set_xlim(0, 100)
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)
    # `$` and `_` are written as they are
    axes.set_yticks(range(len(names)), map(shorten, reversed(names)), parse_math=False)
    axes.set_ylim(-0.6, len(names) - 0.4)
    return figure, axes


def finish(figure: Any) -> str:
    """Render a figure as an `<svg>` element: the same bytes for the same figure, and no address."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's own fonts draw the text
        nothing = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, name in ((INK, "--ink"), (SOFT, "--soft"), (LINE, "--line")):
        text = text.replace(colour, f"var({name})")
    # the page gives the width
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1)
