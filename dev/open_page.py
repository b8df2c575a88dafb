"""Write docs/open_reward.md from the tables that the tests check.

python -m dev.open_page     # after any change of tests/open_verdicts.yaml or tests/open/; a test fails without
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dev.reward_page import _quote, _render_rows
from reward_server.number import Target, read_number
from reward_server.text import Stated, read_text

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "tests" / "open_verdicts.yaml", ROOT / "docs" / "open_reward.md"
LABELLED = {kind: ROOT / "tests" / "open" / f"{kind}_answers.txt" for kind in ("text", "number")}
HEADS = {
    "text": ("accepted", "answer", "reason", "why"),
    "number": ("asked for", "answer", "reason", "why"),
}
INTRODUCTION = """\
<!-- Written by `python -m dev.open_page` from tests/open_verdicts.yaml and tests/open/. -->
# The rewards for open answers, case by case

[open.md](open.md) says what they are for. The format is that of a choice ([reward.md](reward.md)): −1
where it is not followed. Where it is, the answer's text is read as below: `correct` is 1, every other
reason 0."""


class Labelled(NamedTuple):
    """An answer that was labelled by hand."""

    kind: str
    target: Any
    body: str
    right: bool


def read_labelled(kind: str) -> Iterator[Labelled]:
    """Read the labelled answers of `text` or `number`. target: references, or a Target."""
    group = ""
    target: Any = None
    for line in LABELLED[kind].read_text(encoding="utf-8").splitlines():
        if line.startswith("= ") and " | " not in line:
            group = line[2:]
        elif line.startswith(": ") and kind == "number":
            head, _, substance = line[2:].partition("; ")
            value, lower, upper, *unit = head.split(" ", 3)
            target = Target(
                float(value), float(lower), float(upper), "".join(unit), substance or None
            )
        elif line and not line.startswith("#"):
            text, _, label = line.rpartition(" | ")
            if kind == "text":
                references, _, text = text.partition(" | ")
                target = references.split("; ")
            text = re.sub(
                r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), text.replace("\\n", "\n")
            )
            yield Labelled(group, target, text, {"+": True, "-": False}[label])


def read_row(kind: str, row: dict[str, Any]) -> Stated:
    """Read the body of a row of the table."""
    body = row["body"] * row.get("times", 1)
    if kind == "text":
        return read_text(body, row["references"])
    lower, upper = row["limits"]
    target = Target(row["value"], lower, upper, row.get("unit", ""), row.get("substance"))
    return read_number(body, target)


def count_labelled(kind: str) -> dict[str, list[int]]:
    """Count by kind of answer: all, right, paid, paid and right."""
    read = read_text if kind == "text" else read_number
    counts: dict[str, list[int]] = {}
    for answer in read_labelled(kind):
        paid = read(answer.body, answer.target).reason == "correct"
        counted = counts.setdefault(answer.kind, [0, 0, 0, 0])
        for place, found in enumerate((True, answer.right, paid, paid and answer.right)):
            counted[place] += found
    return counts


def render_page() -> str:
    """Render the whole page, as Markdown."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    parts = [INTRODUCTION]
    for kind, groups in table.items():
        parts.append(f"## `{kind}`")
        for group in groups:
            rows = []
            for row in group["rows"]:
                body = _quote(row["body"]) + (f" ({row['times']} times)" if "times" in row else "")
                rows.append((_ask(kind, row), body, f"`{row['is']}`", row["why"]))
            parts += [f"### {group['group']}", _render_rows(HEADS[kind], rows)]
        parts += [f"### Labelled by hand: `{kind}`", *_render_counts(kind)]
    return "\n\n".join(parts) + "\n"


def _ask(kind: str, row: dict[str, Any]) -> str:
    if kind == "text":
        return "; ".join(row["references"])
    unit = " ".join(filter(None, [row.get("unit"), row.get("substance")]))
    lower, upper = row["limits"]
    return f"{row['value']} ({lower} to {upper}) {unit}".strip()


def _render_counts(kind: str) -> list[str]:
    counts = count_labelled(kind)
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [
        (name, total, right, paid, paid - good, right - good)
        for name, (total, right, paid, good) in counts.items()
    ]
    total, right, paid, good = counts["all"]
    text = (
        f"{total} answers written and labelled by us, right or wrong to a careful examiner, before "
        f"they were read. Precision {good}/{paid} = {good / paid:.1%}; {right - good} of {right} "
        f"right ones are missed ({1 - good / right:.1%}), most of them on purpose."
    )
    head = ("kind of answer", "answers", "right", "paid", "paid, though wrong", "right, not paid")
    return [text, _render_rows(head, rows)]


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
