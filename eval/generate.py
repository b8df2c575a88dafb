"""The process that holds one model: takes a job on standard input, answers with JSON lines on a pipe.

Started by eval/engine.py as `python -m eval.generate FD`; a process of its own, so that its end frees all memory and
its log (standard output and error) can go to a file. Nothing is written here: were the parent killed, the next line
would break the pipe and end this process.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from string import ascii_uppercase
from typing import Any


def main(descriptor: int) -> None:
    """Reads {model, engine, max_len, tasks: [{key, letters, sampling, chunks: [[{text, seed, num_options}]]}]}."""
    events = os.fdopen(descriptor, "w", buffering=1)
    job = json.load(sys.stdin)

    def send(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    gc.disable()  # a quarter of the time of these imports is the collector's, which finds nothing in them
    import torch

    if (
        not torch.cuda.is_available()
    ):  # vLLM compiles a few lines of its sampler: seconds to save milliseconds
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    from tqdm import tqdm
    from vllm import LLM
    from vllm.inputs import TokensPrompt

    gc.freeze()
    gc.enable()

    class Bar(tqdm):  # vLLM takes any tqdm: this one reports instead of drawing
        def update(self, n: float | None = 1) -> bool | None:
            send(event="progress", done=n)
            return super().update(n)

        def __iter__(self) -> Iterator[Any]:
            return iter(self.iterable)  # "Rendering prompts" runs over the prompts: no answers yet

        def display(self, *_: Any, **__: Any) -> None:
            pass

    path, _, revision = job["model"].partition("@")
    max_len = find_max_len(path, revision, job["max_len"])
    engine = job["engine"]
    if not torch.cuda.is_available():
        engine = {key: value for key, value in engine.items() if key != "gpu_memory_utilization"}
        engine["enforce_eager"] = True
        # Between the parts of a prompt vLLM rewinds the seeded generator, which a CPU generator cannot do
        # (vllm/v1/worker/gpu_model_runner.py, _bookkeeping_sync).
        engine["enable_chunked_prefill"] = False
        engine.setdefault(
            "max_num_batched_tokens", max(8192, max_len or 0)
        )  # a fifth faster than the default
    llm = LLM(
        model=path,
        revision=revision or None,
        max_model_len=max_len,
        enable_prefix_caching=True,
        disable_log_stats=True,
        **engine,
    )
    tokenizer = llm.get_tokenizer()
    limit = llm.model_config.max_model_len
    send(event="loaded", max_len=limit)

    known: dict[tuple[str, str], int] = {}
    for task in job["tasks"]:
        # Chunks are cut before anything is asked and each begins with an empty cache: what is computed together, and
        # so every rounding, is the same when a killed run goes on at a chunk's border.
        for chunk in task["chunks"]:
            tokens = [
                tokenizer.encode(prompt["text"], add_special_tokens=False) for prompt in chunk
            ]
            room = 1 if task["letters"] else task["sampling"]["max_new_tokens"]
            too_long = "prompt_too_long: {} tokens and {} for the answer exceed {}"
            answers: list[dict[str, Any]] = [
                {"error": too_long.format(len(ids), room, limit)} for ids in tokens
            ]
            fitting = [index for index, ids in enumerate(tokens) if len(ids) + room <= limit]
            send(event="progress", done=len(chunk) - len(fitting))
            letters = {
                index: find_letters(chunk[index], tokens[index], tokenizer, known)
                for index in fitting
                if task["letters"]
            }
            llm.reset_prefix_cache()
            outputs = llm.generate(
                [TokensPrompt(prompt_token_ids=tokens[index]) for index in fitting],
                [make_params(task, chunk[index], letters.get(index)) for index in fitting],
                use_tqdm=Bar,
            )
            for index, output in zip(fitting, outputs, strict=True):
                answers[index] = read_output(output.outputs[0], letters.get(index))
            send(event="answers", task=task["key"], answers=answers)
    send(event="done")
    events.close()
    sys.stdout.flush()
    if job["engine"].get("tensor_parallel_size", 1) == 1:
        os._exit(0)  # vLLM's and nanobind's farewells say nothing and take seconds


def find_max_len(path: str, revision: str, max_len: int | None) -> int | None:
    """The smaller of what is asked for and what the model was made for; vLLM refuses more."""
    from transformers import AutoConfig

    own = getattr(
        AutoConfig.from_pretrained(path, revision=revision or None), "max_position_embeddings", None
    )
    return min(filter(None, (own, max_len)), default=None)


def make_params(
    task: dict[str, Any], prompt: dict[str, Any], letters: dict[str, int] | None
) -> Any:
    """vLLM's sampling parameters for one prompt."""
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
        seed=prompt["seed"] if sampling["temperature"] > 0 else None,
        skip_special_tokens=bool(
            sampling["stop"]
        ),  # mode think sees what the reward saw in training
    )


def find_letters(
    prompt: dict[str, Any], tokens: list[int], tokenizer: Any, known: dict[tuple[str, str], int]
) -> dict[str, int]:
    """The token of each option's letter after this prompt. Raises ValueError where a letter is not one token there.

    known: filled with the tokens by the prompt's last line and letter, which decide them: tokenizers split at line
    breaks before they merge. To encode a long prompt again for each letter takes as long as the model's own answer.
    """
    line = prompt["text"].splitlines(keepends=True)[-1]
    ids = {}
    for letter in ascii_uppercase[: prompt["num_options"]]:
        if (line, letter) not in known:
            whole = tokenizer.encode(prompt["text"] + letter, add_special_tokens=False)
            if len(whole) != len(tokens) + 1 or whole[:-1] != tokens:
                raise ValueError(
                    f"mode loglikelihood needs letters of one token: {letter!r} after the prompt is not one"
                )
            known[line, letter] = whole[-1]
        ids[letter] = known[line, letter]
    return ids


def read_output(output: Any, letters: dict[str, int] | None) -> dict[str, Any]:
    """One answer: the text, or the letter of the highest log-probability (the first of equal ones)."""
    if letters is not None:
        scores = {letter: output.logprobs[0][token].logprob for letter, token in letters.items()}
        return {"response": max(scores, key=scores.__getitem__), "scores": scores}
    return {
        "response": output.text,
        "tokens": len(output.token_ids),
        "truncated": output.finish_reason == "length",
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
