"""Measure how probable a response's reasoning makes the reference: `reward.kind=likelihood`.

likelihood       mean probability of the reference's tokens in the place of the model's own answer
likelihood_gain  that, less the same after an empty reasoning; 0 where the reasoning is no help
likelihood_joint product of these probabilities: that of the whole reference

No rule reads an answer, so a reference may be a phrase that nobody repeats word for word. The
engine that sampled the response is asked: one pass over it, or two, and no second model.
"""

from math import exp, prod
from statistics import fmean
from typing import Any

from reward_server.tags import TAG


async def measure_likelihood(
    engine: Any, tokenizer: Any, prompt: str, response: str, label: Any, kind: str, most: int
) -> float:
    """Measure the likelihood of the label's first reference, 0 to 1, after a response's reasoning.

    engine: OpenRLHF's rollout actor. response: one that follows the format. most: tokens that the
    engine takes; a reference that does not fit counts 0, like an answer that was cut.
    """
    *before, body, end, _ = TAG.split(response)
    gap = body[: len(body) - len(body.lstrip())]
    # The reference stands where the answer stood, so that its tokens are those of a real answer.
    after = body[len(body.rstrip()) :] + end
    pieces = ["".join(before) + gap]
    if kind == "likelihood_gain":  # text before <think> is reasoning too
        pieces.append("".join(["<think> </think>", *before[4:], gap]))
    found = []
    for piece in pieces:
        texts = (prompt, piece, label.references[0], after)
        probabilities = await find_probabilities(engine, tokenizer, *texts, most) or [0.0]
        found.append(prod(probabilities) if kind == "likelihood_joint" else fmean(probabilities))
    return max(0.0, found[0] - sum(found[1:]))


async def find_probabilities(
    engine: Any, tokenizer: Any, prompt: str, before: str, reference: str, after: str, most: int
) -> list[float]:
    """Find the probability of each of the reference's tokens between two texts, at temperature 1.

    Empty where all of it does not fit into `most` tokens.
    """
    from vllm import SamplingParams

    # the engine too encodes prompts apart and without special tokens
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    text = before + reference + after
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start, end = len(before), len(before) + len(reference)
    places = [
        len(ids) + number
        for number, (first, last) in enumerate(encoded["offset_mapping"])
        if first < end and last > start
    ]
    ids = ids + encoded["input_ids"]
    if len(ids) + 1 > most:
        return []
    # vLLM gives the prompt's own tokens for 0, and makes one token that nobody reads
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    output = await engine.generate(ids, params)
    return [exp(output.prompt_logprobs[place][ids[place]].logprob) for place in places]
