"""What the terminal says of a run's dynamics while it goes on: changes of phase, and monitors that trip."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.dynamics.monitors import PAUSE, append_step, check_monitors
from eval.dynamics.phases import KEYS, NAMES, PhaseTracker

DOCS = "docs/dynamics.md"


class LiveView:
    """Takes a run's steps as they come. rows: those so far."""

    def __init__(self, question_words: float) -> None:
        self.tracker = PhaseTracker(question_words)
        self.steps: list[int] = []
        self.rows: list[Mapping[str, Any]] = []
        self.tripped: dict[str, int] = {}  # the step at which each last was

    def take(self, row: Mapping[str, Any]) -> list[str]:
        """The lines to print after this step: a new phase, and each monitor when it trips, not while it stays so
        (pauses of up to PAUSE steps do not count).

        A step without what the rules read (a reward hook of one's own) has no phase.
        """
        lines = []
        self.rows = append_step(self.rows, row)
        if all(key in row for key in KEYS):
            self.steps.append(row["step"])
            if self.tracker.update(row):
                since = self.steps[self.tracker.since]
                lines.append(f"[cyan]   {self.describe_phase()} since step {since}[/]")
        for alarm in check_monitors(self.rows):
            if row["step"] - self.tripped.get(alarm.monitor, -PAUSE) > PAUSE:
                colour = "bold red" if alarm.loud else "yellow"
                lines.append(
                    f"[{colour}]   warning: {alarm.says}. {alarm.advice} ({DOCS}#{alarm.monitor})[/]"
                )
            self.tripped[alarm.monitor] = row["step"]
        return lines

    def describe_phase(self) -> str:
        """`phase 3, Concise Structurer`; `no phase` where no rule fits."""
        phase = self.tracker.phase
        return f"phase {phase}, {NAMES[phase]}" if phase else "no phase"


def count_question_words(path: Path) -> float:
    """Mean words of a question with its options in a .jsonl of rows, the unit in which the phases measure lengths."""
    words = rows = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            words += len(row["question"].split()) + sum(
                len(option.split()) for option in row["options"]
            )
            rows += 1
    return words / max(1, rows)
