"""From one sample to what the engine wants back: label in, verdict, reward and logged values out.

The function, the agent and the HTTP server share this path, so that the same sample gets the same reward on each.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from reward_server.repetition import measure_repetition
from reward_server.shaping import RewardOptions, parse_options, shape_reward
from reward_server.tags import is_blank
from reward_server.verifier import MODES, Verdict, check_arguments, leak, verify


class Label(NamedTuple):
    """A row's label. step, episode: counted from 1, added by the trainer when it sends the prompt; None without."""

    id: str
    answer: str
    num_options: int
    split: str
    step: int | None
    episode: int | None


class Settings(NamedTuple):
    """How to judge. mode: of `verify`. options: see reward_server/shaping.py."""

    mode: str
    options: RewardOptions


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from $MEDRLVR_REWARD_MODE (default `paper`) and $MEDRLVR_REWARD_OPTIONS (default none).

    Raises ValueError that names the variable.
    """
    mode = environ.get("MEDRLVR_REWARD_MODE", "paper")
    if mode not in MODES:
        raise ValueError(f"MEDRLVR_REWARD_MODE={mode!r} is not one of {', '.join(MODES)}")
    try:
        return Settings(mode, parse_options(environ.get("MEDRLVR_REWARD_OPTIONS", "")))
    except ValueError as error:
        raise ValueError(f"MEDRLVR_REWARD_OPTIONS: {error}") from None


def parse_label(text: str, prompt: str) -> Label:
    """Read a label, the JSON string of DESIGN section 3. prompt: only named in errors, where the label has no id.

    Raises ValueError that names the row, the value and the command that mends it.
    """
    try:
        fields = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise _name_bad_label(
            f"the prompt {prompt[-200:]!r}", f"label {text!r:.200} is not a JSON object"
        )
    row = f"row {fields['id']!r}" if fields.get("id") else f"the prompt {prompt[-200:]!r}"
    for key, kind in (("id", str), ("answer", str), ("num_options", int), ("split", str)):
        if type(fields.get(key)) is not kind or fields[key] == "":
            raise _name_bad_label(
                row, f"label has {key}={fields.get(key)!r}, which must be a {kind.__name__}"
            )
    for key in ("step", "episode"):
        if fields.get(key) is not None and (type(fields[key]) is not int or fields[key] < 0):
            raise _name_bad_label(
                row, f"label has {key}={fields[key]!r}, which must be a number counted from 1"
            )
    label = Label(
        fields["id"],
        fields["answer"],
        fields["num_options"],
        fields["split"],
        fields.get("step"),
        fields.get("episode"),
    )
    if fault := check_arguments(label.answer, label.num_options):
        raise _name_bad_label(row, fault)
    return label


def strip_prompt(query: str, prompt: str) -> str:
    """The response: `query`, the decoded prompt and response, without `prompt`.

    Raises ValueError where `query` does not begin with `prompt`: the engine cut the prompt from the left, and its own
    tags would be judged as the response's.
    """
    if not query.startswith(prompt):
        raise ValueError(
            f"the query does not begin with its prompt, which was probably cut to fit data.max_len: it begins "
            f"{query[:80]!r}, the prompt {prompt[:80]!r}. Raise data.max_len or prepare with a lower token limit."
        )
    return query.removeprefix(prompt)


def score_response(
    response: str, label: Label, settings: Settings
) -> tuple[Verdict, dict[str, Any]]:
    """The verdict on `response`, and the engine's reply for it: rewards, scores and extra_logs, all plain floats.

    rewards: the shaped reward; for rows that are not of the split `train`, accuracy (0 or 1), since the engine reports
    the mean reward of an evaluation as `pass1`. scores: accuracy, which dynamic filtering wants within 0 to 1.
    extra_logs: always the same keys, or the engine cannot batch the samples; think_words is 0 without a `<think>`,
    pre_think and pre_think_words are 0 where the format is not followed. The training phases and monitors read them.
    """
    verdict = verify(response, label.answer, label.num_options, settings.mode)
    accuracy = float(verdict.correct)
    logs = {
        "accuracy": accuracy,
        "format": float(verdict.format_ok),
        "leak": leak(verdict),
        "pre_think": float(verdict.format_ok and not is_blank(verdict.pre_think or "")),
        "think_words": float(len((verdict.think or "").split())),
        "pre_think_words": float(
            len((verdict.pre_think or "").split()) if verdict.format_ok else 0
        ),
        "repetition": measure_repetition(response),
    }
    reward = accuracy
    if label.split == "train":
        reward = shape_reward(
            verdict.format_ok,
            verdict.correct,
            bool(logs["leak"]),
            bool(logs["pre_think"]),
            int(logs["think_words"]),
            settings.options,
        )
    return verdict, {"rewards": reward, "scores": accuracy, "extra_logs": logs}


def _name_bad_label(row: str, what: str) -> ValueError:
    return ValueError(f"{row}: {what}. Prepare the data again (`make prep`).")
