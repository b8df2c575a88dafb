"""Turn a verdict into the reward of a training sample: values, penalties, length, controls.

The options are the recipe's keys `reward.options.*`; recipes/configs/rlvr.yaml says what each does.
Penalties touch only responses that follow the format, and no response gets less than
`format_failed`: not to follow the format is never the better choice.

A control (`reward.control`) replaces the truth by something that teaches no medicine, to find out
what the true reward is worth: `coin` tosses a coin seeded by row and response, `format_only` takes
every answer for right, `shuffled_labels` replaces the gold letter by another one of the row, always
the same. `wrong_penalty` makes a wrong answer cost 0.5. Logged accuracy stays true.
"""

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_server.choice import LETTERS
from reward_server.verifier import Verdict

Value = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Words = Annotated[int, Field(ge=0)]
WRONG_PENALTY = -0.5


class RewardOptions(BaseModel):
    """Reward values, penalties and lengths; the defaults are the paper's reward."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    correct: Value = 1.0
    wrong: Value = 0.0
    format_failed: Value = -1.0
    leak_penalty: Penalty = 0.0
    pre_think_penalty: Penalty = 0.0
    length_penalty: Penalty = 0.0
    min_words: Words = 0
    max_words: Words | None = None

    @model_validator(mode="after")
    def check_together(self) -> "RewardOptions":
        """Refuse values that contradict each other."""
        if not self.correct > self.wrong >= self.format_failed:
            raise ValueError("must be correct > wrong >= format_failed")
        if self.max_words is not None and self.max_words <= self.min_words:
            raise ValueError("max_words must be above min_words")
        if self.length_penalty and not self.min_words and self.max_words is None:
            raise ValueError("length_penalty needs min_words or max_words")
        return self


def shape_reward(verdict: Verdict, signals: dict[str, float], options: RewardOptions) -> float:
    """Compute a training sample's reward; verdict.correct decides between the two values."""
    if not verdict.format_ok:
        return options.format_failed
    reward = options.correct if verdict.correct else options.wrong
    reward -= options.leak_penalty * signals["leak"]
    reward -= options.pre_think_penalty * signals["pre_think"]
    reward -= options.length_penalty * _measure_excess(signals["think_words"], options)
    return max(reward, options.format_failed)


def find_controlled_truth(
    control: str, verdict: Verdict, answer: str, num_options: int, seed: int, row_id: str, text: str
) -> bool:
    """Find out if a control takes the response `text`, which follows the format, for right."""
    if control == "coin":
        return bool(_draw(2, seed, row_id, text))
    if control == "format_only":
        return True
    if control == "shuffled_labels":
        # 1 to num_options - 1 places on, so that it is never the gold letter itself
        place = LETTERS.index(answer) + 1 + _draw(num_options - 1, seed, row_id)
        return verdict.choice == LETTERS[place % num_options]
    return verdict.correct


def _draw(below: int, *parts: object) -> int:
    """Draw a number from 0 to below - 1, the same for the same parts on every machine."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest(), "big") % below


def _measure_excess(words: float, options: RewardOptions) -> float:
    """Measure how far outside the bounds: 1.0 at 0 words and at twice the upper bound."""
    if words < options.min_words:
        return 1.0 - words / options.min_words
    if options.max_words is not None and words > options.max_words:
        return min(1.0, words / options.max_words - 1.0)
    return 0.0
