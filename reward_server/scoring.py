"""Score one sample: label in; verdict, reward and logged signals out.

Function, agent and HTTP server share this path, so the same sample gets the same reward on each.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, ValidationError, model_validator

from data_prep.errors import UserError
from data_prep.files import build_object
from reward_server.choice import LETTERS
from reward_server.signals import measure_signals
from reward_server.verifier import Verdict, check_arguments, find_reader, verify, verify_open

VARIABLE = "MEDRLVR_REWARD"
WRONG_PENALTY = -0.5  # of the control of this name
Text = Annotated[str, Field(min_length=1)]
Penalty = Annotated[FiniteFloat, Field(ge=0)]


class RewardOptions(BaseModel, extra="forbid", strict=True, frozen=True):
    """Reward values, penalties and lengths, `reward.options.*`; the defaults are the paper's.

    Penalties touch only responses that follow the format, and no response gets less than
    `format_failed`: not to follow the format is never the better choice.
    """

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


class Settings(BaseModel, extra="forbid", strict=True, frozen=True):
    """Say how to judge: `reward.mode`, `.kind`, `.options`, `.control`, and the recipe's seed."""

    mode: Literal["paper", "strict"] = "paper"
    kind: Literal["verdict", "likelihood", "likelihood_gain", "likelihood_joint"] = "verdict"
    options: RewardOptions = RewardOptions()
    control: Literal["coin", "format_only", "shuffled_labels", "wrong_penalty", None] = None
    seed: int = 0


class RowLabel(BaseModel, strict=True, frozen=True):
    """Parts of every label. step, episode: from 1, added by the trainer as it sends the prompt."""

    id: Text
    split: Text
    step: NonNegativeInt | None = None
    episode: NonNegativeInt | None = None


class Label(RowLabel, frozen=True):
    """The label of a choice."""

    answer: str
    options: list[str]


class OpenLabel(RowLabel, frozen=True):
    """A label without options: accepted forms, or a value and the two limits of its tolerance."""

    kind: Literal["text", "number"]
    options: tuple[()] = ()
    references: list[Text] = []
    value: FiniteFloat = 0.0
    tolerance: list[FiniteFloat] = []
    unit: str = ""
    substance: str | None = None

    @model_validator(mode="after")
    def check_kind(self) -> "OpenLabel":
        """Refuse a label without what its kind needs."""
        if not self.references if self.kind == "text" else len(self.tolerance) != 2:
            raise ValueError("must have references, or a value and the two limits of its tolerance")
        return self


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read $MEDRLVR_REWARD, a JSON object of Settings. Raises UserError with a line a fault."""
    text = environ.get(VARIABLE) or "{}"
    try:
        return Settings.model_validate(json.loads(text))
    except ValidationError as error:
        raise UserError(*(_explain(fault, "reward") for fault in error.errors())) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{VARIABLE}={text!r:.200} is not JSON: {error}") from None


def parse_label(text: str, prompt: str) -> Label | OpenLabel:
    """Read a row's label. prompt: named in errors where there is no id. Raises ValueError."""
    row = f"the prompt {prompt[-200:]!r}"
    try:
        fields = json.loads(text, object_pairs_hook=build_object)
        if isinstance(fields, dict) and fields.get("id"):
            row = f"row {fields['id']!r}"
        if isinstance(fields, dict) and "kind" in fields:
            return OpenLabel.model_validate(fields)
        label = Label.model_validate(fields)
        fault = check_arguments(label.answer, label.options)
    except ValidationError as error:
        fault = _explain(error.errors()[0], "label")
    except (TypeError, ValueError, RecursionError):
        fault = f"label {text!r:.200} is not a JSON object, or has a key twice"
    if fault:
        raise ValueError(f"{row}: {fault}. Prepare the data again (`make prep`).")
    return label


def _explain(fault: Any, root: str) -> str:
    """Write a fault that pydantic found as `key=value: what it may be`."""
    key = ".".join([root, *map(str, fault["loc"])])
    value = "null" if fault["input"] is None else str(fault["input"])[:200]
    value = value if value.isprintable() else ascii(value)
    allowed = fault["msg"].replace("Input should be", "must be").replace("None", "null")
    return f"{key}={value}: {allowed}"


