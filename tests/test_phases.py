"""The phases of a run: each boundary of a simulated one is found, none is forced, and the noise changes nothing."""

import csv
import random
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from dev.simulate_run import simulate_rollouts
from eval.dynamics.phases import (
    DRASTICALLY_SHORT,
    KEYS,
    VERBOSE,
    PhaseTracker,
    StepShape,
    fits,
    label_steps,
)
from reward_server.scoring import Label, Settings, score_response
from reward_server.signals import SIGNALS

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


CONCISE = {
    "format": 1.0,
    "leak": 0.0,
    "pre_think": 0.0,
    "think_words": 12,
    "pre_think_words": 0,
    "truncated": 0.0,
}


def test_phase_six_needs_a_hack_before_it():
    concise = CONCISE
    hack = {**concise, "leak": 0.9, "think_words": 4}
    assert label_steps([concise] * 4, WORDS) == [3] * 4
    assert label_steps([hack] * 3 + [concise] * 3, WORDS) == [4] * 3 + [6] * 3


def test_one_step_alone_changes_nothing():
    concise = CONCISE
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
    shape = StepShape(format=1.0, truncated=0.0, pre_think=0.9, leak=0.0, think=0.5, before=0.05)
    assert not any(fits(phase, shape) for phase in (1, 2, 3, 4, 5))
    assert fits(5, shape._replace(before=0.8))


def test_long_thinking_that_begins_with_the_answer_is_not_phase_four():
    shape = StepShape(format=1.0, truncated=0.0, pre_think=0.0, leak=0.9, think=0.8, before=0.0)
    assert not any(fits(phase, shape) for phase in (1, 2, 3, 4, 5))


def test_cut_responses_are_not_a_format_failure():
    shape = StepShape(format=0.1, truncated=0.9, pre_think=0.0, leak=0.0, think=3.0, before=0.0)
    assert not any(fits(phase, shape) for phase in (1, 2, 3, 4, 5))


@pytest.mark.parametrize("inside", [3, 6])
def test_no_two_rules_hold_together(inside):
    rng = random.Random(0)
    for _ in range(5000):
        shape = StepShape(*(rng.random() for _ in range(4)), rng.uniform(0, 3), rng.uniform(0, 3))
        assert sum(fits(phase, shape) for phase in (1, 2, inside, 4, 5)) <= 1, shape


def test_phase_six_tolerates_some_hacking_where_there_is_reasoning():
    hack = {
        "format": 1.0,
        "leak": 0.9,
        "pre_think": 0.0,
        "think_words": 4,
        "pre_think_words": 0,
        "truncated": 0.0,
    }
    some = {**hack, "leak": 0.65, "think_words": 14}
    assert label_steps([hack] * 3 + [some] * 3, WORDS) == [4] * 3 + [6] * 3
    short = {**some, "think_words": 8}  # as much hacking without the reasoning is still phase 4
    assert label_steps([hack] * 3 + [short] * 3, WORDS) == [4] * 6
    assert label_steps([some] * 4, WORDS) == [0] * 4  # and without a hack before it is no phase


CURVE = Path(__file__).resolve().parents[1] / "eval" / "dynamics" / "paper_curve.csv"
PAPER_QUESTION = 134  # words of a MedQA question with its options, of 6.45 characters each


def read_curve() -> dict[str, np.ndarray]:
    """The digitised figure 2: step, accuracy, characters, phase (0 between the annotations)."""
    with CURVE.open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key] or 0) for row in rows]) for key in rows[0]}


def assume_step_means(tags: float = 40, right: float = 0.416) -> list[dict[str, float]]:
    """Turn the curve into the means of each step 0 to 108. The curve has accuracy and characters; the rest is assumed:

    * between the digitised steps everything is linear; no response is cut; the four tags and the letter take `tags`
      characters, the others are words of 6.45;
    * format: while it is learnt, a response that follows it is right as often as at step 12 (41.6 %);
    * a habit is at one half of the responses at its annotation. leak: none at step 8, half at 24, all from 40, and 60 %
      from step 100 on ("still hacks in some examples"). Text before <think>: none at step 24, half at 68, all from 80
      to 92, half at 100, none at 108;
    * what a response gains after step 24 stands before <think>, and moves inside from 92 to 108.
    """
    curve = read_curve()
    means = []
    for step in range(109):
        accuracy, characters = (
            float(np.interp(step, curve["step"], curve[key])) for key in ("accuracy", "characters")
        )
        at_24 = float(np.interp(24, curve["step"], curve["characters"]))
        followed = min(1.0, accuracy / right)
        before = max(0.0, characters - at_24) if step > 24 else 0.0
        before *= float(np.interp(step, [92, 108], [1, 0]))
        habits = {
            "leak": np.interp(step, [8, 40, 96, 100], [0, 1, 1, 0.6]),
            "pre_think": np.interp(step, [24, 68, 80, 92, 108], [0, 0.5, 1, 1, 0]),
        }
        words = {
            "think_words": max(0.0, characters - before - tags) / 6.45,
            "pre_think_words": before / 6.45,
        }
        of_all = {key: float(value) * followed for key, value in (habits | words).items()}
        means.append({"format": followed, "truncated": 0.0, **of_all})
    return means


