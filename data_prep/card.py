"""The data card: what the reader of a paper wants to know of a prepared data set, in Markdown, with a picture."""

from pathlib import Path
from typing import Any


def draw_lengths(path: Path, tokens: dict[str, list[int]], limit: int) -> None:
    """A histogram of prompt lengths, one row a split, as PNG; the same bytes for the same lengths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 1.3 * len(tokens)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tokens), 1, sharex=True, squeeze=False)[:, 0]
    longest = max(max(counts) for counts in tokens.values())
    width = max(1, -(-longest // 60))
    bins = range(0, longest + 2 * width, width)
    for axis, (split, counts) in zip(axes, tokens.items(), strict=True):
        axis.hist(counts, bins=bins, color="#4c72b0", edgecolor="white", linewidth=0.3)
        median = sorted(counts)[len(counts) // 2]
        axis.axvline(median, color="#222222", linewidth=1)
        axis.set_title(
            f"{split}: {len(counts):,} rows, median {median:,}, longest {max(counts):,}",
            fontsize=9,
            loc="left",
        )
        axis.set_ylabel("rows", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel(f"tokens of the prompt (limit {limit:,}; line: median)", fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def write_card(path: Path, manifest: dict[str, Any]) -> None:
    """Writes the card from the manifest."""
    origin, overlap = manifest["origin"], manifest["overlap"]
    where = next(
        (f"{kind}: `{origin[key]}`" for key, kind in ORIGINS.items() if key in origin), "mixture"
    )
    lines = [
        f"# {manifest['name']}",
        "",
        "Prepared by `make prep`; all row ids are in [manifest.json](manifest.json).",
        "",
        f"* Source: {where}"
        + (f", revision `{origin['revision']}`" if "revision" in origin else ""),
        f"* Licence: {origin['licence']}",
        f"* Prompt {manifest['prompt']['file'] or manifest['prompt']['name']} "
        f"(sha256 {manifest['prompt']['sha256'][:16]}…), seed {manifest['seed']}, "
        f"tokenizer `{manifest['tokenizer']['path']}` (sha256 {manifest['tokenizer']['sha256'][:16]}…)",
    ]
    if chat := manifest["chat"]:
        lines.append(
            "* Prompts are a user's message in the tokenizer's chat template "
            f"(sha256 {chat['template_sha256'][:16]}…), whose turns end in `{chat['end_of_turn']}`"
        )
    views = {
        key: value
        for key, value in manifest["views"].items()
        if value not in (None, 0, "keep") and key != "left_as_they_are"
    }
    if views:
        left = sum(map(len, manifest["views"]["left_as_they_are"].values()))
        named = ", ".join(f"{key} {value}" for key, value in views.items())
        lines.append(f"* View of the questions: {named}; {left:,} rows stay as they are")
    if manifest["state"]:
        lines.append(f"* State: {manifest['state']}")
    lines += [f"* Note: {remark}" for remark in manifest["remarks"]]
    if "index_base" in origin:
        lines.append(
            f"* The answer index counts from {origin['index_base']['base']} (found out from the rows)"
        )
    lines += [
        "",
        "## Rows",
        "",
        "| split | read | kept | dropped | mended | flagged |",
        "|---|---:|---:|---|---|---|",
    ]
    for split, facts in manifest["splits"].items():
        cells = [count_reasons(facts[key]) for key in ("dropped", "mended", "flagged")]
        lines.append(f"| {split} | {facts['read']:,} | {facts['kept']:,} | {' | '.join(cells)} |")
    for split, facts in manifest["shuffled_options"].items():
        lines += [
            "",
            f"{split}: options of {facts['rows']:,} rows shuffled, {len(facts['left_in_order']):,} left in order.",
        ]
    lines += ["", "## Duplicates and overlap", ""]
    lines += [
        "| split | rows | different stems | stem and gold (clusters) | stem and option set | near copies |"
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for split, facts in overlap["within_splits"].items():
        counts = [value for key, value in facts.items() if key != "near_copies"]
        lines.append(
            f"| {split} | {' | '.join(f'{n:,}' for n in counts)} | {len(facts['near_copies']):,} |"
        )
    policy = overlap["policy"]
    if "evaluation_rows" in overlap:
        dropped = (
            "none are dropped" if policy["drop"] is None else f"dropped from {policy['drop']:.0%}"
        )
        lines += [
            "",
            f"Training rows that share 8-grams with an evaluation row ({dropped}, flagged from {policy['flag']:.0%}): "
            f"{len(overlap['train_dropped']):,} dropped, {len(overlap['train_flagged']):,} flagged; "
            f"{len(overlap['evaluation_rows']):,} evaluation rows concerned.",
            "",
            f"Checked against: {', '.join(overlap['checked_against']) or 'no other data set'}. "
            f"Not checked (not prepared here): {', '.join(overlap['not_checked_against']) or 'none'}.",
        ]
    lines += [
        "",
        "## Prompt lengths",
        "",
        "| split | min | median | p90 | p99 | max |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for split, facts in manifest["splits"].items():
        lines.append(
            f"| {split} | {' | '.join(f'{n:,}' for n in facts['prompt_tokens'].values())} |"
        )
    over = sum(map(len, manifest["max_prompt_tokens"]["over_limit"].values()))
    lines += [
        "",
        f"Limit of training rows {manifest['max_prompt_tokens']['limit']:,} tokens; "
        f"{over:,} evaluation rows are longer.",
        "",
        "![Prompt lengths](lengths.png)",
        "",
    ]
    lines += ["Research only, not medical advice.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


ORIGINS = {"hub": "hub", "source": "local files", "generated_by": "generated by"}


def count_reasons(ids_by_reason: dict[str, list[str]]) -> str:
    """`2 duplicate_gold, 1 not_json`, or a dash for none."""
    return ", ".join(f"{len(ids):,} {reason}" for reason, ids in ids_by_reason.items()) or "–"