def strip_prompt(query: str, prompt: str) -> str:
    """Return the response: `query`, the decoded prompt and response, without `prompt`.

    Raises ValueError where the engine cut the prompt: tags in it would be judged as the response's.
    """
    if not query.startswith(prompt):
        raise ValueError(
            f"the query does not begin with its prompt, {prompt[:80]!r}, but with {query[:80]!r}: "
            "it was cut to fit. Raise data.max_len, or prepare with a lower token limit."
        )
    return query.removeprefix(prompt)


def judge_response(response: str, label: Label | OpenLabel, settings: Settings) -> Verdict:
    """Judge `response` by its label: a choice, or an open answer."""
    if isinstance(label, Label):
        return verify(response, label.answer, label.options, settings.mode)
    return verify_open(response, find_reader(label.model_dump()), mode=settings.mode)


def score_response(
    response: str, label: Label | OpenLabel, settings: Settings, likelihood: float | None = None
) -> tuple[Verdict, dict[str, Any]]:
    """Judge `response` and build the engine's reply, all plain floats.

    likelihood: of the reference, for `reward.kind=likelihood`; takes the place of right or wrong.
    rewards: the shaped reward; for rows of another split than `train` accuracy, since the engine
    reports their mean as `pass1`. scores: accuracy, for dynamic filtering. extra_logs: the signals.
    """
    verdict = judge_response(response, label, settings)
    signals = measure_signals(response, verdict, label.options)
    reward = accuracy = signals["accuracy"]
    if label.split == "train":  # a control touches the reward alone
        right: float = find_truth(verdict, response, label, settings)
        options = settings.options
        if settings.kind != "verdict":
            if likelihood is None:
                raise ValueError(f"reward.kind={settings.kind} needs reward.hook=agent")
            right = signals["likelihood"] = likelihood
        if settings.control == "wrong_penalty":
            options = options.model_copy(update={"wrong": WRONG_PENALTY})
        reward = float(shape_reward(right, verdict.format_ok, signals, options))
    return verdict, {"rewards": reward, "scores": accuracy, "extra_logs": signals}


def shape_reward(
    right: float, format_ok: bool, signals: dict[str, float], options: RewardOptions
) -> float:
    """Compute a training sample's reward. right: from 0 (the value of wrong) to 1 (of correct)."""
    if not format_ok:
        return options.format_failed
    reward = options.correct * right + options.wrong * (1 - right)
    reward -= options.leak_penalty * signals["leak"]
    reward -= options.pre_think_penalty * signals["pre_think"]
    words, excess = signals["think_words"], 0.0
    if words < options.min_words:
        excess = 1.0 - words / options.min_words
    elif options.max_words is not None and words > options.max_words:
        excess = min(1.0, words / options.max_words - 1.0)
    reward -= options.length_penalty * excess
    return max(reward, options.format_failed)


def find_truth(
    verdict: Verdict, response: str, label: Label | OpenLabel, settings: Settings
) -> bool:
    """Find out if a response counts as right in training.

    A control (`reward.control`) is a run to compare the true reward with. Three teach no medicine:
    `coin` tosses a coin seeded by row and response, `format_only` takes every answer for right,
    `shuffled_labels` takes another letter of the row for gold, always the same. `wrong_penalty`
    keeps the truth and makes a wrong answer cost 0.5. Logged accuracy stays true.
    """
    if settings.control == "coin":
        return bool(_draw(2, settings.seed, label.id, response))
    if settings.control == "format_only":
        return True
    if settings.control == "shuffled_labels":
        if not isinstance(label, Label):
            raise ValueError(f"row {label.id!r}: reward.control=shuffled_labels needs options")
        # 1 to count - 1 places on, so that it is never the gold letter itself
        count = len(label.options)
        place = LETTERS.index(label.answer) + 1 + _draw(count - 1, settings.seed, label.id)
        return verdict.choice == LETTERS[place % count]
    return verdict.correct


def _draw(below: int, *parts: object) -> int:
    """Draw a number from 0 to below - 1, the same for the same parts on every machine."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest(), "big") % below
