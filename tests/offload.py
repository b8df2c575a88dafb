"""Train a small model with DeepSpeed's offloaded optimizer; print what it put into host memory.

python tests/offload.py HIDDEN LAYERS VOCAB      JSON: weights, and bytes of pinned allocations and of states

DeepSpeed pins buffers through its accelerator: each call is noted. On a GPU torch rounds them up to a power of two.
"""

import json
import os
import sys


def main() -> None:
    hidden, layers, vocab = map(int, sys.argv[1:])
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator
    from transformers import Qwen2Config, Qwen2ForCausalLM

    pinned = []
    accelerator = type(get_accelerator())
    pin = accelerator.pin_memory

    def note(self, tensor, align_bytes=1):
        pinned.append(tensor.numel() * tensor.element_size())
        return pin(self, tensor, align_bytes)

    accelerator.pin_memory = note
    shape = {"num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape |= {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab, **shape)).bfloat16()
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "bf16": {"enabled": True},
        "zero_force_ds_cpu_optimizer": False,  # which would be compiled; torch's keeps the same two moments
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
            "reduce_bucket_size": int(5e8),
        },
    }
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    deepspeed.init_distributed("gloo")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    ids = torch.randint(0, vocab, (1, 16))
    for _ in range(4):  # two steps of two micro-batches
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    states = [
        value.numel() * value.element_size()
        for state in engine.optimizer.optimizer.state.values()
        for value in state.values()
    ]
    weights = sum(parameter.numel() for parameter in model.parameters())
    print("\n" + json.dumps({"weights": weights, "pinned": pinned, "states": sum(states)}))


if __name__ == "__main__":
    main()
