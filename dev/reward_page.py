"""Write docs/reward.md from the table that the tests check.

python -m dev.reward_page     # after any change of tests/verdicts.yaml; a test fails without
"""

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from reward_server.scoring import RewardOptions, find_truth
from reward_server.signals import SIGNALS
from reward_server.tags import SPECIAL_TOKENS
from reward_server.verifier import REASONS

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "tests" / "verdicts.yaml", ROOT / "docs" / "reward.md"
RECIPE = ROOT / "recipes" / "configs" / "rlvr.yaml"
BODY_FRAME = "<think>Fever and a rash.</think>\n<answer>{}</answer>"
"""The response that a row's `body` is put into."""
OPTIONS = ["Aspirin", "Glipizide", "Metformin", "Insulin"]
LEAK_OPTIONS = ["Rubella", "Nitrofurantoin", "Measles", "CT scan of the head"]

INTRODUCTION = """\
<!-- Written by `python -m dev.reward_page` from tests/verdicts.yaml: edit that file, not this. -->
# The reward

A response is judged by `reward_server.verifier.verify(response, answer, options, mode)`: the text,
the gold letter and the options' texts go in, nothing else. Open answers: [open.md](open.md).

* **Format**, mode `paper`: exactly one each of `<think>`, `</think>`, `<answer>`, `</answer>`, in
  this order; only white space between `</think>` and `<answer>`; nothing after `</answer>` but white
  space and special tokens; something visible in both bodies. Text before `<think>` is allowed, since
  the paper's fifth phase reasons there and is rewarded. Mode `strict` forbids it.
* **Choice**: the whole answer, markup aside, is a letter, or "the correct answer is" (answer, option
  or choice) and a letter, or a letter, a separator and that option's own text. A letter with the text
  of another option is `ambiguous`. Everything else is no choice.
* **Reward**: -1 where the format is not followed; 1 where it is and the choice is right; 0
  otherwise. For rows of another split than `train` the hook gives accuracy (0 or 1) instead, so that
  the engine's `pass1` is accuracy.

No prose, no "or" and no condition is among the three forms, so no hedge is rewarded; a policy
that knows the answer can say `C` and loses nothing."""


def load_table() -> dict[str, Any]:
    """Read tests/verdicts.yaml: the lists `verdicts` and `leak`, both of groups of rows."""
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def read_response(row: dict[str, Any]) -> str:
    """Build the whole response of a row."""
    response = row["response"] if "response" in row else BODY_FRAME.format(row["body"])
    return response * row.get("times", 1)


def read_leak_response(row: dict[str, Any]) -> str:
    """Build the whole response of a row of `leak`."""
    before = row.get("before", "")
    return f"{before}<think>{row['think']}</think><answer>{row['answer']}</answer>"


def list_options(row: dict[str, Any]) -> list[str]:
    """List the options' texts of a row."""
    count = row.get("options", 4)
    options = [*OPTIONS, *(f"Drug {chr(65 + place)}" for place in range(4, count))][:count]
    if "text" in row:
        options[ord(row.get("gold", "C")) - 65] = row["text"]
    return options


def get_reward(reason: str) -> int:
    """Return the reward that goes with a reason: -1 for the ten of a format that is not followed."""
    return -1 if reason in list(REASONS)[:10] else int(reason == "correct")


def render_page(table: dict[str, Any]) -> str:
    """Render the whole page, as Markdown."""
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
        f"The options are {_show_options(OPTIONS)}; gold is C unless said otherwise. A response "
        f"shown without tags is the answer's body in {_quote(BODY_FRAME.format('…'))}.",
    ]
    # the same rows that the tests check, so the page cannot be out of date
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
    signals = ((f"`{signal.name}`", signal.unit, signal.shows) for signal in SIGNALS)
    parts += [
        "## What is logged",
        "For each sample, by `reward_server/signals.py`; the engine averages over a step.",
        _render_rows(("signal", "unit", "shows"), signals),
        "## `leak`",
        "1 where the chosen letter, or the chosen option's text (nearly all of its words), is "
        "stated as the answer before `<think>` or in the opening of the thinking. To name an option "
        "while arguing against it, or among others, states nothing. The options here are "
        f"{_show_options(LEAK_OPTIONS)}.",
    ]
    for group in table["leak"]:
        leaks = (
            (_quote(read_leak_response(row)), row["leak"], _escape(row)) for row in group["rows"]
        )
        parts += [f"### {group['group']}", _render_rows(("response", "leak", "why"), leaks)]
    parts += [
        "## Options and controls",
        str(inspect.getdoc(RewardOptions)),
        str(inspect.getdoc(find_truth)).partition("\n\n")[2],
        "All are keys of the recipe, with these defaults (recipes/configs/rlvr.yaml); "
        "`make rlvr reward.options.leak_penalty=0.5` changes one:",
        f"```yaml\n{read_recipe_keys()}```",
    ]
    return "\n\n".join(parts) + "\n"


def read_recipe_keys() -> str:
    """Read the lines of the recipe that hold `reward.mode`, `.options` and `.control`."""
    text = RECIPE.read_text(encoding="utf-8")
    block = re.search(r"^reward:\n(?:  .*\n)+", text, re.MULTILINE)
    assert block, f"{RECIPE} has no `reward:`"
    return block[0]


def _render_rows(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in cells) + " |" for cells in lines)


def _show_options(options: list[str]) -> str:
    return ", ".join(f"{chr(65 + place)} {text}" for place, text in enumerate(options))


def _escape(row: dict[str, Any]) -> str:
    return str(row["why"]).replace("<", "&lt;")


def _show(reason: str) -> str:
    return f"`{reason}` {get_reward(reason)}"


def _show_response(row: dict[str, Any]) -> str:
    notes = [f"{row['times']:,} times"] if "times" in row else []
    notes += [f"gold {row['gold']}"] if "gold" in row else []
    notes += [f"{row['options']} options"] if "options" in row else []
    notes += [f"its text is {row['text']}"] if "text" in row else []
    return _quote(str(row.get("response", row.get("body")))) + (
        f" ({', '.join(notes)})" if notes else ""
    )


def _quote(text: str) -> str:
    """Write `text` as Markdown code in a table cell, with escapes for what cannot be seen."""
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
