"""Keep the ledger of results: docs/results.yaml, from which docs/RESULTS.md is written.

python -m dev.results add NAME=study what='…'     enter results/study/study.json, as `make study` left it
make check-results NAME=study                     run it again (results/check-study-COMMIT) and compare
make check-results NAME=study jobs=2              with more words for the study

A number's band is where a repetition with other seeds on the same questions falls in 95 of 100: with
s seeds of standard deviation sd, ± t · sd · √(2/s), and at least one point; of one seed, whose spread
is not known, its interval widened by √2. Exit code 1 where a number is outside its band.
"""

import json
import os
import shlex
import sys
from typing import Any

import yaml
from scipy.stats import t as student

from data_prep.command import read_commit
from data_prep.errors import UserError
from data_prep.files import write_text
from dev.study import ROOT, read_settings, run_study
from dev.study_report import MEASURES, NAMES

LEDGER, PAGE = ROOT / "docs" / "results.yaml", ROOT / "docs" / "RESULTS.md"
LEAST = 0.01


def find_band(one: dict[str, Any]) -> list[float]:
    """Find the band of a number from its interval, seeds and their standard deviation."""
    seeds = one["seeds"]
    if seeds > 1:
        half = float(student.ppf(0.975, seeds - 1)) * one["sd"] * (2 / seeds) ** 0.5
    else:
        half = (one["high"] - one["low"]) / 2 * 2**0.5
    half = max(half, LEAST)
    return [round(one["value"] - half, 4), round(one["value"] + half, 4)]


def list_numbers(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """List all numbers of a study by a name that says what each is."""
    numbers = {
        f"{NAMES[recipe]}: {key}": one
        for recipe, found in record["rows"].items()
        for key, one in found.items()
        if key in MEASURES
    }
    for one in record["differences"]:
        numbers[f"{NAMES[one['a']]} − {NAMES[one['b']]}: {one['measure']}"] = one
    return numbers


def add_result(name: str, what: str) -> None:
    """Enter a finished study into the ledger, in place of an older entry, and write the page."""
    path = ROOT / "results" / name / "study.json"
    if not path.is_file():
        raise UserError(f"{path} not found: `make study name={name}` writes it")
    record = json.loads(path.read_text(encoding="utf-8"))
    numbers = {
        key: {
            # as study.json has them: with fewer digits the page would round twice
            "value": one["value"],
            "interval": [one["low"], one["high"]],
            "band": find_band(one),
            "n": one["n"],
            "seeds": one["seeds"],
        }
        for key, one in list_numbers(record).items()
    }
    made = record["made"]
    # jobs: how many at once, with which the result does not change
    words = [word for word in made["command"][3:] if not word.startswith("jobs=")]
    entry = {
        "what": what or read_ledger().get(name, {}).get("what", ""),
        "command": shlex.join([*made["command"][:3], *words]),
        "words": words,
        "commit": made["commit"],
        "date": made["date"],
        "machine": made["machine"],
        "hours": round(made["seconds"] / 3600, 2),
        "seeds": record["seeds"],
        "verdicts": [verdict["sentence"] for verdict in record["verdicts"]],
        "numbers": numbers,
    }
    ledger = read_ledger() | {name: entry}
    write_text(LEDGER, yaml.safe_dump(ledger, sort_keys=False, allow_unicode=True, width=120))
    write_text(PAGE, render(ledger))


def read_ledger() -> dict[str, Any]:
    """Read the ledger; empty where there is none."""
    return yaml.safe_load(LEDGER.read_text(encoding="utf-8")) if LEDGER.is_file() else {}


def render(ledger: dict[str, Any]) -> str:
    """Render the page."""
    lines = [
        "# Results",
        "",
        "Written by `python -m dev.results` from results.yaml. Every number comes from the command above its table;",
        "`make check-results NAME=…` runs it again and says if each number is inside its band: where a repetition with",
        "other seeds on the same questions falls in 95 of 100. Values, 95 % intervals over seeds and questions, and bands",
        "are in %; differences in points.",
        "",
        "Accuracy is strict, of four answers to each question at T = 1, else greedy. *format*: the answers to test at T = 1 that follow",
        "the model's own format. Views of test, greedy: *rotated*: each question in every rotation of its options; *flips*: the questions",
        "to which not always the same option was chosen; *gold replaced*: `None of the above` in the place of the right option; *no stem*:",
        "the question hidden; *lost …*: the accuracy that the view costs. Chance: 25.0 on test, 12.5 on ood. *more*, *less*: the",
        "interval of a difference is above, below 0.",
    ]
    for name, entry in ledger.items():
        counts = sorted({len(seeds) for seeds in entry["seeds"].values()})
        lines += [
            "",
            f"## {name}",
            "",
            entry["what"],
            "",
            f"`{entry['command']}`, {entry['date']}, commit {entry['commit']}, {entry['machine']}, "
            f"seeds: {' or '.join(map(str, counts))}, {entry['hours']} hours of units.",
            "",
            *(f"* {sentence}" for sentence in entry["verdicts"]),
            "",
            "| number | n | seeds | value | 95 % interval | band |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for key, one in entry["numbers"].items():
            low, high = (f"{100 * end:.1f}" for end in one["interval"])
            ends = " to ".join(f"{100 * end:.1f}" for end in one["band"])
            cells = [
                key,
                one["n"],
                one["seeds"],
                f"{100 * one['value']:.1f}",
                f"{low} to {high}",
                ends,
            ]
            lines.append("| " + " | ".join(map(str, cells)).replace(" -", " −") + " |")
    return "\n".join(lines) + "\n"


def check_result(name: str, words: list[str]) -> int:
    """Run an entry's study again and compare each number with its band; returns the exit code."""
    entry = read_ledger().get(name)
    if entry is None:
        raise UserError(
            f"NAME={name}: docs/results.yaml has {', '.join(read_ledger()) or 'nothing'}"
        )
    given = [word for word in entry["words"] if not word.startswith("name=")]
    # the same command at the same commit continues; a new commit is a new repetition
    new = f"check-{name}-{(read_commit() or 'unknown').rstrip('+')}"
    code = run_study(read_settings([*given, *words, f"name={new}"]))
    record = json.loads((ROOT / "results" / new / "study.json").read_text(encoding="utf-8"))
    found = list_numbers(record)
    outside = 0
    for key, one in entry["numbers"].items():
        low, high = one["band"]
        value = found[key]["value"] if key in found else None
        inside = value is not None and low <= value <= high
        outside += not inside
        shown = "missing" if value is None else f"{100 * value:.1f}"
        said = "inside" if inside else "OUTSIDE"
        print(f"{said}: {key}: {shown}, band {100 * low:.1f} to {100 * high:.1f}")
    print(f"{name}: {len(entry['numbers']) - outside} of {len(entry['numbers'])} numbers inside")
    return 1 if code or outside else 0


def main() -> None:
    """Add or check an entry. Exits with 1 where a number is outside, 2 on a user's mistake."""
    os.chdir(ROOT)
    action, words = sys.argv[1] if sys.argv[1:] else "", sys.argv[2:]
    given = dict(word.split("=", 1) for word in words if word.startswith(("NAME=", "what=")))
    rest = [word for word in words if not word.startswith(("NAME=", "what="))]
    try:
        if action not in ("add", "check") or "NAME" not in given:
            raise UserError("python -m dev.results add NAME=…, or check NAME=…")
        if action == "add":
            add_result(given["NAME"], given.get("what", ""))
        else:
            sys.exit(check_result(given["NAME"], rest))
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
