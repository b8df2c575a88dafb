"""Options for research: other reward values, penalties and length shaping. All off by default.

They come as one JSON object, $MEDRLVR_REWARD_OPTIONS (the recipe's `reward.*` keys), with any of these keys:

    correct, wrong, format_failed   the three reward values (1.0, 0.0, -1.0); correct > wrong >= format_failed
    leak_penalty        >= 0        taken off where the choice is stated before the reasoning (the paper's phase 4)
    pre_think_penalty   >= 0        taken off where text stands before <think> (the paper's phase 5)
    length_penalty      >= 0        taken off where the reasoning is shorter than min_words or longer than max_words, in
    min_words           >= 0          proportion to how far outside: in full at 0 words or at twice max_words
    max_words           > min_words   (null: no upper bound)

Penalties touch only responses that follow the format, and no response gets less than format_failed: not to follow the
format is never the better choice. Rows that are not of the training split are not shaped (reward_server/scoring.py).
The option `strict` of the format is $MEDRLVR_REWARD_MODE.
"""

import json
import math
from typing import Any, NamedTuple


class RewardOptions(NamedTuple):
    """See the module's docstring for each field."""

    correct: float = 1.0
    wrong: float = 0.0
    format_failed: float = -1.0
    leak_penalty: float = 0.0
    pre_think_penalty: float = 0.0
    length_penalty: float = 0.0
    min_words: int = 0
    max_words: int | None = None


def parse_options(text: str) -> RewardOptions:
    """Read the JSON object `text`; an empty string means no options.

    Raises ValueError that names the key, its value and what it may be.
    """
    if not text.strip():
        return RewardOptions()
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"reward options are not JSON ({error}): {text[:200]!r}") from None
    if not isinstance(given, dict):
        raise ValueError(f"reward options must be one JSON object, got {text[:200]!r}")
    if unknown := sorted(set(given) - set(RewardOptions._fields)):
        raise ValueError(
            f"unknown reward options {unknown}: known are {list(RewardOptions._fields)}"
        )
    for key, value in given.items():
        _check_value(key, value)
    options = RewardOptions(**given)
    if not options.correct > options.wrong >= options.format_failed:
        raise ValueError(
            "reward options need correct > wrong >= format_failed, "
            f"got {options.correct}, {options.wrong}, {options.format_failed}"
        )
    if options.max_words is not None and options.max_words <= options.min_words:
        raise ValueError(
            f"reward option max_words={options.max_words} is not above min_words={options.min_words}"
        )
    if options.length_penalty and not options.min_words and options.max_words is None:
        raise ValueError("reward option length_penalty needs min_words or max_words")
    return options


def shape_reward(
    format_ok: bool,
    correct: bool,
    leak: bool,
    pre_think: bool,
    think_words: int,
    options: RewardOptions,
) -> float:
    """The reward of a training sample. leak, pre_think: whether either is there; think_words: words in `<think>`."""
    if not format_ok:
        return float(options.format_failed)
    reward = options.correct if correct else options.wrong
    reward -= options.leak_penalty * leak + options.pre_think_penalty * pre_think
    if options.length_penalty:
        reward -= options.length_penalty * _measure_excess(think_words, options)
    return float(max(reward, options.format_failed))


def _measure_excess(words: int, options: RewardOptions) -> float:
    """How far `words` is outside the bounds: 0.0 within, 1.0 at 0 words or at twice the upper bound and beyond."""
    if words < options.min_words:
        return 1.0 - words / options.min_words
    if options.max_words is not None and words > options.max_words:
        return min(1.0, words / options.max_words - 1.0)
    return 0.0


def _check_value(key: str, value: Any) -> None:
    if key in {"min_words", "max_words"}:
        if key == "max_words" and value is None:
            return
        if type(value) is not int or value < 0:
            raise ValueError(
                f"reward option {key}={value!r} must be a whole number of words, 0 or more"
            )
        return
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ValueError(f"reward option {key}={value!r} must be a finite number")
    if key.endswith("_penalty") and value < 0:
        raise ValueError(
            f"reward option {key}={value!r} must not be negative: it is taken off the reward"
        )
