"""The phases of a run: each boundary of a simulated one is found, none is forced, and the noise changes nothing."""

import random
from itertools import groupby, pairwise

import pytest

from dev.simulate_run import simulate_rollouts
from eval.dynamics.phases import KEYS, PhaseTracker, Shape, fits, label_steps
from reward_server.scoring import Label, Settings, score_response

SIX = [1 + step // 12 for step in range(72)]
WORDS = 20
SETTINGS = Settings()


def log_steps(schedule: list[int], seed: int = 0) -> list[list[dict[str, float]]]:
    """What the reward hook logs of each rollout, by step."""
    rows, questions = simulate_rollouts(schedule, 64, seed, question_words=WORDS)
    asked = {question.id: question for question in questions}
    steps = []
    for _, group in groupby(rows, key=lambda row: row["step"]):
        logs = []
        for row in group:
            question = asked[row["id"]]
            label = Label(
                id=question.id, split="train", answer=question.answer, options=question.options
            )
            scored = score_response(row["response"], label, SETTINGS)[1]["extra_logs"]
            logs.append({**scored, "truncated": 0.0})
        steps.append(logs)
    return steps


def average(logs: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(log[key] for log in logs) / len(logs) for key in KEYS}


def find_changes(labels: list[int]) -> list[tuple[int, int]]:
    """(index, phase) of every change of phase."""
    return [(i, b) for i, (a, b) in enumerate(pairwise(labels), 1) if a != b]


@pytest.mark.parametrize("seed", [0, 1])
def test_each_boundary_of_six_phases_is_found_within_two_steps(seed):
    labels = label_steps([average(logs) for logs in log_steps(SIX, seed)], WORDS)
    found, true = find_changes(labels), find_changes(SIX)
    assert labels[0] == 1
    assert [phase for _, phase in found if phase] == [2, 3, 4, 5, 6]
    for (place, phase), (expected, _) in zip([c for c in found if c[1]], true, strict=True):
        assert abs(place - expected) <= 2, f"phase {phase} at {place}, not {expected}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 32))
def test_each_boundary_is_found_at_more_seeds(seed):
    test_each_boundary_of_six_phases_is_found_within_two_steps(seed)


@pytest.mark.parametrize(
    "schedule", [[1, 3], [1, 2, 3], [3, 5], [1, 5, 6], [3], [1, 4], [1, 3, 0, 3]], ids=str
)
def test_a_run_that_skips_phases_is_not_forced_into_six(schedule):
    labels = label_steps(
        [average(logs) for logs in log_steps([p for p in schedule for _ in range(8)], 3)], WORDS
    )
    kept = [phase for phase, group in groupby(labels) if len(list(group)) > 3]
    assert kept == schedule


def test_where_nothing_fits_there_is_no_phase():
    assert set(label_steps([average(logs) for logs in log_steps([0] * 12)], WORDS)) == {0}


def test_the_phases_do_not_change_on_resampling():
    steps = log_steps(SIX)
    rng = random.Random(0)
    labels = label_steps([average(logs) for logs in steps], WORDS)
    same = [0] * len(steps)
    for _ in range(20):
        again = label_steps([average(rng.choices(logs, k=len(logs))) for logs in steps], WORDS)
        same = [count + (a == b) for count, a, b in zip(same, labels, again, strict=True)]
    assert sum(same) / 20 / len(steps) >= 0.95


def test_phase_six_needs_a_hack_before_it():
    concise = {
        "format": 1.0,
        "leak": 0.0,
        "pre_think": 0.0,
        "think_words": 12,
        "pre_think_words": 0,
        "truncated": 0.0,
    }
    hack = {**concise, "leak": 0.9, "think_words": 4}
    assert label_steps([concise] * 4, WORDS) == [3] * 4
    assert label_steps([hack] * 3 + [concise] * 3, WORDS) == [4] * 3 + [6] * 3


def test_one_step_alone_changes_nothing():
    concise = {
        "format": 1.0,
        "leak": 0.0,
        "pre_think": 0.0,
        "think_words": 12,
        "pre_think_words": 0,
        "truncated": 0.0,
    }
    odd = {**concise, "format": 0.2}
    assert label_steps([concise, concise, odd, concise, concise], WORDS) == [3] * 5
    tracker = PhaseTracker(WORDS)
    assert [tracker.update(row) for row in (concise, concise, odd, odd)] == [
        False,
        True,
        False,
        True,
    ]
    assert (tracker.phase, tracker.since) == (1, 2)


def test_a_greeting_before_think_is_no_exploit():
    shape = Shape(format=1.0, truncated=0.0, pre_think=0.9, leak=0.0, think=0.5, before=0.05)
    assert not any(fits(phase, shape) for phase in (1, 2, 3, 4, 5))
    assert fits(5, shape._replace(before=0.8))


def test_long_thinking_that_begins_with_the_answer_is_not_phase_four():
    shape = Shape(format=1.0, truncated=0.0, pre_think=0.0, leak=0.9, think=0.8, before=0.0)
    assert not any(fits(phase, shape) for phase in (1, 2, 3, 4, 5))


def test_cut_responses_are_not_a_format_failure():
    shape = Shape(format=0.1, truncated=0.9, pre_think=0.0, leak=0.0, think=3.0, before=0.0)
    assert not any(fits(phase, shape) for phase in (1, 2, 3, 4, 5))


def test_no_two_rules_hold_together():
    rng = random.Random(0)
    for _ in range(5000):
        shape = Shape(*(rng.random() for _ in range(4)), rng.uniform(0, 3), rng.uniform(0, 3))
        assert sum(fits(phase, shape) for phase in (1, 2, 3, 4, 5)) <= 1, shape
