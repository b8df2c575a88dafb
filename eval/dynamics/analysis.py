"""Turn rollouts into features, means of each step, phases with confidence, monitors, accuracy."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from eval.dynamics.features import extract_features, find_terms
from eval.dynamics.monitors import Span, check_run
from eval.dynamics.phases import KEYS, NAMES, label_steps
from eval.dynamics.run_files import RunFiles
from eval.statistics import wilson_interval

RESAMPLES = 100
QUESTION_WORDS = 100.0  # where no question is found
RENAMED = {
    "reward": "rollout/reward_mean",
    "correct": "accuracy",
    "format_ok": "format_rate",
    "response_tokens": "response_length",
}
"""Columns of the rollouts whose means have names of metrics.jsonl."""


class Analysis(NamedTuple):
    """An analysed run.

    group: the name under which seeds are drawn together. label: the run's own name.
    rollouts: one row each, with its features and its step's phase. steps: means by step, with the
    names of metrics.jsonl, its phase and how sure that is; NaN where unknown. phases: spans of
    steps of one phase. spans: of tripped monitors. evals: accuracy by evaluation.
    """

    group: str
    label: str
    run: RunFiles
    rollouts: pd.DataFrame
    steps: pd.DataFrame
    phases: list[dict[str, Any]]
    spans: list[Span]
    evals: list[dict[str, Any]]
    question_words: float


def analyse(run: RunFiles, group: str, label: str) -> Analysis:
    """Analyse a run: measure its rollouts, average its steps, label phases, look for alarms."""
    texts = {key: " ".join([row.question, *row.options]) for key, row in run.questions.items()}
    # the unit of lengths; QUESTION_WORDS also for questions of no word
    counts = [len(text.split()) for text in texts.values()]
    words = float(np.mean(counts)) if any(counts) else QUESTION_WORDS
    rollouts = measure_rollouts(run, find_terms(texts))
    train = rollouts[rollouts["split"] == "train"]
    steps = describe_steps(train, run.train)

    samples = [step[list(KEYS)].to_numpy(np.float32) for _, step in train.groupby("step")]
    phases = label_steps(steps.to_dict("records"), words)
    steps = steps.assign(phase=phases, confidence=bootstrap_phases(samples, phases, words))
    rollouts["phase"] = rollouts["step"].map(steps.set_index("step")["phase"]).fillna(0).astype(int)
    evals = measure_evals(rollouts[rollouts["split"] != "train"])
    spans = check_run(steps.to_dict("records"))
    return Analysis(group, label, run, rollouts, steps, find_phases(steps), spans, evals, words)


def measure_rollouts(run: RunFiles, terms: dict[str, frozenset[str]]) -> pd.DataFrame:
    """Measure every rollout, with a progress bar: one row each, in the run's order."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    measured = []
    for row in track(run.rollouts, "rollouts", console=console, transient=True, disable=hidden):
        question = run.questions.get(row.id)
        gold, options = (question.answer, question.options) if question else (None, [])
        known = terms.get(row.id, frozenset())
        features = extract_features(row.response, gold or "A", options, known)
        measured.append(row.model_dump() | features)
    rollouts = pd.DataFrame(measured)
    flags = ["correct", "format_ok", "truncated"]
    rollouts[flags] = rollouts[flags].eq(True)  # null counts as no
    rollouts["response_tokens"] = rollouts["response_tokens"].astype(float)
    return rollouts


def describe_steps(train: pd.DataFrame, metrics: dict[int, dict[str, float]]) -> pd.DataFrame:
    """Average each step's rollouts, and add what the engine logged; drop means of nothing."""
    groups = train.groupby("step")
    # UNKNOWN is NaN, which a mean leaves out
    means = groups.mean(numeric_only=True).drop(columns=["episode", "time"], errors="ignore")
    means = means.rename(columns=RENAMED)
    means.insert(0, "n", groups.size())
    means["reward_se"] = groups["reward"].sem().fillna(0.0)
    right = means["accuracy"]
    means["accuracy_se"] = np.sqrt(right * (1 - right) / means["n"])
    logged = pd.DataFrame.from_dict(metrics, orient="index", dtype=float)
    means = means.join(logged[logged.columns.difference(means.columns)])
    return means.dropna(axis="columns", how="all").reset_index()


def bootstrap_phases(
    samples: list[NDArray[np.float32]], phases: list[int], question_words: float
) -> list[float]:
    """Resample all steps' rollouts; return for each step the fraction that gives it the same phase.

    samples: for each step [n, 6], the values under KEYS.
    """
    rng = np.random.default_rng(0)
    drawn = []
    for values in samples:
        even = np.full(len(values), 1 / len(values))
        weights = rng.multinomial(len(values), even, size=RESAMPLES)
        drawn.append(weights @ values / len(values))
    same = np.zeros(len(phases))
    for resample in np.stack(drawn, axis=1).tolist():  # resamples, steps, keys
        rows = (dict(zip(KEYS, values, strict=True)) for values in resample)
        same += np.array(label_steps(rows, question_words)) == np.array(phases)
    return [float(fraction) for fraction in same / RESAMPLES]


def find_phases(steps: pd.DataFrame) -> list[dict[str, Any]]:
    """List the spans of steps of one phase in order, no phase (0) among them."""
    phase = steps["phase"]
    spans = steps.groupby((phase != phase.shift()).cumsum()).agg(
        phase=("phase", "first"),
        first=("step", "first"),
        last=("step", "last"),
        confidence=("confidence", "mean"),
    )
    spans.insert(1, "name", spans["phase"].map(NAMES))
    return spans.to_dict("records")


def measure_evals(rollouts: pd.DataFrame) -> list[dict[str, Any]]:
    """Measure the accuracy of each evaluation with its 95 % interval (Wilson), by data set."""
    evals = []
    name = rollouts["id"].str.split("/").str[0] + "/" + rollouts["split"]
    for (of, step), correct in rollouts["correct"].groupby([name, rollouts["step"]]):
        right, n = int(correct.sum()), len(correct)
        low, high, _ = wilson_interval(right, n)
        row = {"name": of, "step": int(step), "n": n, "value": right / n, "low": low, "high": high}
        evals.append(row)
    return evals
