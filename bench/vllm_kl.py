"""Gap between vLLM's and transformers' log-probabilities of the same tokens, both in bf16: what `vllm_kl` rounds.

python bench/vllm_kl.py                                                  the laptop's model on the bank
python bench/vllm_kl.py models/smollm2-instruct data/smollm2/medqa 96    model, prepared data, questions

One response of at most 128 tokens to each question, temperature 1; CPU engine, no training. `vllm_kl` of a step is the
mean over its responses of each one's mean, so few or short responses make it uneven. fp32: the same weights, computed so.
"""

import os
import random
import statistics
import sys
from pathlib import Path

os.environ["MEDRLVR_CPU_ENGINE"] = "1"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from data_prep.prepared import open_prepared  # noqa: E402
from recipes.engine import cpu  # noqa: E402


def generate(model: str, prompts: list[str]) -> list[tuple[list[int], list[int], list[float]]]:
    """Generate a response to each prompt; return token ids of both and the response's log-probabilities."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model, dtype="bfloat16", max_model_len=1024, enforce_eager=True, disable_log_stats=True
    )
    settings = SamplingParams(temperature=1.0, max_tokens=128, logprobs=0, detokenize=False)
    found = []
    for request in engine.generate(prompts, settings, use_tqdm=False):
        response = request.outputs[0]
        chosen = [
            step[token].logprob
            for token, step in zip(response.token_ids, response.logprobs, strict=True)
        ]
        found.append((list(request.prompt_token_ids), list(response.token_ids), chosen))
    return found


def score(
    model: str, responses: list[tuple[list[int], list[int], list[float]]], dtype: str
) -> list[list[float]]:
    """Compute the same tokens' log-probabilities with transformers, as the trainer does."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    scores = []
    with torch.no_grad():
        for prompt, response, _ in responses:
            logits = (
                network(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].float()
            )
            chosen = torch.tensor(response)[:, None]
            scores.append(torch.log_softmax(logits, -1).gather(-1, chosen)[:, 0].tolist())
    return scores


def describe(name: str, left: list[list[float]], right: list[list[float]]) -> None:
    """Print the gap of two lists of log-probabilities, by token and by response."""
    gaps = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(left, right, strict=True)]
    tokens, means = (
        [gap for response in gaps for gap in response],
        [statistics.fmean(one) for one in gaps],
    )
    print(
        f"{name:22} mean {statistics.fmean(means):+.1e}, sd of a token {statistics.pstdev(tokens):.1e}, of a response "
        f"{statistics.stdev(means):.1e}, largest token {max(map(abs, tokens)):.2f} ({len(gaps)} responses, {len(tokens):,} tokens)"
    )


def main() -> None:
    """Generate once, score twice, print three gaps."""
    given = [*sys.argv[1:], *("recipes/laptop_model", "data/bank", "96")[len(sys.argv) - 1 :]]
    model, folder, count = str(ROOT / given[0]), ROOT / given[1], int(given[2])
    rows = random.Random(0).sample(
        open_prepared(folder, prepare="make prep").read_rows("train"), count
    )
    cpu.install_hooks()
    responses = generate(model, [row["prompt"] for row in rows])
    rollout, half, full = (
        [one[2] for one in responses],
        score(model, responses, "bfloat16"),
        score(model, responses, "float32"),
    )
    describe("vLLM − transformers", rollout, half)
    describe("vLLM − fp32", rollout, full)
    describe("transformers − fp32", half, full)


if __name__ == "__main__":
    main()
