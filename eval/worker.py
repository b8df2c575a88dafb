"""Run vLLM for one model in its own process: both ends of the pipe between it and evaluation.

`run_engine` starts `python -m eval.worker FD`, hands it a job as JSON on standard input, and yields
the events that it writes to the pipe FD, one JSON object a line:

  {"event": "loaded"}    {"event": "progress", "done": n}    {"event": "done"}
  {"event": "answers", "task": key, "answers": [{response, tokens, truncated} or {error}, …]}

A job: {model, engine, max_len, tasks: [task]}; a task: {key, letters, keep_special_tokens,
sampling, chunks: [[{text, seed, num_options}]]}. The process's end frees all memory; its output
goes to engine.log. It writes no results: if its parent is killed, its next line breaks the pipe.
"""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from data_prep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the process holds one engine: no second process
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CAUSE = re.compile(r"(?:\[rank\d+\]: )?[\w.]*(?:Error|Exception|Interrupt)\b")  # ValueError: no …

Send = Callable[..., None]


def run_engine(job: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a worker with this job. Raises UserError where it stops too early."""
    reader, writer = os.pipe()
    with log.open("a") as output:
        output.write(f"\n=== {job['model']}\n")
        output.flush()
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "eval.worker", str(writer)],
            cwd=ROOT,
            env={**ENVIRONMENT, **os.environ},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            text=True,
        )
    os.close(writer)
    assert process.stdin is not None
    finished = False
    try:
        with suppress(BrokenPipeError):  # it died at once: its exit and its log say why
            json.dump(job, process.stdin)
            process.stdin.close()
        with os.fdopen(reader) as events:
            for line in events:
                event = json.loads(line)
                finished = event["event"] == "done"
                yield event
    except BaseException:
        process.terminate()
        raise
    finally:
        code = process.wait()
    if not finished:
        cause = find_cause(log, begin)
        raise UserError(
            f"the engine stopped (exit status {code}) with {job['model']}: {cause}; its log is "
            f"{log}"
        )


def find_cause(log: Path, begin: int) -> str:
    """Find the log's last line from byte `begin` that names an exception, else its last line."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    causes = [index for index, line in enumerate(lines) if CAUSE.match(line)]
    found = lines[causes[-1] : causes[-1] + 3] if causes else lines[-1:] or ["it wrote nothing"]
    return " ".join(line.strip() for line in found)[:400]


def answer_job(job: dict[str, Any], send: Send) -> None:
    """Load the job's model and answer its tasks, chunk by chunk."""
    llm = load_model(job)
    tokenizer = llm.get_tokenizer()
    send(event="loaded")
    known: dict[tuple[str, str], int] = {}
    for task in job["tasks"]:
        # Chunks are cut before anything is asked, and each begins with an empty cache: what is
        # computed together, and so every rounding, is the same when a killed run continues.
        for chunk in task["chunks"]:
            llm.reset_prefix_cache()
            answers = answer_chunk(llm, tokenizer, task, chunk, known, send)
            send(event="answers", task=task["key"], answers=answers)
    send(event="done")


def load_model(job: dict[str, Any]) -> Any:
    """Load the model into vLLM, with what a machine without a GPU needs."""
    import torch

    engine = dict(job["engine"])
    path, _, revision = job["model"].partition("@")
    max_len = find_max_len(path, revision, job["max_len"])
    if not torch.cuda.is_available():
        # vLLM would compile a few lines of its sampler: seconds to save milliseconds
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        engine.pop("gpu_memory_utilization", None)
        # Between the parts of a prompt vLLM rewinds the seeded generator, which a CPU generator
        # cannot do (vllm/v1/worker/gpu_model_runner.py, _bookkeeping_sync).
        engine |= {"enforce_eager": True, "enable_chunked_prefill": False}
        engine.setdefault("max_num_batched_tokens", max(8192, max_len or 0))
    from vllm import LLM

    return LLM(
        model=path,
        revision=revision or None,
        max_model_len=max_len,
        disable_log_stats=True,
        **engine,
    )


def find_max_len(path: str, revision: str, max_len: int | None) -> int | None:
    """Find the smaller of what is asked for and what the model was made for; vLLM refuses more."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, revision=revision or None)
    own = getattr(config, "max_position_embeddings", None)
    return min(filter(None, (own, max_len)), default=None)


def answer_chunk(
    llm: Any,
    tokenizer: Any,
    task: dict[str, Any],
    chunk: list[dict[str, Any]],
    known: dict[tuple[str, str], int],
    send: Send,
) -> list[dict[str, Any]]:
    """Answer the prompts of one chunk; one that does not fit the model is an error, never cut."""
    from vllm.inputs import TokensPrompt

    limit = llm.model_config.max_model_len
    room = 1 if task["letters"] else task["sampling"]["max_new_tokens"]
    tokens = [encode_prompt(prompt["text"], tokenizer) for prompt in chunk]
    answers: list[dict[str, Any]] = [
        {"error": f"prompt_too_long: {len(ids)} tokens and {room} for the answer exceed {limit}"}
        for ids in tokens
    ]
    fitting = [index for index, ids in enumerate(tokens) if len(ids) + room <= limit]
    send(event="progress", done=len(chunk) - len(fitting))

    letters: dict[int, dict[str, int]] = {}
    if task["letters"]:
        letters = {i: find_letters(chunk[i], tokens[i], tokenizer, known) for i in fitting}
    # token ids, not text: vLLM would add special tokens
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=tokens[index]) for index in fitting],
        [make_params(task, chunk[index], letters.get(index)) for index in fitting],
        use_tqdm=make_bar(send),
    )
    for index, output in zip(fitting, outputs, strict=True):
        answers[index] = read_output(output.outputs[0], letters.get(index))
    return answers


def encode_prompt(text: str, tokenizer: Any) -> list[int]:
    """Encode a prompt as it is, with BOS once where the model's tokenizer begins texts with one."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    bos = find_bos(tokenizer)
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


@functools.cache
def find_bos(tokenizer: Any) -> int | None:
    """Find the token with which a tokenizer begins every text; None where it has no such habit."""
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer.encode("A")[:1] == [bos] else None


def find_letters(
    prompt: dict[str, Any], tokens: list[int], tokenizer: Any, known: dict[tuple[str, str], int]
) -> dict[str, int]:
    """Find the token of each option's letter after this prompt.

    known: tokens by the prompt's last line and letter, filled here. Tokenizers split at line breaks
    before they merge, and encoding a long prompt for each letter takes as long as the model itself.
    Raises ValueError where a letter is not one token there.
    """
    line = prompt["text"].splitlines(keepends=True)[-1]
    ids = {}
    for letter in ascii_uppercase[: prompt["num_options"]]:
        if (line, letter) not in known:
            whole = encode_prompt(prompt["text"] + letter, tokenizer)
            if len(whole) != len(tokens) + 1 or whole[:-1] != tokens:
                raise ValueError(
                    f"mode loglikelihood needs letters of one token: {letter!r} is not one here"
                )
            known[line, letter] = whole[-1]
        ids[letter] = known[line, letter]
    return ids


def make_params(
    task: dict[str, Any], prompt: dict[str, Any], letters: dict[str, int] | None
) -> Any:
    """Make vLLM's sampling parameters for one prompt."""
    from vllm import SamplingParams

    if letters is not None:
        ids = list(letters.values())
        return SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=ids, detokenize=False
        )
    sampling = task["sampling"]
    return SamplingParams(
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        max_tokens=sampling["max_new_tokens"],
        stop=sampling["stop"] or None,
        include_stop_str_in_output=True,
        seed=prompt["seed"] if sampling["temperature"] > 0 else None,
        # mode think sees what the reward saw in training
        skip_special_tokens=not task["keep_special_tokens"],
    )


def read_output(output: Any, letters: dict[str, int] | None) -> dict[str, Any]:
    """Read one answer: its text, or the letter of the highest log-probability (first of equals)."""
    if letters is not None:
        scores = {letter: output.logprobs[0][token].logprob for letter, token in letters.items()}
        return {"response": max(scores, key=scores.__getitem__), "scores": scores}
    return {
        "response": output.text,
        "tokens": len(output.token_ids),
        "truncated": output.finish_reason == "length",
    }


def make_bar(send: Send) -> type:
    """Make a progress bar for vLLM, which takes any tqdm, that reports instead of drawing."""
    from tqdm import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            send(event="progress", done=n)
            return super().update(n)

        def __iter__(self) -> Iterator[Any]:
            return iter(self.iterable)  # vLLM renders prompts under a bar too: no answers yet

        def display(self, *_: Any, **__: Any) -> None:
            pass

    return Bar


def main() -> None:
    """Answer the job on standard input; write events to the pipe whose descriptor is argv[1]."""
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as events:
        answer_job(
            json.load(sys.stdin), lambda **event: print(json.dumps(event), file=events, flush=True)
        )


if __name__ == "__main__":
    main()
