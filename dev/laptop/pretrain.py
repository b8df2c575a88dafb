"""Make the laptop's base model: recipes/laptop_model, from the documents of dev/laptop/documents.py.

make laptop-model       # two phases: knowledge, format and letters; then haste, continued with --start

A Qwen2 of about 0.9 M parameters with tied embeddings, like Qwen2.5-3B, and a byte-level BPE tokenizer with Qwen2.5's
pre-tokenisation and special tokens, so that any text goes through. The result is committed; this script, its seed and
tests/test_laptop_model.py are its provenance. Half an hour on 2 cores.
"""

import argparse
import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL_FOLDER = Path(__file__).parents[2] / "recipes" / "laptop_model"
# Qwen2Tokenizer's pattern (transformers, models/qwen2/tokenization_qwen2.py).
PRETOKENIZE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,  # head size 32, the least that vLLM's CPU attention takes
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "initializer_range": 0.06,  # Qwen's 0.02 is for wide models; here attention would take three times as long to form
}
PROMPT_WEIGHT = (
    0.1  # of a prompt token's loss next to a response token's: the prompt is there to be read
)
# Of an option letter in a response, the hardest to learn. In a list document nothing else is to be learnt; among the
# facts a weight this high would leave them unlearnt.
LIST_LETTER_WEIGHT, LETTER_WEIGHT = 10.0, 2.0
IGNORED = -100


def train_tokenizer(texts: Iterator[str], vocab_size: int, folder: Path) -> Any:
    """Train and save the tokenizer; returns it as transformers' PreTrainedTokenizerFast."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # BPE over bytes: every text has tokens, and none is unknown
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
    )
    fast.save_pretrained(folder)
    return fast


def build_batches(
    rows: list[dict[str, str]], tokenizer: Any, batch_size: int, seed: int
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (input_ids, labels, weights), each (batch, time), of documents of like length, in random order."""
    import torch

    rng = random.Random(seed)
    letters = torch.tensor([tokenizer.encode(f" {letter}")[0] for letter in "ABCDEFGHIJ"])
    window = batch_size * 50  # tokenised and sorted by length together
    for start in range(0, len(rows), window):
        block = rows[start : start + window]
        prompts = tokenizer([row["prompt"] for row in block], add_special_tokens=False)["input_ids"]
        responses = tokenizer([row["response"] for row in block], add_special_tokens=False)[
            "input_ids"
        ]
        order = sorted(range(len(block)), key=lambda i: len(prompts[i]) + len(responses[i]))
        batches = [
            order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)
        ]
        rng.shuffle(batches)
        for batch in batches:
            length = max(len(prompts[i]) + len(responses[i]) + 1 for i in batch)
            ids = torch.full((batch_size, length), tokenizer.pad_token_id)
            labels = torch.full((batch_size, length), IGNORED)
            weights = torch.zeros(batch_size, length)
            for line, i in enumerate(batch):
                is_list = block[i]["prompt"].startswith(
                    "A. "
                )  # a list document has neither instruction nor question
                weight = LIST_LETTER_WEIGHT if is_list else LETTER_WEIGHT
                tokens = torch.tensor([*prompts[i], *responses[i], tokenizer.eos_token_id])
                ids[line, : len(tokens)] = labels[line, : len(tokens)] = tokens
                weights[line, : len(tokens)] = torch.where(torch.isin(tokens, letters), weight, 1.0)
                weights[line, : len(prompts[i])] = PROMPT_WEIGHT
            yield ids, labels, weights


def build_model(
    rows: list[dict[str, str]], vocab_size: int, folder: Path, seed: int
) -> tuple[Any, Any]:
    """A tokenizer trained on the documents, saved in `folder`, and a model with random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(
        (row["prompt"] + row["response"] for row in rows[::4]), vocab_size, folder
    )
    eos = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer), eos_token_id=eos, bos_token_id=None, pad_token_id=eos, **SHAPE
    )
    torch.manual_seed(seed)
    return tokenizer, Qwen2ForCausalLM(config)


def load_model(start: Path, folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model of `start`, the model in float32. The tokenizer's files are copied to `folder` as they are:
    prepared data knows them by their hash.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    for path in start.glob("tokenizer*.json"):
        shutil.copyfile(path, folder / path.name)
    return AutoTokenizer.from_pretrained(start), AutoModelForCausalLM.from_pretrained(start).float()


def pretrain(
    documents: Path,
    folder: Path,
    start: Path | None,
    vocab_size: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> None:
    """Train on the documents, once through, and save tokenizer and model as bf16 Hugging Face files.

    start: a model to continue from; None makes a new tokenizer and model.
    """
    import torch
    from rich.progress import track

    rows = [json.loads(line) for line in documents.open(encoding="utf-8")]
    tokenizer, model = (
        load_model(start, folder) if start else build_model(rows, vocab_size, folder, seed)
    )
    model.set_attn_implementation(
        "eager"
    )  # a quarter faster than sdpa for the backward pass on CPU
    steps = sum(
        len(rows[start : start + batch_size * 50]) // batch_size
        for start in range(0, len(rows), batch_size * 50)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
    )
    batches = build_batches(rows, tokenizer, batch_size, seed)
    print(f"{model.num_parameters():,} parameters, {len(rows):,} documents, {steps:,} steps")
    smooth, smooth_right = None, 0.0
    for step, (ids, labels, weights) in enumerate(track(batches, "pre-training", total=steps), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels[:, 1:].flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        weight = weights[:, 1:].flatten()
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        letters = weights[:, 1:] > 1.0
        if letters.any():  # prose alone has none
            right = (logits.argmax(-1) == labels[:, 1:])[letters].float().mean().item()
            smooth_right = 0.95 * smooth_right + 0.05 * right
        if step % 50 == 0 or step == steps:
            print(f"step {step:,}: loss {smooth:.3f}, letters {smooth_right:.0%} right", flush=True)
        if step % 250 == 0 or step == steps:
            copy.deepcopy(model).bfloat16().save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=Path, default=Path("data/bank/documents.jsonl"))
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument(
        "--start",
        type=Path,
        help="a model to continue from, with its tokenizer; without it a new one",
    )
    parser.add_argument("--vocab-size", type=int, default=1536)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    pretrain(
        args.documents, args.out, args.start, args.vocab_size, args.batch_size, args.lr, args.seed
    )
