"""Give OpenRLHF 0.11.2 its reward; the engine loads this one file by path. Two ways in:

    --train.agent_func_path reward_server/openrlhf_hook.py     AgentExecutor; the default
    --reward.remote_url reward_server/openrlhf_hook.py         reward_func

Both give the same rewards. Only the agent sees token counts and truncation, so only it writes the
rollouts. Environment, set by the launcher:

    PYTHONPATH                 must hold the project's root: this file imports its siblings
    MEDRLVR_REWARD             JSON of mode, options, control, seed: reward_server/scoring.py
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
    """Report a fault of the data or the set-up, found by `reward_func`.

    Not an Exception, since the engine swallows those (an INFO line, then an unrelated crash later);
    this one ends the run at once, with its message.
    """


def reward_func(
    queries: list[str], prompts: list[str], labels: list[str], **kwargs: Any
) -> dict[str, Any]:
    """Score one sample; the engine passes lists of one, from several threads.

    queries: prompt and response decoded, special tokens kept. labels: JSON strings.
    Returns rewards, scores and extra_logs, see `score_response`. Raises RewardFailure for a bad
    label, a cut prompt or lists that are not of length one; never for a response.
    """
    try:
        (query,), (prompt,), (label,) = queries, prompts, labels
        response = scoring.strip_prompt(query, prompt)
        return scoring.score_response(response, scoring.parse_label(label, prompt), SETTINGS)[1]
    except ValueError as error:
        raise RewardFailure(str(error)) from error


@cache
def define_agent_executor() -> type:
    """Define the class AgentExecutor on demand: `reward_func` needs neither OpenRLHF nor torch."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    from reward_server.client import RewardClient, read_token

    class AgentExecutor(SingleTurnAgentExecutor):
        """Score each response of OpenRLHF's single-turn executor and write it to the rollouts.

        Unlike the engine's own reward calls, its errors stop the run at once.
        """

        def __init__(self) -> None:
            super().__init__(None)  # no endpoint: the engine itself computes no reward
            urls = os.environ.get("MEDRLVR_REWARD_URL", "").replace(",", " ").split()
            patience = float(os.environ.get("MEDRLVR_REWARD_PATIENCE", "60"))
            self.client = RewardClient(urls, read_token(os.environ), patience) if urls else None
            self.rollouts = open_rollouts(os.environ.get("MEDRLVR_ROLLOUTS", ""))

        async def execute(
            self,
            prompt: str,
            label: str,
            sampling_params: Any,
            max_length: int,
            hf_tokenizer: Any,
            llm_engine: Any,
            images: Any = None,
        ) -> dict[str, Any]:
            """Generate one response; fill reward, scores and extra_logs into the engine's fields.

            Raises ValueError that names the row for a bad label, ConnectionError for a reward
            server that stays away.
            """
            row_label = scoring.parse_label(label, prompt)
            output = await super().execute(
                prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images=images
            )
            ((start, end),) = output["action_ranges"]
            response = hf_tokenizer.decode(
                output["observation_tokens"][start:end], skip_special_tokens=False
            )
            verdict, scored = scoring.score_response(response, row_label, SETTINGS)
            if self.client is not None:
                scored = await self.client.ask(prompt + response, prompt, label)
            output.update(
                reward=scored["rewards"], scores=scored["scores"], extra_logs=scored["extra_logs"]
            )
            if self.rollouts is not None:
                write_rollout(
                    self.rollouts, row_label, verdict, output, response, sampling_params.temperature
                )
            return output

    return AgentExecutor


def __getattr__(name: str) -> Any:
    if name == "AgentExecutor":
        return define_agent_executor()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    label: scoring.Label,
    verdict: Verdict,
    output: dict[str, Any],
    response: str,
    temperature: float,
) -> None:
    """Append one sample as one JSON line and flush it. output: the engine's, with its reward."""
    ((start, end),) = output["action_ranges"]
    row = {
        "id": label.id,
        "split": label.split,
        "step": label.step,
        "episode": label.episode,
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
