"""The plots of the report as SVG text, to be put into the page as it is."""

import io
import re
from typing import Any

COLOURS = ["#2a7fc1", "#d1495b", "#3c8d53", "#8a5fbf", "#c77d1e", "#76808a", "#12908e", "#b8468f"]
"""Of systems; each is told from a white and from a dark page."""
INK, SOFT, LINE = "#1d2329", "#5c6670", "#d9dee3"
"""Of text, axes and grid; `finish` makes them the page's own, which differ by light and dark."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "svg.fonttype": "none",  # text stays text: it can be searched, and the page's fonts are used
}


def plot_accuracy(results: list[dict[str, Any]]) -> str:
    """Strict accuracy with its interval, lenient as a ring, chance as a line; a row for each result of a benchmark."""
    names = [f"{result['model']}.{result['mode']}" for result in results]
    figure, axes = start(max(1.6, 0.34 * len(names) + 0.9), "accuracy (%)")
    for row, result in enumerate(results):
        accuracy = result["accuracy"]
        draw_interval(axes, accuracy, len(names) - 1 - row, COLOURS[row % len(COLOURS)])
        lenient = 100 * result["accuracy_lenient"]["value"]
        axes.plot(
            lenient,
            len(names) - 1 - row,
            "o",
            ms=9,
            mfc="none",
            mec=COLOURS[row % len(COLOURS)],
            mew=0.8,
        )
    axes.axvline(100 * results[0]["chance"], color=SOFT, lw=1, ls=":")
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_ylim(-0.6, len(names) - 0.4)
    return finish(figure)


def plot_parts(results: list[dict[str, Any]], key: str, label: str) -> str:
    """Strict accuracy of each part (`by_group`, `by_num_options`, `by_length`) with intervals, a colour a system."""
    parts = list(dict.fromkeys(part for result in results for part in result[key]))
    step = 0.8 / len(results)
    figure, axes = start(max(1.8, 0.13 * len(parts) * (len(results) + 1) + 1.0), "accuracy (%)")
    for index, result in enumerate(results):
        for place, part in enumerate(parts):
            if part in result[key]:
                y = len(parts) - 1 - place + 0.4 - step * (index + 0.5)
                draw_interval(axes, result[key][part], y, COLOURS[index % len(COLOURS)], 3.5)
    for place, part in enumerate(parts):
        chance = 100 * next(r[key][part]["chance"] for r in results if part in r[key])
        y = len(parts) - 1 - place
        axes.plot([chance, chance], [y - 0.45, y + 0.45], color=SOFT, lw=1, ls=":")
    axes.set_yticks(range(len(parts)), parts[::-1])
    axes.set_ylabel(label)
    axes.set_ylim(-0.6, len(parts) - 0.4)
    if len(results) == 1:
        return finish(figure)
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", ms=4)
        for i in range(len(results))
    ]
    names = [f"{result['model']}.{result['mode']}" for result in results]
    figure.legend(
        marks, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=INK
    )
    return finish(figure)


def plot_agreement(comparisons: list[dict[str, Any]]) -> str:
    """Share of questions on which two systems make the same choice, as a matrix."""
    names = sorted({name for c in comparisons for name in (c["a"], c["b"])})
    figure, axes = start(0.5 * len(names) + 1.2, "", width=0.95 * len(names) + 2.2)
    for comparison in comparisons:
        for x, y in ((comparison["a"], comparison["b"]), (comparison["b"], comparison["a"])):
            column, row = names.index(x), names.index(y)
            share = comparison["same_choice"]
            axes.add_patch(rectangle(column, row, (0.11, 0.42, 0.66, 0.08 + 0.82 * share)))
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                color="w" if share > 0.55 else INK,
            )
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return finish(figure)


def rectangle(column: int, row: int, colour: tuple[float, ...]) -> Any:
    """One cell of a matrix."""
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=colour, lw=0)


def draw_interval(
    axes: Any, measured: dict[str, Any], y: float, colour: str, size: float = 5
) -> None:
    """A dot with its interval, in per cent."""
    low, value, high = (100 * measured[key] for key in ("low", "value", "high"))
    axes.plot([low, high], [y, y], color=colour, lw=1.6, solid_capstyle="round")
    axes.plot(value, y, "o", color=colour, ms=size)


def start(height: float, label: str, width: float = 7.4) -> tuple[Any, Any]:
    """A figure of one plot, sizes in inches, whose x axis holds per cent where it has a label."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    if label:
        axes.set_xlabel(label)
        axes.set_xlim(0, 100)
        axes.grid(axis="x", color=LINE, lw=0.6)
        axes.set_axisbelow(True)
    return figure, axes


def finish(figure: Any) -> str:
    """The figure as an `<svg>` element: the same bytes for the same figure, and no address in it is ever asked."""
    import matplotlib
    from matplotlib import pyplot

    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "med-rlvr"}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    pyplot.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, name in ((INK, "--ink"), (SOFT, "--soft"), (LINE, "--line")):
        text = text.replace(colour, f"var({name})")
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r'\1 role="img"',
        re.sub(r' height="[\d.]+pt"', "", text, count=1),
        count=1,
    )
