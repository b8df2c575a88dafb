"""Turn a verdict into the reward of a training sample: values, penalties, length.

The options are the recipe's keys `reward.options.*`; recipes/configs/rlvr.yaml says what each does.
Penalties touch only responses that follow the format, and no response gets less than
`format_failed`: not to follow the format is never the better choice.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator

from reward_server.verifier import Verdict

Penalty = Annotated[FiniteFloat, Field(ge=0)]


class RewardOptions(BaseModel):
    """Reward values, penalties and lengths; the defaults are the paper's reward."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    correct: FiniteFloat = 1.0
    wrong: FiniteFloat = 0.0
    format_failed: FiniteFloat = -1.0
    leak_penalty: Penalty = 0.0
    pre_think_penalty: Penalty = 0.0
    length_penalty: Penalty = 0.0
    min_words: NonNegativeInt = 0
    max_words: NonNegativeInt | None = None

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
    words, excess = signals["think_words"], 0.0
    if words < options.min_words:
        excess = 1.0 - words / options.min_words
    elif options.max_words is not None and words > options.max_words:
        excess = min(1.0, words / options.max_words - 1.0)
    reward -= options.length_penalty * excess
    return max(reward, options.format_failed)
