"""Monitors trip on what they watch and on nothing else; the terminal says it once, and the phase."""

import io
import json
import random
import re
from pathlib import Path

import pytest
from rich.console import Console

from eval.dynamics.monitors import HEALTHY_KL, KL_GROWTH, MONITORS, check_monitors, check_run
from recipes import terminal
from recipes.terminal import LiveView, count_question_words
from tests.conftest import compose_words

ROOT = Path(__file__).resolve().parents[1]
CALM = {
    "format": 0.95,
    "leak": 0.02,
    "pre_think": 0.02,
    "think_words": 12.0,
    "pre_think_words": 0.2,
    "truncated": 0.0,
    "repetition": 0.01,
    "response_length": 36.0,
    "kl": 0.05,
    "vllm_kl": 2e-4,
    "accuracy": 0.5,
}


def make_steps(count: int, since: int = 70, **changes: float) -> list[dict]:
    """Calm steps whose reward grows, with noise; `changes` from step `since` on."""
    steps = []
    for step in range(1, count + 1):
        noise = 0.02 * (-1) ** step
        row = {
            "kind": "train",
            "step": step,
            "time": float(step),
            **CALM,
            "rollout/reward_mean": 0.008 * step + noise - 0.2,
        }
        steps.append(row | (changes if step >= since else {}))
    return steps


def test_a_calm_run_trips_nothing():
    assert check_run(make_steps(100)) == []


@pytest.mark.parametrize(
    ("monitor", "changes"),
    [
        ("leak", {"leak": 0.6}),
        ("pre_think", {"pre_think": 0.4}),
        ("truncation", {"truncated": 0.3}),
        ("repetition", {"repetition": 0.4}),
        ("format_collapse", {"format": 0.6}),
        ("kl_runaway", {"kl": 0.8}),
        ("length_runaway", {"response_length": 100.0}),
        ("reward_flat", {"rollout/reward_mean": 0.36}),
        ("vllm_kl", {"vllm_kl": -4e-3}),
    ],
)
def test_each_monitor_trips_on_its_own_change_alone(monitor, changes):
    spans = check_run(make_steps(130, **changes))
    assert {span.alarm.monitor for span in spans} == {monitor}
    if monitor != "reward_flat":  # which takes its 30 steps
        (span,) = spans
        assert 70 < span.first <= 75 and span.last == 130


def test_there_is_a_case_for_every_monitor():
    cases = test_each_monitor_trips_on_its_own_change_alone.pytestmark[0].args[1]
    assert {monitor for monitor, _ in cases} | {"no_format"} == set(MONITORS)


def test_a_format_that_is_never_followed_is_said_loudly_from_the_third_step():
    never = make_steps(40, since=1, format=0.001)
    (span,) = check_run(never)
    assert (span.first, span.last, span.alarm.monitor, span.alarm.loud) == (
        3,
        40,
        "no_format",
        True,
    )
    for cause in ("max_new_tokens", "prompt does not show", "data.chat=true"):
        assert cause in span.alarm.advice
    # it is learnt after all, or was followed once: not this monitor's
    assert check_run(make_steps(30, since=1, format=0.02)) == []
    (span,) = check_run([*never[:10], *make_steps(40)[10:]])
    assert (span.alarm.monitor, span.last) == ("no_format", 10)


def draw_kl(steps: int, scale: float, seed: int) -> list[float]:
    """vllm_kl of a sound run: a mean over many tokens of what bf16 rounds, of either sign."""
    rng = random.Random(seed)
    return [scale * rng.uniform(0.6, 1.0) * rng.choice((1, 1, 1, -1)) for _ in range(steps)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-4, 5e-4, 1.5e-3, 2e-3])
def test_rounding_of_a_sound_run_is_no_alarm(scale, seed):
    rows = make_steps(120)
    for row, value in zip(rows, draw_kl(120, scale, seed), strict=True):
        row["vllm_kl"] = value
    assert check_run(rows) == []


@pytest.mark.parametrize("seed", range(6))
def test_uneven_rounding_of_few_tokens_is_no_alarm(seed):
    """A step of 8 responses of SmolLM2-135M: 1.3e-3 ± 2.9e-3 (docs/LOG.md), and a first step near 0."""
    rng, rows = random.Random(seed), make_steps(600)
    for row in rows:
        row["vllm_kl"] = rng.gauss(1.3e-3, 2.9e-3) if row["step"] > 1 else 2e-4
    assert check_run(rows) == []


def test_a_copy_that_gets_stale_is_seen_through_uneven_rounding():
    rng, rows = random.Random(0), make_steps(120)
    for row in rows:
        rounding = rng.gauss(1.3e-3, 2.9e-3) if row["step"] > 1 else 1.3e-3
        row["vllm_kl"] = rounding + 5e-4 * row["step"]
    (span,) = check_run(rows)
    assert span.alarm.monitor == "vllm_kl" and span.first < 30 and span.last == 120


