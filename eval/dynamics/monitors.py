"""Watch a run for what tends to go wrong: pure functions over its steps (docs/dynamics.md).

The terminal asks them after each step, the report over a finished run; both pass rows with the
names of metrics.jsonl. A monitor whose metric is not logged stays silent.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, median_high, variance
from typing import Any, NamedTuple

from data_prep.files import read_mapping

Row = Mapping[str, Any]
Found = tuple[float, float] | None  # the value and the limit that it reached

RECENT = 5  # steps whose mean is judged: a single unusual step trips nothing
FLAT = 30  # steps, compared with the 30 before them
KEPT = 200  # steps that a monitor looks back at most, and the run's first
PAUSE = 20  # steps without it after which a monitor that trips again begins a new span

FIRST_STEPS = 3  # without the format, after which that is no accident
SETTLED = 0.95  # of the highest reward: flat there is finished, not stuck

# vllm_kl of the first step, before any update, is the rounding (bf16) of this model and machine
HEALTHY_KL = 2.5e-3  # nats a token; GPU runs of others reach 2e-3 (trl#5312)
KL_GROWTH = 4.0  # times the first step's; a stale copy falls further behind with every update
KL_NOISE = 4.0  # and so many standard errors of what is judged: few tokens a step round unevenly
MOST_ROUNDING = 0.05  # nats a token; more at the first step is another model, not rounding


class Monitor(NamedTuple):
    """An entry of monitors.yaml, which explains the fields."""

    says: str
    advice: str
    loud: bool = False
    fraction: str = ""
    limit: float = 0.0
    of_followed: bool = False


TABLE = read_mapping(Path(__file__).with_suffix(".yaml"))
MONITORS = {name: Monitor(**entry) for name, entry in TABLE.items()}
"""Every monitor by name; docs/dynamics.md has a section for each."""


def read_values(rows: Sequence[Row], key: str) -> list[float]:
    """Read the finite values of a metric."""
    values = (row.get(key) for row in rows)
    return [v for v in values if isinstance(v, int | float) and math.isfinite(v)]


def mean_recent(rows: Sequence[Row], key: str) -> float:
    """Average the last RECENT steps; NaN, which reaches no limit, where fewer have the metric."""
    values = read_values(rows[-RECENT:], key)
    return sum(values) / RECENT if len(values) == RECENT else math.nan


def watch_fraction(rows: Sequence[Row], monitor: Monitor) -> Found:
    """Watch a metric for reaching a fixed limit."""
    value = mean_recent(rows, monitor.fraction)
    if monitor.of_followed:
        followed = mean_recent(rows, "format")
        value = value / followed if followed >= 0.5 else math.nan
    return (value, monitor.limit) if value >= monitor.limit else None


def watch_no_format(rows: Sequence[Row], monitor: Monitor) -> Found:
    """Watch for a format that was never followed: all rewards are -1, and nothing is learned."""
    values = read_values(rows, "format")
    never = len(values) >= max(FIRST_STEPS, len(rows)) and max(values) < monitor.limit
    return (max(values), monitor.limit) if never else None


def watch_format(rows: Sequence[Row], monitor: Monitor) -> Found:
    """Watch for a format that was followed, and no longer is."""
    now = mean_recent(rows, "format")
    ends = range(max(RECENT, len(rows) - 100), len(rows) if len(rows) >= 2 * RECENT else 0)
    means = [mean_recent(rows[:end], "format") for end in ends]
    limit = max((mean for mean in means if mean >= 0), default=0.0) - monitor.limit
    return (now, limit) if now <= limit else None


def watch_length(rows: Sequence[Row], monitor: Monitor) -> Found:
    """Watch for responses several times as long as the run's median so far."""
    now = mean_recent(rows, "response_length")
    earlier = read_values(rows[:-RECENT], "response_length")
    limit = monitor.limit * median_high(earlier) if len(earlier) >= 2 * RECENT else math.inf
    return (now, limit) if now >= limit else None


def watch_reward(rows: Sequence[Row], monitor: Monitor) -> Found:
    """Watch for 30 steps that earned no more than the 30 before, while there is more to earn."""
    values = read_values(rows[-2 * FLAT :], "rollout/reward_mean")
    before, now = values[:FLAT], values[FLAT:]
    if len(now) < FLAT or fmean(now) >= SETTLED:
        return None
    gain = fmean(now) - fmean(before)
    limit = monitor.limit * math.sqrt((variance(before) + variance(now)) / FLAT)
    return (gain, limit) if gain <= limit else None


def watch_vllm_kl(rows: Sequence[Row], _: Monitor) -> Found:
    """Watch for rollouts that do not come from the weights being trained."""
    first = max(map(abs, read_values(rows[:1], "vllm_kl")), default=0.0)
    if first >= MOST_ROUNDING:
        return first, MOST_ROUNDING
    # of the changes from step to step, about their median: a drift, which is sought, is no noise
    jumps = [b - a for a, b in pairwise(read_values(rows, "vllm_kl"))] or [0.0]
    middle = median(jumps)
    noise = KL_NOISE * median(abs(jump - middle) for jump in jumps) / math.sqrt(RECENT)
    limit = max(HEALTHY_KL, KL_GROWTH * first) + noise
    value = abs(mean_recent(rows, "vllm_kl"))
    return (value, limit) if value >= limit else None


WATCHES = {
    "no_format": watch_no_format,
    "format_collapse": watch_format,
    "length_runaway": watch_length,
    "reward_flat": watch_reward,
    "vllm_kl": watch_vllm_kl,
}


class Alarm(NamedTuple):
    """A tripped monitor: its name, what it found and what it says of that."""

    monitor: str
    value: float
    limit: float
    says: str
    advice: str
    loud: bool


class Span(NamedTuple):
    """The steps, first to last, over which a monitor stayed tripped; alarm: its strongest."""

    first: int
    last: int
    alarm: Alarm


def append_step(rows: Sequence[Row], row: Row) -> list[Row]:
    """Append a step to those that the monitors need: the run's first, and the last KEPT."""
    return [*rows[:1], *rows[1:][-KEPT:], row]


def check_monitors(rows: Sequence[Row]) -> list[Alarm]:
    """List what is tripped at the last of `rows`: the run's first step and its last ones."""
    alarms = []
    for name, monitor in MONITORS.items():
        if found := WATCHES.get(name, watch_fraction)(rows, monitor):
            value, limit = found
            says = monitor.says.format(value=value, limit=limit, best=limit + monitor.limit)
            alarms.append(Alarm(name, value, limit, says, monitor.advice, monitor.loud))
    return alarms


def check_run(rows: Sequence[Row]) -> list[Span]:
    """List the spans of steps over which a monitor was tripped in a run, by first step."""
    ended: list[Span] = []
    latest: dict[str, Span] = {}
    kept: list[Row] = []
    for row in rows:
        step = int(row["step"])
        kept = append_step(kept, row)
        for alarm in check_monitors(kept):
            first, old = step, latest.get(alarm.monitor)
            if old and step - old.last <= PAUSE:
                first = old.first
                alarm = max(old.alarm, alarm, key=lambda one: abs(one.value - one.limit))
            elif old:
                ended.append(old)
            latest[alarm.monitor] = Span(first, step, alarm)
    return sorted([*ended, *latest.values()], key=lambda span: (span.first, span.alarm.monitor))
