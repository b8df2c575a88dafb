"""Reading answers, against 500 labelled responses in twelve styles: how often a letter is right, and is found.

Precision: of the letters that were read, those that a careful reader takes as the answer too; 1 means that nothing was
guessed. Recall: of the responses in which a reader finds an answer, those where the same letter was read.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.modes import judge

ROOT = Path(__file__).resolve().parents[1]
READINGS = ("strict: think", "strict: direct", "strict: cot", "lenient")


@pytest.fixture(scope="module")
def labelled() -> dict[str, list[dict[str, Any]]]:
    content = yaml.safe_load((ROOT / "tests" / "extraction.yaml").read_text(encoding="utf-8"))
    return {
        style: [{**content["questions"][r["q"]], **r} for r in rows]
        for style, rows in content["styles"].items()
    }


def read_all(row: dict[str, Any]) -> dict[str, str | None]:
    """Every reading of one response."""
    judged = {
        mode: judge(row["response"], row["gold"], row["options"], mode)
        for mode in ("think", "direct", "cot")
    }
    return {
        **{f"strict: {mode}": judgement.choice for mode, judgement in judged.items()},
        "lenient": judged["think"].choice_lenient,
    }


def count_readings(rows: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for reading, letter in read_all(row).items():
            counts[reading].update(
                stated=row["says"] is not None,
                read=letter is not None,
                right=letter is not None and letter == row["says"],
            )
    return counts


def write_table(labelled: dict[str, list[dict[str, Any]]]) -> str:
    """The table of docs/evaluation.md."""
    lines = [
        "| style | responses | with an answer | " + " | ".join(READINGS) + " |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    everything = [row for rows in labelled.values() for row in rows]
    for style, rows in [*labelled.items(), ("**all**", everything)]:
        counts = count_readings(rows)
        stated = counts["lenient"]["stated"]
        cells = [
            f"{counts[r]['right']}/{counts[r]['read']} right, {counts[r]['right'] / stated:.0%} found"
            for r in READINGS
        ]
        lines.append(f"| {style} | {len(rows)} | {stated} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_set_is_what_it_says(labelled: dict[str, list[dict[str, Any]]]) -> None:
    rows = [row for rows in labelled.values() for row in rows]
    assert len(rows) >= 500 and len(labelled) == 12
    assert len({row["response"] for row in rows}) > 0.95 * len(rows), (
        "no style is one response over and over"
    )
    for row in rows:
        assert row["says"] is None or row["says"] in "ABCDEFGHIJ"[: len(row["options"])], row
    assert sum(row["says"] is None for row in rows) >= 120, (
        "enough responses in which there is nothing to find"
    )


def test_strict_readings_guess_nothing(labelled: dict[str, list[dict[str, Any]]]) -> None:
    wrong = [
        (style, reading, letter, row["says"], row["response"])
        for style, rows in labelled.items()
        for row in rows
        for reading, letter in read_all(row).items()
        if reading != "lenient" and letter is not None and letter != row["says"]
    ]
    assert not wrong


def test_lenient_reading(labelled: dict[str, list[dict[str, Any]]]) -> None:
    counts = count_readings([row for rows in labelled.values() for row in rows])["lenient"]
    assert counts["right"] / counts["read"] >= 0.995
    assert counts["right"] / counts["stated"] >= 0.97


def test_lenient_finds_what_strict_finds(labelled: dict[str, list[dict[str, Any]]]) -> None:
    for rows in labelled.values():
        for row in rows:
            found = read_all(row)
            if found["strict: think"] is not None:
                assert found["lenient"] == found["strict: think"], row["response"]


def test_docs_state_these_numbers(labelled: dict[str, list[dict[str, Any]]]) -> None:
    table = write_table(labelled)
    docs = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert table in docs, f"put this table into docs/evaluation.md:\n{table}"
