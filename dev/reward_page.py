"""Write docs/reward.md from the table that the tests check, so that the documented rules are the tested rules.

python -m dev.reward_page     # after any change of tests/verdicts.yaml; a test fails where it was forgotten
"""

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from reward_server import shaping
from reward_server.tags import SPECIAL_TOKENS
from reward_server.verifier import REASONS

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "tests" / "verdicts.yaml", ROOT / "docs" / "reward.md"
BODY_FRAME = "<think>Fever and a rash.</think>\n<answer>{}</answer>"
"""What a row's `body` stands for."""

INTRODUCTION = """\
<!-- Written by `python -m dev.reward_page` from tests/verdicts.yaml. Edit that file, not this one. -->
# The reward

A response is judged by `reward_server.verifier.verify(response, answer, num_options, mode)`. Nothing but the text, the
gold letter and the number of options goes in; the options' texts do not.

* **Format**, mode `paper`: exactly one each of `<think>`, `</think>`, `<answer>`, `</answer>`, in this order; only
  white space between `</think>` and `<answer>`; nothing after `</answer>` but white space and special tokens; something
  to be seen in both bodies. Text before `<think>` is allowed, since the paper's fifth phase reasons there and is
  rewarded. Mode `strict` forbids it.
* **Choice**: one letter, in one of the shapes below. An answer of more than 4,000 characters is prose.
* **Reward**: -1 where the format is not followed; 1 where it is and the choice is right; 0 otherwise. For rows of
  another split than `train` the hook gives accuracy (0 or 1) instead, so that the engine's `pass1` is accuracy.

Two different letters never count, in whatever words, and where a reading is in doubt there is no choice. An honest
policy, which can say `C`, loses nothing by that; a hedging one finds no hole."""


def load_table() -> dict[str, Any]:
    """tests/verdicts.yaml: the lists `verdicts` (groups of rows), `lenient` and `leak`."""
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def read_response(row: dict[str, Any]) -> str:
    """The whole response that a row stands for."""
    response = row["response"] if "response" in row else BODY_FRAME.format(row["body"])
    return response * row.get("times", 1)


def get_reward(reason: str) -> int:
    """The reward that goes with a reason, as the table's head says."""
    if reason in {"correct", "wrong", "no_choice", "ambiguous", "denied", "out_of_range"}:
        return int(reason == "correct")
    return -1


def render_page(table: dict[str, Any]) -> str:
    """The whole page, as Markdown."""
    count = sum(len(group["rows"]) for group in table["verdicts"])
    parts = [
        INTRODUCTION,
        "## Reasons",
        _render_rows(
            ("reason", "reward", "meaning"),
            ((f"`{r}`", get_reward(r), REASONS[r]) for r in REASONS),
        ),
        "Special tokens: " + ", ".join(f"`{token}`" for token in SPECIAL_TOKENS) + ".",
        f"## {count} cases, each in both modes",
        "Gold letter C of four options unless said otherwise. A response shown without tags is the answer's body in "
        f"{_quote(BODY_FRAME.format('…'))}.",
    ]
    for group in table["verdicts"]:
        cells = (
            (
                _show_response(row),
                _show(row["is"]),
                _show(row.get("strict", row["is"])),
                _escape(row),
            )
            for row in group["rows"]
        )
        parts += [
            f"### {group['group']}",
            _render_rows(("response", "`paper`", "`strict`", "why"), cells),
        ]
    lenient = (
        (_quote(row["response"]), row["choice"] or "none", _escape(row)) for row in table["lenient"]
    )
    leaks = ((_quote(row["response"]), row["leak"], _escape(row)) for row in table["leak"])
    parts += [
        "## Lenient reading",
        "Evaluation reports it beside the strict verdict, never the better of the two.",
        _render_rows(("response", "choice", "why"), lenient),
        "## `leak`",
        "Logged for each sample: whether its choice is stated before the reasoning.",
        _render_rows(("response", "leak", "why"), leaks),
        "## Options for research",
        f"```text\n{inspect.getdoc(shaping)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _render_rows(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in cells) + " |" for cells in lines)


def _escape(row: dict[str, Any]) -> str:
    return str(row["why"]).replace("<", "&lt;")


def _show(reason: str) -> str:
    return f"`{reason}` {get_reward(reason)}"


def _show_response(row: dict[str, Any]) -> str:
    notes = [f"{row['times']:,} times"] if "times" in row else []
    notes += [f"gold {row['gold']}"] if "gold" in row else []
    notes += [f"{row['options']} options"] if "options" in row else []
    return _quote(str(row.get("response", row.get("body")))) + (
        f" ({', '.join(notes)})" if notes else ""
    )


def _quote(text: str) -> str:
    """`text` as Markdown code in a table cell: what cannot be seen, and what would join its neighbour, as escapes."""
    shown = "".join(
        json.dumps(c)[1:-1] if not c.isprintable() or c in "\u0301\u2800\u3164" else c for c in text
    )
    shown = shown.replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    pad = " " if not shown or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else "(empty)"


if __name__ == "__main__":
    PAGE.write_text(render_page(load_table()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