@pytest.mark.parametrize("scale", [1e-4, 1.5e-3, 2e-3])
@pytest.mark.parametrize("drift", [5e-4, 2e-3])
def test_a_copy_that_gets_stale_is_seen_by_its_growth(scale, drift):
    """drift: nats a token by which each update moves the policy away from the copy that is kept."""
    rows = make_steps(120)
    for number, row in enumerate(rows):
        row["vllm_kl"] = draw_kl(1, scale, number)[0] + drift * number
    (span,) = check_run(rows)
    assert span.alarm.monitor == "vllm_kl" and span.last == 120
    limit = max(HEALTHY_KL, KL_GROWTH * scale)
    assert span.first <= 1 + 5 + limit / drift


def test_rounding_is_what_the_first_step_measured_even_after_many_steps():
    rows = make_steps(600)
    for row in rows:
        row["vllm_kl"] = 4e-3 if row["step"] > 1 else 1.5e-3
    assert (
        check_run(rows) == []
    )  # 2.7 times the first step's: large for a GPU, but it does not grow
    live = LiveView(question_words=20)
    lines = [line for row in rows for line in live.take(row)]
    assert not [line for line in lines if "vllm_kl" in line]


def test_a_slow_drift_is_measured_from_the_runs_first_step():
    rows = make_steps(600)
    for row in rows:
        row["vllm_kl"] = 1e-4 + 2e-5 * row["step"]
    (span,) = check_run(rows)  # 200 steps before the last it was 8e-3 already
    assert span.alarm.monitor == "vllm_kl" and (span.first < 130 and span.last == 600)


def test_another_model_in_vllm_is_seen_at_the_first_step():
    (span,) = check_run(make_steps(60, since=1, vllm_kl=0.3))
    assert (span.alarm.monitor, span.first, span.alarm.loud) == ("vllm_kl", 1, True)


def test_values_that_are_no_numbers_are_not_watched():
    rows = make_steps(80)
    for row in rows[::7]:
        row |= {"kl": float("nan"), "format": None, "vllm_kl": "x", "response_length": float("inf")}
    assert check_run(rows) == []


def list_overrides(text: str) -> list[str]:
    return re.findall(r"[a-z_]+(?:\.[a-z_]+)+=[^\s,;:)`]+", text)


def test_what_a_monitor_advises_can_be_typed():
    advised = [text for monitor in MONITORS.values() for text in list_overrides(monitor.advice)]
    documented = list_overrides((ROOT / "docs" / "dynamics.md").read_text())
    assert len(advised) > 8 and "reward.options.leak_penalty=0.2" in advised
    for override in {*advised, *documented}:
        compose_words("rlvr", [override])


def test_one_odd_step_trips_nothing():
    steps = make_steps(80)
    steps[40] |= {"truncated": 0.9, "kl": 2.0, "format": 0.5, "repetition": 0.9}
    assert check_run(steps) == []


def test_what_is_not_logged_is_not_watched():
    steps = [{"step": step, "kl": 0.01} for step in range(1, 80)]
    assert check_monitors(steps) == []


def test_a_reward_that_is_flat_at_the_top_is_done_not_stuck():
    steps = [row | {"rollout/reward_mean": 0.97} for row in make_steps(100)]
    assert check_run(steps) == []


@pytest.mark.parametrize("name", MONITORS)
def test_the_docs_say_what_to_do_about_each(name):
    assert re.search(rf"^### {name}$", (ROOT / "docs" / "dynamics.md").read_text(), re.MULTILINE)


def test_a_monitor_that_flickers_is_one_span_and_one_warning():
    steps = [row | {"leak": 0.9 if row["step"] % 16 < 8 else 0.0} for row in make_steps(120)]
    spans = check_run(steps)
    assert [span.alarm.monitor for span in spans] == ["leak"] and spans[0].last - spans[
        0
    ].first > 80
    live = LiveView(question_words=20)
    assert sum("warning" in line for row in steps for line in live.take(row)) == 1


def test_the_terminal_says_a_phase_and_a_warning_once():
    live = LiveView(question_words=20)
    lines = [line for row in make_steps(90, leak=0.7, think_words=4.0) for line in live.take(row)]
    assert len(lines) == 3
    assert "phase 3, Concise Structurer since step 1" in lines[0]
    assert "phase 4, Direct Answer Hacker since step 70" in lines[1]
    assert "docs/dynamics.md#leak" in lines[2]


def test_the_terminal_shows_both_while_it_watches(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    before, now = (
        make_steps(90, leak=0.7, think_words=4.0)[:60],
        make_steps(90, leak=0.7, think_words=4.0)[60:],
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in before))
    reader = terminal.MetricsReader(path)
    live = LiveView(question_words=20)
    for row in reader.read_new():  # a run that is resumed goes on in its phase
        live.take(row)
    assert live.describe_phase() == "phase 3, Concise Structurer"
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in now)
    out = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=100))
    terminal.watch(reader, "ppo", 60, 90, lambda: False, lambda _: None, live)
    shown = " ".join(out.getvalue().split())
    assert (
        "phase 4, Direct Answer Hacker since step 70" in shown
        and "warning: 59% of the responses" in shown
    )
    assert "61/90" in shown and "60/90" not in shown


def test_words_of_the_questions_are_counted(tmp_path):
    rows = [
        {"question": "one two three", "options": ["a b", "c"]},
        {"question": "one", "options": ["a", "b"]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert count_question_words(tmp_path / "train.jsonl") == 4.5
