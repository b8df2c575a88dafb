"""Print the progress of a run: a line a step, a bar, a summary at the end.

Between the lines are changes of the training phase and warnings of the monitors. Everything is read
from metrics.jsonl; the engine's own log stays in engine.log.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.command import show_text
from data_prep.files import read_jsonl
from eval.dynamics.monitors import PAUSE, append_step, check_monitors
from eval.dynamics.phases import KEYS, NAMES, PhaseTracker

DOCS = "docs/dynamics.md"
# title → key in metrics.jsonl, format
COLUMNS = {
    "ppo": {
        "reward": ("rollout/reward_mean", "+.2f"),
        "accuracy": ("accuracy", ".0%"),
        "format": ("format", ".0%"),
        "tokens": ("rollout/response_length_mean", ".0f"),
        "trunc.": ("rollout/truncated_rate", ".0%"),
        "KL": ("kl", ".4f"),
        "vllm_kl": ("vllm_kl", ".1e"),
        "s/step": ("timing/step_total", ".1f"),
    },
    "sft": {"loss": ("loss_mean", ".4f"), "gradient": ("grad_norm", ".3f"), "lr": ("lr", ".1e")},
}
WIDTH = 9  # eight columns and the step fit a terminal of 80


class LiveView:
    """Follow a run's training phase and its monitors, step by step."""

    def __init__(self, question_words: float) -> None:
        self.tracker = PhaseTracker(question_words)
        self.steps: list[int] = []
        self.rows: list[Mapping[str, Any]] = []  # the last ones, which the monitors read
        self.tripped: dict[str, int] = {}  # monitor → the last step at which it tripped

    def take(self, row: Mapping[str, Any]) -> list[str]:
        """Write the lines to print after this step: a new phase, and each monitor when it trips.

        It is not repeated while it stays tripped, pauses of up to PAUSE steps included.
        """
        lines = []
        self.rows = append_step(self.rows, row)
        # with a user's own reward hook a step may lack what the rules of the phases read
        if all(key in row for key in KEYS):
            self.steps.append(row["step"])
            if self.tracker.update(row):
                since = self.steps[self.tracker.since]
                lines.append(f"[cyan]   {self.describe_phase()} since step {since}[/]")
        for alarm in check_monitors(self.rows):
            if row["step"] - self.tripped.get(alarm.monitor, -PAUSE) > PAUSE:
                colour = "bold red" if alarm.loud else "yellow"
                advice = f"{alarm.advice} ({DOCS}#{alarm.monitor})"
                lines.append(f"[{colour}]   warning: {alarm.says}. {advice}[/]")
            self.tripped[alarm.monitor] = row["step"]
        return lines

    def describe_phase(self) -> str:
        """Name the phase, as in `phase 3, Concise Structurer`; `no phase` where no rule fits."""
        phase = self.tracker.phase
        return f"phase {phase}, {NAMES[phase]}" if phase else "no phase"


def count_question_words(path: Path) -> float:
    """Count the mean words of a question with its options, the unit of the phases' lengths."""
    words = [len(" ".join([row["question"], *row["options"]]).split()) for row in read_jsonl(path)]
    return sum(words) / max(1, len(words))


class MetricsReader:
    """Read metrics.jsonl as it grows: each call returns the rows that are new and whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def read_new(self) -> list[dict[str, Any]]:
        """Read the rows appended since the last call; a line not yet whole waits."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def watch(
    reader: MetricsReader,
    method: str,
    start_step: int,
    total_steps: int,
    is_running: Callable[[], bool],
    wait: Callable,
    live: LiveView | None = None,
    split: str = "dev",
) -> None:
    """Show steps until the engine has ended; is_running is asked before each look.

    wait: pauses for some seconds. live: PPO only. split: of the evaluations.
    """
    console = Console(highlight=False)
    left = TextColumn("left"), TimeRemainingColumn(), TextColumn("passed"), TimeElapsedColumn()
    doing = TextColumn("{task.description}")
    # the time left follows the steps of the last hour
    bar = Progress(doing, BarColumn(), *left, console=console, speed_estimate_period=3600)
    task = bar.add_task("starting the engine (1 to 2 minutes)", total=None)
    is_started, running = False, True
    with bar:
        while running:
            running = is_running()
            for row in reader.read_new():
                step = row["step"]
                if row["kind"] == "eval":
                    # eval_<datasource>_pass1 is accuracy, as rows get 0 or 1 there
                    rates = [(key[5:-6], row[key]) for key in row if key.endswith("_pass1")]
                    shown = ", ".join(f"{show_text(name)} {rate:.1%}" for name, rate in rates)
                    shown += f" (n = {row.get('eval_num_samples', 0):.0f})"
                    line = f"   {split} accuracy after step {step}: {shown}"
                    console.print(line, style="cyan", markup=False)
                    continue
                if not is_started:
                    titles = "".join(title.rjust(WIDTH) for title in COLUMNS[method])
                    console.print("   step" + titles, style="bold")
                    bar.update(task, total=total_steps - start_step)
                    is_started = True
                console.print(f"{step}/{total_steps}".rjust(7) + format_cells(row, method))
                for line in live.take(row) if live else []:
                    console.print(line)
                phase = f" · {live.describe_phase()}" if live else ""
                doing_now = f"training, step {step} of {total_steps}{phase}"
                if step >= total_steps:
                    doing_now = "saving the model"
                bar.update(task, completed=step - start_step, description=doing_now)
            if running:
                wait(0.5)


def format_cells(row: Mapping[str, Any], method: str) -> str:
    """Format a step's cells; a metric that is missing is a dash."""
    cells = [
        format(row[key], form) if key in row else "–" for key, form in COLUMNS[method].values()
    ]
    return "".join(cell.rjust(WIDTH) for cell in cells)


def summarise_run(rows: list[dict[str, Any]], method: str, run_dir: Path, seconds: float) -> None:
    """Print what was learned, the first five steps next to the last five, and where things are."""
    console = Console(highlight=False, markup=False)  # a path may have [brackets]
    train = [row for row in rows if row["kind"] == "train"]
    ended = f"\nfinished {len(train)} steps in {seconds / 60:.1f} minutes"
    console.print(ended, style="bold green")
    for title, (key, form) in list(COLUMNS[method].items())[:6]:
        if values := [row[key] for row in train if key in row]:
            first, last = (format(fmean(some), form) for some in (values[:5], values[-5:]))
            ends = f"{first:>8} → {last:>8}"
            console.print(f"  {title:<10} {ends}   mean of the first and the last 5 steps")
    for path in ("model", "metrics.jsonl", "rollouts", "engine.log"):
        if (run_dir / path).exists():
            console.print(f"  {path:<14} {run_dir / path}")
    console.print("next: make eval" + (f", make report run={run_dir}" if method == "ppo" else ""))
