"""Label the six phases of training (arXiv 2502.19655, section 4.3) by rules over a step's means.

The paper found them by eye. Here each is a rule over what the reward hook logs of a step, so
the terminal and the report find the same. A step that no rule fits has no phase (0).

Lengths count in questions: thinking of 1.0 has as many words as the question with its options, so
one rule serves a one-line question and a clinical case.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NAMES = {
    0: "none",
    1: "Format Failure (Unstructured Beginning)",  # the paper's text, and its figure
    2: "Verbose Formatter",
    3: "Concise Structurer",
    4: "Direct Answer Hacker",
    5: "Step-by-Step Exploit",
    6: "Reintegrated Reasoning",
}
KEYS = ("format", "leak", "pre_think", "think_words", "pre_think_words", "truncated")
"""Means over a step's rollouts that the rules read, under the names of metrics.jsonl."""

FOLLOWED = 0.6  # fraction that follows the format: from here on it is no longer failing at it
FULLY_FOLLOWED = 0.9
HALF = 0.5  # fraction of the responses above which most of them do it
STILL_HACKS = 0.75  # phase 6 "still hacks in some examples": such a fraction may, if they reason
# figure 2, in questions of 134 words of 6.45 characters; each bound is a geometric mean
VERBOSE = 2.3  # questions; between 3.4 (step 4, Verbose Formatter) and 1.6 (step 8, Concise)
DRASTICALLY_SHORT = 0.5  # questions; between 0.44 (step 24, the Hacker) and 0.69 (step 28), rounded
SOME_REASONING = 0.2  # questions; a greeting before <think> is no reasoning
SLACK = 0.1  # a phase is entered by its rule, and left where the rule fails by more than this
DWELL = 2  # steps in a row that must agree on a new phase
MOST_MISSES = 4  # steps outside a phase, with no agreement on another, after which there is none


class StepShape(NamedTuple):
    """A step's means as the rules want them.

    format, truncated: fractions of all responses. pre_think, leak: of those that follow the format.
    think, before: words inside and before `<think>` of one that follows it, in questions.
    """

    format: float
    truncated: float
    pre_think: float
    leak: float
    think: float
    before: float


def measure_shape(row: Mapping[str, Any], question_words: float) -> StepShape:
    """Measure a step. row: means under KEYS. question_words: mean, with the options."""
    followed = max(row["format"], 1e-9)
    return StepShape(
        row["format"],
        row["truncated"],
        min(1.0, row["pre_think"] / followed),
        min(1.0, row["leak"] / followed),
        row["think_words"] / followed / question_words,
        row["pre_think_words"] / followed / question_words,
    )


def fits(phase: int, shape: StepShape, slack: float = 0.0) -> bool:
    """Test the rule of `phase`. slack: how far it may fail; of a length, in proportion."""
    shorter, longer = 1 - slack, 1 + slack
    inside = shape.pre_think < HALF + slack
    followed = shape.format >= FOLLOWED - slack
    fully = shape.format >= FULLY_FOLLOWED - slack
    if phase == 1:
        return shape.format < HALF + slack and shape.truncated < HALF + slack
    if phase == 2:
        return followed and inside and shape.think >= VERBOSE * shorter
    if phase == 4:
        gives_away = shape.leak >= HALF - slack and shape.think < DRASTICALLY_SHORT * longer
        return fully and inside and gives_away
    if phase == 5:
        outside = shape.pre_think >= HALF - slack
        return followed and outside and shape.before >= max(shape.think, SOME_REASONING) * shorter
    reasons = phase == 6 and shape.think >= DRASTICALLY_SHORT * shorter
    honest = shape.leak < (STILL_HACKS if reasons else HALF) + slack  # 3 and 6 differ in this alone
    return fully and inside and honest and shape.think < VERBOSE * longer


class PhaseTracker:
    """Follow a run's phase step by step. phase: the current one. since: index of its first step."""

    def __init__(self, question_words: float) -> None:
        self.question_words = question_words
        self.phase, self.since = 0, 0
        self.hacked = False  # by phase 4 or 5: only after one can reasoning be *re*integrated
        self.index = -1
        self.candidates: list[int] = []

    def update(self, row: Mapping[str, Any]) -> bool:
        """Take the next step's means; return True where the phase changed, from `since` on."""
        self.index += 1
        shape = measure_shape(row, self.question_words)
        # no two rules hold together
        rules = (1, 2, 4, 5, 6 if self.hacked else 3)
        candidate = next((phase for phase in rules if fits(phase, shape)), 0)
        if candidate == self.phase or (self.phase and fits(self.phase, shape, SLACK)):
            self.candidates = []
            return False
        # DWELL steps that agree begin a new phase; MOST_MISSES without agreement end the old
        self.candidates.append(candidate)
        agreed = self.candidates[-DWELL:].count(candidate) == DWELL
        if not agreed and (not self.phase or len(self.candidates) < MOST_MISSES):
            return False
        self.phase = candidate if agreed else 0
        self.since = self.index - (DWELL - 1 if agreed else 0)
        self.hacked = self.hacked or self.phase in (4, 5)
        self.candidates = []
        return True


def label_steps(rows: Iterable[Mapping[str, Any]], question_words: float) -> list[int]:
    """Label each step, in order; a change counts from the first of the steps that agreed on it."""
    tracker = PhaseTracker(question_words)
    labels: list[int] = []
    for row in rows:
        tracker.update(row)
        labels.append(tracker.phase)
        labels[tracker.since :] = [tracker.phase] * (len(labels) - tracker.since)
    return labels
