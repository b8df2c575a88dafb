"""Write the data card: the facts of a prepared data set for its readers, with a picture."""

from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("card.md.j2")


def render_card(manifest: dict[str, Any]) -> str:
    """Render the card in Markdown; the terminal shows the same text."""
    from jinja2 import StrictUndefined, Template

    text = TEMPLATE.read_text(encoding="utf-8")
    template = Template(text, undefined=StrictUndefined, keep_trailing_newline=True)
    return template.render(manifest, commas="{:,}".format, percent="{:.0%}".format)


def draw_lengths(path: Path, tokens: dict[str, list[int]], limit: int) -> None:
    """Draw a histogram of prompt lengths, one row a split, as PNG; same lengths, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 1.3 * len(tokens)), dpi=110, layout="constrained")
    axes = figure.subplots(len(tokens), 1, sharex=True, squeeze=False)[:, 0]
    longest = max(max(counts) for counts in tokens.values())
    width = max(1, -(-longest // 60))
    bins = range(0, longest + 2 * width, width)
    for axis, (split, counts) in zip(axes, tokens.items(), strict=True):
        axis.hist(counts, bins=bins, color="#4c72b0", edgecolor="white", linewidth=0.3)
        median = sorted(counts)[len(counts) // 2]
        axis.axvline(median, color="#222222", linewidth=1)
        title = f"{split}: {len(counts):,} rows, median {median:,}, longest {max(counts):,}"
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("rows", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(axes)
    label = f"tokens of the prompt (limit on training rows {limit:,}; line: median)"
    axes[-1].set_xlabel(label, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
