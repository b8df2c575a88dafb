"""Score one sample: label in; verdict, reward and logged signals out.

Function, agent and HTTP server share this path, so the same sample gets the same reward on each.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.errors import UserError
from reward_server import shaping
from reward_server.signals import measure_signals
from reward_server.verifier import Verdict, check_arguments, verify

VARIABLE = "MEDRLVR_REWARD"
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Say how to judge: the recipe's `reward.mode`, `.options` and `.control`, and its seed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    mode: Literal["paper", "strict"] = "paper"
    options: shaping.RewardOptions = shaping.RewardOptions()
    control: Literal["coin", "format_only", "shuffled_labels", "wrong_penalty", None] = None
    seed: int = 0


class Label(BaseModel):
    """A row's label. step, episode: from 1, added by the trainer when it sends the prompt."""

    model_config = ConfigDict(strict=True, frozen=True)

    id: Text
    split: Text
    answer: str
    options: list[str]
    step: Count | None = None
    episode: Count | None = None


def check_settings(values: Any) -> list[str]:
    """List what is wrong, one line each: the recipe's key, its value and what it may be."""
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        return [_explain(fault, "reward") for fault in error.errors()]
    return []


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read $MEDRLVR_REWARD, a JSON object with mode, options, control, seed; each has a default.

    Raises UserError with what check_settings lists.
    """
    text = environ.get(VARIABLE) or "{}"
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{VARIABLE}={text!r:.200} is not JSON: {error}") from None
    if problems := check_settings(values):
        raise UserError(*problems)
    return Settings.model_validate(values)


def parse_label(text: str, prompt: str) -> Label:
    """Read a row's label, a JSON string. prompt: only named in errors, where there is no id.

    Raises ValueError that names the row, the value and the command that fixes it.
    """
    row = f"the prompt {prompt[-200:]!r}"
    try:
        fields = json.loads(text)
        if isinstance(fields, dict) and fields.get("id"):
            row = f"row {fields['id']!r}"
        label = Label.model_validate(fields)
        fault = check_arguments(label.answer, label.options)
    except ValidationError as error:
        fault = _explain(error.errors()[0], "label")
    except (TypeError, ValueError, RecursionError):
        fault = f"label {text!r:.200} is not a JSON object"
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

    Raises ValueError where `query` does not begin with `prompt`: the engine cut the prompt from the
    left, and its own tags would be judged as the response's.
    """
    if not query.startswith(prompt):
        raise ValueError(
            f"the query does not begin with its prompt: it begins {query[:80]!r}, the prompt "
            f"{prompt[:80]!r}. It was probably cut to fit data.max_len: raise data.max_len, or "
            "prepare with a lower token limit."
        )
    return query.removeprefix(prompt)


def score_response(
    response: str, label: Label, settings: Settings
) -> tuple[Verdict, dict[str, Any]]:
    """Judge `response` and build the engine's reply: rewards, scores, extra_logs, all plain floats.

    rewards: the shaped reward; accuracy (0 or 1) for rows of another split than `train`, since the
    engine reports the mean reward of an evaluation as `pass1`. scores: accuracy, which dynamic
    filtering wants within 0 to 1. extra_logs: every signal. Verdict, scores and signals are true,
    whatever the control.
    """
    verdict = verify(response, label.answer, label.options, settings.mode)
    signals = measure_signals(response, verdict, label.options)
    accuracy = signals["accuracy"]
    if label.split != "train":
        return verdict, {"rewards": accuracy, "scores": accuracy, "extra_logs": signals}

    options, rewarded = settings.options, verdict
    if settings.control == "wrong_penalty":
        options = options.model_copy(update={"wrong": shaping.WRONG_PENALTY})
    elif settings.control:
        row = (label.answer, len(label.options), settings.seed, label.id, response)
        truth = shaping.find_controlled_truth(settings.control, verdict, *row)
        rewarded = verdict._replace(correct=truth)
    reward = float(shaping.shape_reward(rewarded, signals, options))
    return verdict, {"rewards": reward, "scores": accuracy, "extra_logs": signals}