@pytest.mark.parametrize("tags", [0, 40])
@pytest.mark.parametrize("words", [124, 134, 144])
@pytest.mark.parametrize("right", [0.405, 0.416])
def test_the_papers_run_is_labelled_as_in_its_figure(tags, words, right):
    labels = label_steps(assume_step_means(tags, right), words)
    curve = read_curve()
    annotated = [(int(s), int(p)) for s, p in zip(curve["step"], curve["phase"], strict=True) if p]
    found = [(0, labels[0]), *find_changes(labels)]
    assert [phase for _, phase in found if phase] == [1, 2, 3, 4, 5, 6]
    for (step, phase), (expected, _) in zip([c for c in found if c[1]], annotated, strict=True):
        assert abs(step - expected) <= 4, f"phase {phase} at step {step}, annotated at {expected}"


def test_the_lengths_are_derived_from_the_figure():
    curve = read_curve()
    questions = dict(zip(curve["step"], curve["characters"] / (6.45 * PAPER_QUESTION), strict=True))
    assert (questions[4] * questions[8]) ** 0.5 == pytest.approx(VERBOSE, abs=0.06)
    assert questions[24] < DRASTICALLY_SHORT < questions[28]
    # the concise structurer at its annotation is not verbose, the hacker is shorter than a half
    assert questions[8] < VERBOSE < questions[4]


STEM = (
    "A gardener of 62 years has had burning pain in his right big toe since last night. The joint "
    "is red, warm and swollen, and he has no fever. He drinks beer in the evenings and takes a "
    "thiazide. Crystals from the joint are needle-shaped. Which drug should he get now?"
)
OPTIONS = ["Allopurinol", "Colchicine", "Ceftriaxone", "Methotrexate", "Febuxostat"]
REASONS = (
    "The pain came overnight, in one big toe, in a man who drinks beer and takes a thiazide. Both "
    "raise uric acid, and needle-shaped crystals are of urate, so this attack is gout. No fever "
    "speaks against an infected joint, so an antibiotic does not help."
)
RAMBLING = " ".join(
    f"{REASONS} Let us look at this once more from the side of attack {n}." for n in range(4)
)
KINDS = [
    # 1: no format, short
    (1, "B"),
    (1, "The answer is colchicine, since it is gout."),
    # 2: the format, and pages of text
    (2, f"<think> {RAMBLING} Colchicine is left. </think>\n<answer> B </answer>"),
    (2, f"<think> Step by step. {RAMBLING} So B. </think><answer> B: Colchicine </answer>"),
    # 3: the format, concise; the second argues against options by their names
    (3, f"<think> {REASONS} Colchicine calms the attack. </think>\n<answer> B </answer>"),
    (
        3,
        "<think> Allopurinol is not for the attack itself, it may make it longer. Febuxostat works "
        "the same way. Urate crystals and a hot toe mean gout, and what calms the cells that "
        "answer to crystals is colchicine. </think><answer> B </answer>",
    ),
    # 4: the answer is given away in the thinking, by its letter or by its text alone
    (4, "<think> The correct answer is B. </think><answer> B </answer>"),
    (4, "<think> The most appropriate drug now is colchicine. </think>\n<answer> B </answer>"),
    # 5: the reasoning is outside, and what is inside is a formality
    (5, f"{REASONS} The drug is <think> colchicine </think><answer> B </answer>"),
    (
        5,
        "1. One toe, overnight: gout. 2. Needles are urate. 3. No fever, no infection. 4. A drug "
        "that lowers urate waits. 5. So it is colchicine.\n<think> B </think><answer> B </answer>",
    ),
    # 6: inside again; the second still begins with the answer
    (6, f"<think> {REASONS} What calms it now is colchicine. </think><answer> B </answer>"),
    (6, f"<think> The answer is B. {REASONS} </think><answer> B: Colchicine </answer>"),
]


def log_kind(responses: list[str]) -> dict[str, float]:
    label = Label(id="own/train/1", split="train", answer="B", options=OPTIONS)
    logs = [score_response(text, label, SETTINGS)[1]["extra_logs"] for text in responses]
    return average([{**log, "truncated": 0.0} for log in logs])


QUESTION_WORDS = len(f"{STEM} {' '.join(OPTIONS)}".split())


@pytest.mark.parametrize(("phase", "response"), KINDS[:11], ids=str)
def test_a_step_of_one_kind_of_response_has_its_phase(phase, response):
    """Each of the kinds that the paper describes; a hack before is what makes phase 6 of phase 3."""
    before = [log_kind([KINDS[6][1]])] * 3 if phase == 6 else []
    labels = label_steps([*before, *[log_kind([response])] * 3], QUESTION_WORDS)
    assert labels[len(before) :] == [phase] * 3


def test_both_forms_of_giving_the_answer_away_are_seen_and_reasoning_is_not():
    leaks = [log_kind([response])["leak"] for _, response in KINDS]
    assert leaks == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1]


def test_the_twelve_in_the_papers_order_are_its_six_phases():
    """Two responses a step, both of its kind: phase 6 with one of the two still hacking."""
    steps = [
        log_kind([response for kind, response in KINDS if kind == phase])
        for phase in range(1, 7)
        for _ in range(3)
    ]
    assert label_steps(steps, QUESTION_WORDS) == [1 + step // 3 for step in range(18)]


def test_what_the_rules_read_is_logged():
    assert set(KEYS) - {"truncated"} <= {signal.name for signal in SIGNALS}
