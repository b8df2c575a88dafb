"""Monitors of a run: what tends to go wrong, as pure functions over its steps. docs/dynamics.md says what to do.

The terminal asks them after each step; the report asks them over a finished run. Both hand over rows with the names of
metrics.jsonl. A monitor whose metric is not logged stays silent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
RECENT = 5  # steps whose mean is judged: one odd step trips nothing
FLAT = 30  # steps beside the 30 before them
KEPT = 200  # steps that they look back at most
PAUSE = 20  # steps without it after which a monitor that trips again begins a new span

LEAK, PRE_THINK, TRUNCATED, REPETITION = 0.5, 0.3, 0.2, 0.25  # shares
FORMAT_LOST = 0.3  # of all responses, below the best that the run had
KL, LENGTH_GROWTH, VLLM_KL = 0.5, 2.5, 0.001  # nats a token; times the run's median; nats a token
NOISE = 1.0  # standard errors that a reward must gain over FLAT steps not to be flat
SETTLED = 0.95  # of the highest reward: flat there is done, not stuck


class Alarm(NamedTuple):
    """A tripped monitor. value is beyond limit; says: what was seen; advice: the first thing to do."""

    monitor: str
    value: float
    limit: float
    says: str
    advice: str


class Span(NamedTuple):
    """Steps first to last (their numbers, both included) over which a monitor stayed tripped, but for pauses of up to
    PAUSE steps; alarm: its strongest."""

    first: int
    last: int
    alarm: Alarm


def mean_recent(rows: Sequence[Row], key: str, count: int = RECENT) -> float | None:
    """Mean of the last `count` steps; None where any of them lacks the metric or there are fewer."""
    values = [row[key] for row in rows[-count:] if key in row and math.isfinite(row[key])]
    return sum(values) / count if len(values) == count else None


def watch_share(
    rows: Sequence[Row], key: str, limit: float, of_followed: bool = False
) -> tuple[float, float] | None:
    """A share at or above `limit`. of_followed: of the responses that follow the format, where most do."""
    value = mean_recent(rows, key)
    if value is not None and of_followed:
        followed = mean_recent(rows, "format") or 0.0
        value = value / followed if followed >= 0.5 else None
    return (value, limit) if value is not None and value >= limit else None


def watch_format(rows: Sequence[Row]) -> tuple[float, float] | None:
    """The format was followed, and no longer is."""
    now = mean_recent(rows, "format")
    if now is None or len(rows) < 2 * RECENT:
        return None
    best = max(
        mean_recent(rows[:end], "format") or 0.0
        for end in range(max(RECENT, len(rows) - 100), len(rows))
    )
    return (now, best - FORMAT_LOST) if now <= best - FORMAT_LOST else None


def watch_kl(rows: Sequence[Row]) -> tuple[float, float] | None:
    """The policy is far from the model it started from."""
    value = mean_recent(rows, "kl")
    return (value, KL) if value is not None and value >= KL else None


def watch_length(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Responses are several times as long as the run's median so far."""
    now = mean_recent(rows, "response_length")
    earlier = sorted(row["response_length"] for row in rows[:-RECENT] if "response_length" in row)
    if now is None or len(earlier) < 2 * RECENT:
        return None
    limit = LENGTH_GROWTH * earlier[len(earlier) // 2]
    return (now, limit) if now >= limit else None


def watch_reward(rows: Sequence[Row]) -> tuple[float, float] | None:
    """The last 30 steps earned no more than the 30 before them, and there is more to be had."""
    key = "rollout/reward_mean"
    values = [row[key] for row in rows[-2 * FLAT :] if key in row]
    if len(values) < 2 * FLAT:
        return None
    before, now = values[:FLAT], values[FLAT:]
    means = sum(before) / FLAT, sum(now) / FLAT
    variance = sum(
        sum((x - m) ** 2 for x in part) for part, m in zip((before, now), means, strict=True)
    ) / (FLAT - 1)
    limit = NOISE * math.sqrt(variance / FLAT)
    gain = means[1] - means[0]
    return (gain, limit) if gain <= limit and means[1] < SETTLED else None


def watch_vllm_kl(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Rollouts do not come from the weights being trained."""
    value = mean_recent(rows, "vllm_kl")
    return (abs(value), VLLM_KL) if value is not None and abs(value) >= VLLM_KL else None


MONITORS: dict[str, tuple[Callable[[Sequence[Row]], tuple[float, float] | None], str, str]] = {
    "leak": (
        lambda rows: watch_share(rows, "leak", LEAK, of_followed=True),
        "{value:.0%} of the responses state the answer before they reason",
        "read some rollouts; reward.options leak_penalty makes it cost",
    ),
    "pre_think": (
        lambda rows: watch_share(rows, "pre_think", PRE_THINK, of_followed=True),
        "{value:.0%} of the responses write before <think>",
        "reward.mode=strict forbids it, reward.options pre_think_penalty makes it cost",
    ),
    "truncation": (
        lambda rows: watch_share(rows, "truncated", TRUNCATED),
        "{value:.0%} of the responses are cut at openrlhf.rollout.max_new_tokens",
        "raise openrlhf.rollout.max_new_tokens, or shape the length by reward.options",
    ),
    "repetition": (
        lambda rows: watch_share(rows, "repetition", REPETITION),
        "{value:.0%} of the four-word runs repeat earlier ones",
        "stop, and start again from the last checkpoint with a lower actor learning rate",
    ),
    "format_collapse": (
        watch_format,
        "{value:.0%} follow the format, after {best:.0%} at its best",
        "stop, and start again from the last checkpoint with a lower actor learning rate",
    ),
    "kl_runaway": (
        watch_kl,
        "KL to the base model is {value:.2f} nats a token",
        "raise openrlhf.algo.kl.init_coef or lower the actor's learning rate",
    ),
    "length_runaway": (
        watch_length,
        "responses have {value:.0f} tokens, over {limit:.0f}, which is 2.5 times the run's median",
        "look for repetition first; then shape the length by reward.options",
    ),
    "reward_flat": (
        watch_reward,
        "the reward gained {value:+.3f} over 30 steps, which is within noise ({limit:.3f})",
        "where it is still low: a higher learning rate, more samples a prompt, easier questions first; else stop",
    ),
    "vllm_kl": (
        watch_vllm_kl,
        "rollouts and training differ by {value:.1e} nats a token",
        "the weight sync is broken or stale: stop, nothing learnt from here on counts",
    ),
}
"""name -> (check, what is said, what to do). docs/dynamics.md has a line for each under the same name."""


def check_monitors(rows: Sequence[Row]) -> list[Alarm]:
    """The monitors that are tripped at the last of `rows`, the run's steps so far in order."""
    alarms = []
    for name, (check, says, advice) in MONITORS.items():
        if found := check(rows):
            value, limit = found
            alarms.append(
                Alarm(
                    name,
                    value,
                    limit,
                    says.format(value=value, limit=limit, best=limit + FORMAT_LOST),
                    advice,
                )
            )
    return alarms


def check_run(rows: Sequence[Row]) -> list[Span]:
    """Every span of steps over which a monitor was tripped in a finished run, in the order of their beginnings."""
    spans: list[Span] = []
    running: dict[str, Span] = {}
    for end in range(1, len(rows) + 1):
        step = int(rows[end - 1]["step"])
        alarms = {alarm.monitor: alarm for alarm in check_monitors(rows[max(0, end - KEPT) : end])}
        for name in [
            name
            for name, span in running.items()
            if name not in alarms and step - span.last > PAUSE
        ]:
            spans.append(running.pop(name))
        for name, alarm in alarms.items():
            old = running.get(name, Span(step, step, alarm))
            stronger = max(old.alarm, alarm, key=lambda one: abs(one.value - one.limit))
            running[name] = Span(old.first, step, stronger)
    return sorted([*spans, *running.values()], key=lambda span: (span.first, span.alarm.monitor))
