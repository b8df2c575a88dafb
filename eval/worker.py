"""Run vLLM for one model in its own process: both ends of the pipe between it and evaluation.

`run_engine` starts `python -m eval.worker FD`, gives it a job as JSON on standard input, and yields
the events that it writes to the pipe FD, one JSON object a line:

  {"event": "answers", "answers": [{response, tokens, truncated} or {error}, …]} for each chunk
  {"event": "done"}

A job: {model, engine, max_len, tasks: [task]}; a task: {letters, keep_special_tokens, sampling,
chunks: [[{text, seed, num_options}]]}. The process's end frees all memory; its output goes to
engine.log. It writes no results: if its parent is killed, its next line breaks the pipe.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
            env=ENVIRONMENT | os.environ,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            text=True,
        )
    # ours of the two ends must go, or the reader would never see the end of the worker's
    os.close(writer)
    finished = False
    try:
        with suppress(BrokenPipeError), process.stdin as given:  # type: ignore[union-attr]
            json.dump(job, given)  # if it died at once, its exit and its log say why
        with os.fdopen(reader) as events:
            for line in events:
                event = json.loads(line)
                finished = event["event"] == "done"
                yield event
    # also where the caller stops reading, or presses Ctrl-C
    except BaseException:
        process.terminate()
        raise
    finally:
        code = process.wait()
    if not finished:
        raise UserError(
            f"the engine stopped (exit status {code}) with {job['model']}: "
            f"{find_cause(log, begin)}; its log is {log}"
        )


def find_cause(log: Path, begin: int) -> str:
    """Find the log's last line from byte `begin` that names an exception, else its last line."""
    text = log.read_bytes()[begin:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # the last exception is the outermost; its text may have two more lines
    causes = [index for index, line in enumerate(lines) if CAUSE.match(line)]
    found = lines[causes[-1] : causes[-1] + 3] if causes else lines[-1:] or ["it wrote nothing"]
    return " ".join(found)[:400]


class Worker:
    """Hold a model in vLLM and answer chunks of prompts."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.llm = load_model(job)
        self.tokenizer = self.llm.get_tokenizer()
        # tokens by a prompt's last line and letter
        self.letters: dict[tuple[str, str], int] = {}
        # the token with which this tokenizer begins every text, if it does
        first = self.tokenizer.encode("A")[:1]
        self.bos = first if first == [self.tokenizer.bos_token_id] else []

    def answer_chunk(
        self, task: dict[str, Any], chunk: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Answer the prompts of one chunk; one that does not fit the model is an error."""
        from vllm.inputs import TokensPrompt

        limit = self.llm.model_config.max_model_len
        room = 1 if task["letters"] else task["sampling"]["max_new_tokens"]
        answers: list[dict[str, Any]] = []
        fitting: dict[int, list[int]] = {}
        # every prompt is an error until its answer comes
        for index, prompt in enumerate(chunk):
            tokens = self.encode(prompt["text"])
            sizes = f"{len(tokens)} tokens and {room} for the answer exceed {limit}"
            answers.append({"error": f"prompt_too_long: {sizes}"})
            if len(tokens) + room <= limit:
                fitting[index] = tokens

        # mode loglikelihood compares the letters' probabilities at one place
        letters: dict[int, dict[str, int]] = {}
        if task["letters"]:
            letters = {i: self.find_letters(chunk[i], tokens) for i, tokens in fitting.items()}
        outputs = self.llm.generate(
            # token ids, not text: vLLM would add special tokens
            [TokensPrompt(prompt_token_ids=tokens) for tokens in fitting.values()],
            [make_params(task, chunk[index], letters.get(index)) for index in fitting],
            use_tqdm=False,
        )
        for index, output in zip(fitting, outputs, strict=True):
            answers[index] = read_output(output.outputs[0], letters.get(index))
        return answers

    def encode(self, text: str) -> list[int]:
        """Encode a prompt as it is, with BOS once where the tokenizer begins texts with one."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids if ids[:1] == self.bos else [*self.bos, *ids]

    def find_letters(self, prompt: dict[str, Any], tokens: list[int]) -> dict[str, int]:
        """Find the token of each option's letter after this prompt.

        Tokenizers split at line breaks before they merge, and encoding a long prompt for each
        letter takes as long as the model itself: so once for each last line. Raises ValueError
        where a letter is not one token there.
        """
        line = prompt["text"].splitlines(keepends=True)[-1]
        letters = ascii_uppercase[: prompt["num_options"]]
        for letter in letters:
            if (line, letter) not in self.letters:
                # where the letter merges with the prompt's end, its probability cannot be asked
                whole = self.encode(prompt["text"] + letter)
                if len(whole) != len(tokens) + 1 or whole[:-1] != tokens:
                    raise ValueError(
                        f"mode loglikelihood needs letters of one token: {letter!r} is not one here"
                    )
                self.letters[line, letter] = whole[-1]
        return {letter: self.letters[line, letter] for letter in letters}


def load_model(job: dict[str, Any]) -> Any:
    """Load the model into vLLM, with what a machine without a GPU needs."""
    import torch
    from transformers import AutoConfig

    engine = dict(job["engine"])
    path, _, revision = job["model"].partition("@")
    # the smaller of what is asked for and what the model was made for; vLLM refuses more
    config = AutoConfig.from_pretrained(path, revision=revision or None)
    lengths = [getattr(config, "max_position_embeddings", None), job["max_len"]]
    max_len = min(filter(None, lengths), default=None)
    if not torch.cuda.is_available():
        # vLLM would compile a few lines of its sampler: seconds to save milliseconds
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        engine.pop("gpu_memory_utilization", None)
        # Between the parts of a prompt vLLM rewinds the seeded generator, which a CPU generator
        # cannot do (vllm/v1/worker/gpu_model_runner.py, _bookkeeping_sync).
        engine |= {"enforce_eager": True, "enable_chunked_prefill": False}
        engine.setdefault("max_num_batched_tokens", max(8192, max_len or 0))
    from vllm import LLM

    engine |= {"model": path, "revision": revision or None, "max_model_len": max_len}
    return LLM(disable_log_stats=True, **engine)


def make_params(
    task: dict[str, Any], prompt: dict[str, Any], letters: dict[str, int] | None
) -> Any:
    """Make vLLM's sampling parameters for one prompt."""
    from vllm import SamplingParams

    if letters is not None:
        # one token is made and thrown away: only the log-probabilities count
        tokens = list(letters.values())
        return SamplingParams(
            max_tokens=1, temperature=0.0, detokenize=False, logprob_token_ids=tokens
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
    truncated = output.finish_reason == "length"
    return {"response": output.text, "tokens": len(output.token_ids), "truncated": truncated}


def main() -> None:
    """Answer the job on standard input; write events to the pipe whose descriptor is argv[1]."""
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as events:
        job = json.load(sys.stdin)
        worker = Worker(job)
        for task in job["tasks"]:
            # Chunks are cut before anything is asked, and each begins with an empty cache: what is
            # computed together, and so every rounding, is the same when a killed run continues.
            for chunk in task["chunks"]:
                worker.llm.reset_prefix_cache()
                answers = worker.answer_chunk(task, chunk)
                print(json.dumps({"event": "answers", "answers": answers}), file=events, flush=True)
        print(json.dumps({"event": "done"}), file=events, flush=True)


if __name__ == "__main__":
    main()
