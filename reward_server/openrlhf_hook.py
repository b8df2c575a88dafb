"""Give OpenRLHF 0.11.2 its reward; the engine loads this one file by path. Two ways in:

    --train.agent_func_path reward_server/openrlhf_hook.py     AgentExecutor; the default
    --reward.remote_url reward_server/openrlhf_hook.py         reward_func

Both give the same rewards; only the agent sees tokens and truncation, and writes the rollouts.
The launcher sets, besides PYTHONPATH with the project's root:

    MEDRLVR_REWARD             JSON of mode, kind, options, control, seed: reward_server/scoring.py
    MEDRLVR_ROLLOUTS           folder for the rollouts, one file per process; unset: none
    MEDRLVR_REWARD_URL         the agent asks this server (several: comma-separated) for rewards
    MEDRLVR_REWARD_TOKEN       the server's token, where it needs one
    MEDRLVR_REWARD_PATIENCE    seconds to wait for a server that does not answer (default 60)
"""

import json
import os
import socket
import time
from functools import cache
from pathlib import Path
from typing import Any, TextIO

try:
    from reward_server import scoring
    from reward_server.verifier import Verdict
except ModuleNotFoundError as error:
    root = Path(__file__).parents[1]
    raise ModuleNotFoundError(f"{error}. Set PYTHONPATH={root} before Ray starts.") from error

SETTINGS = scoring.read_settings(os.environ)


class RewardFailure(BaseException):
    """Report a fault of the data or the set-up, and end the run at once.

    Not an Exception: the engine swallows those (an INFO line, then an unrelated crash later).
    """


def reward_func(
    queries: list[str], prompts: list[str], labels: list[str], **kwargs: Any
) -> dict[str, Any]:
    """Score one sample; the engine passes lists of one, from several threads.

    Raises RewardFailure for a bad label, a cut prompt or lists that are not of length one.
    """
    try:
        (query,), (prompt,), (label,) = queries, prompts, labels
        response = scoring.strip_prompt(query, prompt)
        return scoring.score_response(response, scoring.parse_label(label, prompt), SETTINGS)[1]
    except ValueError as error:
        raise RewardFailure(str(error)) from error


@cache
def __getattr__(name: str) -> Any:
    """Define the class AgentExecutor on demand: `reward_func` needs neither OpenRLHF nor torch."""
    if name != "AgentExecutor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from openrlhf.utils.agent import SingleTurnAgentExecutor
    from vllm.sampling_params import RequestOutputKind

    from reward_server.client import RewardClient, read_token
    from reward_server.likelihood import measure_likelihood

    class AgentExecutor(SingleTurnAgentExecutor):
        """Score each response and write it to the rollouts; unlike the engine's, errors stop it."""

        def __init__(self) -> None:
            super().__init__(None)  # no endpoint: the engine itself computes no reward
            urls = os.environ.get("MEDRLVR_REWARD_URL", "").replace(",", " ").split()
            patience = float(os.environ.get("MEDRLVR_REWARD_PATIENCE", "60"))
            self.client = RewardClient(urls, read_token(os.environ), patience) if urls else None
            self.rollouts = open_rollouts(os.environ.get("MEDRLVR_ROLLOUTS", ""))

        async def execute(
            self, prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images=None
        ):
            """Generate one response; fill in reward, scores and extra_logs. Raises on any fault."""
            row_label = scoring.parse_label(label, prompt)
            # not every token's text, one by one: the tokens are read at the end
            sampling_params.output_kind = RequestOutputKind.FINAL_ONLY
            sampling_params.detokenize = False
            output = await super().execute(
                prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images=images
            )
            ((start, end),) = output["action_ranges"]
            tokens = output["observation_tokens"][start:end]
            response = hf_tokenizer.decode(tokens, skip_special_tokens=False)
            likelihood = 0.0
            # only rows of training are rewarded by it, and only where the format is followed
            asked = SETTINGS.kind != "verdict" and row_label.split == "train"
            if asked and scoring.judge_response(response, row_label, SETTINGS).format_ok:
                likelihood = await measure_likelihood(
                    llm_engine, hf_tokenizer, prompt, response, row_label, SETTINGS.kind, max_length
                )
            verdict, scored = scoring.score_response(response, row_label, SETTINGS, likelihood)
            if self.client is not None:
                scored = await self.client.ask(prompt + response, prompt, label)
            output["reward"] = scored.pop("rewards")
            output.update(scored)
            if self.rollouts is not None:
                temperature = sampling_params.temperature
                write_rollout(self.rollouts, row_label, verdict, output, response, temperature)
            return output

    return AgentExecutor


def open_rollouts(folder: str) -> TextIO | None:
    """Open this process' own file in `folder`, to append to; None for an empty `folder`."""
    if not folder:
        return None
    path = Path(folder) / f"{socket.gethostname()}-{os.getpid()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    # a lone surrogate cannot be UTF-8; written as \udXXX it is valid JSON and reads back
    return path.open("a", encoding="utf-8", errors="backslashreplace")


def write_rollout(
    rollouts: TextIO,
    label: scoring.Label | scoring.OpenLabel,
    verdict: Verdict,
    output: dict[str, Any],
    response: str,
    temperature: float,
) -> None:
    """Append one sample as one JSON line and flush it. output: the engine's, with its reward."""
    ((start, end),) = output["action_ranges"]
    # what a right answer is, is in train.jsonl by the row's id
    row = label.model_dump(include={"id", "split", "step", "episode"})
    row |= {
        "prompt_tokens": start,
        "response_tokens": end - start,
        "truncated": output["truncated"],
        "temperature": temperature,
        "response": response,
        "reward": output["reward"],
        "format_ok": verdict.format_ok,
        "correct": verdict.correct,
        "choice": verdict.choice,
        "reason": verdict.reason,
        "time": round(time.time(), 3),
    }
    rollouts.write(json.dumps(row, ensure_ascii=False) + "\n")
    rollouts.flush()
