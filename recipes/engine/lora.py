"""Send LoRA's merged weights to vLLM under PPO, and save them as the final model.

OpenRLHF's sync sends PEFT's names, which vLLM refuses (ppo_actor.py:439-466). Here each matrix goes
as base + adapter by the base's name, merged one at a time and never written back: in bf16 the base
weights would drift.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.engine.guards import wrap


class MergedWeight:
    """Base + adapter with what the sync asks of a parameter; merged only when `data` is read."""

    requires_grad = True

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.shape, self.dtype = layer.base_layer.weight.shape, layer.base_layer.weight.dtype

    @property
    def data(self) -> Any:
        """Merge the matrix again, in the dtype of the base; the sum is made in float32."""
        weight = self.layer.base_layer.weight.data.float()
        for adapter in self.layer.active_adapters:
            weight += self.layer.get_delta_weight(adapter).float()
        return weight.to(self.dtype)


def list_merged(peft_model: Any) -> Iterator[tuple[str, Any]]:
    """Yield each weight's name in the base model, and its parameter or MergedWeight, no adapter."""
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name:
            continue
        owner, _, last = name.rpartition(".base_layer.")
        plain = (f"{owner}.{last}" if owner else name).removeprefix("base_model.model.")
        is_adapted = owner and last == "weight"
        yield plain, MergedWeight(peft_model.get_submodule(owner)) if is_adapted else parameter


def sync_merged(ppo_actor: Any) -> None:
    """Wrap ActorPPOTrainer.broadcast_to_vllm: meanwhile the PEFT model lists its merged weights."""

    @wrap(ppo_actor.ActorPPOTrainer, "broadcast_to_vllm")
    def broadcast_to_vllm(broadcast: Any, self: Any) -> Any:
        model = self.actor.model.module
        if not hasattr(model, "peft_config"):
            return broadcast(self)
        pairs = list(list_merged(model))  # no matrix is merged yet
        model.named_parameters = lambda: iter(pairs)
        try:
            return broadcast(self)
        finally:
            del model.named_parameters


def save_merged(deepspeed_module: Any) -> None:
    """Wrap DeepspeedStrategy.save_model: save a PEFT model merged, its adapter in `adapter/`."""

    @wrap(deepspeed_module.DeepspeedStrategy, "save_model")
    def save_model(
        save: Any, self: Any, model: Any, tokenizer: Any, output_dir: str, **kwargs: Any
    ) -> None:
        plain = self._unwrap_model(model)
        if not hasattr(plain, "peft_config"):
            return save(self, model, tokenizer, output_dir, **kwargs)
        save(self, model, tokenizer, str(Path(output_dir) / "adapter"), **kwargs)  # PEFT's part
        if self.is_rank_0():
            weights = {name: weight.data.cpu() for name, weight in list_merged(plain)}
            plain.get_base_model().save_pretrained(output_dir, state_dict=weights)
            tokenizer.save_pretrained(output_dir)
        deepspeed_module.torch_dist_barrier_and_cuda_sync()
