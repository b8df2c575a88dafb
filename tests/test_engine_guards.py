"""Metrics that show a run which no longer learns: NaN, skipped updates, a norm that repeats."""

import pytest

from recipes.engine.guards import SkippedSteps, check_finite


def test_each_broken_metric_is_named():
    with pytest.raises(FloatingPointError, match=r"step 7: loss=nan, actor_grad_norm=-1.0"):
        check_finite({"loss": float("nan"), "kl": -0.1, "actor_grad_norm": -1.0}, 7)
    check_finite({"kl": -0.1, "actor_grad_norm": 0.0, "generated_samples": ["text", 1]}, 8)


def test_the_third_step_in_a_row_with_a_skipped_update_stops_the_run():
    skipped = SkippedSteps()
    for step in (1, 2):
        skipped.check({"actor_skipped_steps": 1, "actor_grad_norm": 0.0}, step)
    skipped.check({"actor_skipped_steps": 0, "actor_grad_norm": 0.5}, 3)
    for step in (4, 5):
        skipped.check({"critic_skipped_steps": 2, "actor_grad_norm": 0.1 * step}, step)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row.*critic_skipped_steps"):
        skipped.check({"critic_skipped_steps": 1, "actor_grad_norm": 0.7}, 6)


def test_a_norm_that_repeats_to_the_last_bit_is_a_skipped_update():
    skipped = SkippedSteps()
    for step in (1, 2, 3):  # the first has nothing to repeat
        skipped.check({"actor_grad_norm": 0.4375988841056824}, step)
    with pytest.raises(FloatingPointError, match="actor_grad_norm"):
        skipped.check({"actor_grad_norm": 0.4375988841056824}, 4)


def test_a_norm_of_zero_is_no_skipped_update():
    """GRPO's groups can all agree, and then no gradient is right."""
    skipped = SkippedSteps()
    for step in range(10):
        skipped.check({"actor_grad_norm": 0.0, "actor_skipped_steps": 0}, step)
