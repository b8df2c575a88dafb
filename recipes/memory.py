"""GPU memory by formula, for each phase of a run: what `make plan` prints and preflight refuses by.

Bytes on one GPU. N: parameters; T: those trained (LoRA: the adapters); D: ranks that share the optimizer (ZeRO).
The formulas follow OpenRLHF 0.11.2 and DeepSpeed 0.19.6; what is assumed rather than derived is a constant here.
Nothing was measured on a GPU: docs/hardware.md.
"""

from typing import Any, NamedTuple

from recipes.model import Shape

GIB = 1024**3
# Assumptions, in bytes.
CONTEXT = 0.7 * GIB  # CUDA context, cuBLAS and NCCL buffers of one process
BUCKET = 1.0 * GIB  # DeepSpeed's reduce bucket: 5e8 elements of bf16
VLLM_WORK = 3.0 * GIB  # vLLM: profile run, CUDA graphs, sampler
MARGIN = 0.95  # of the GPU; the rest is fragmentation's
PHASES = ("load", "rollout", "experience", "training", "sync")
SFT_PHASES = ("load", "training")


class Need(NamedTuple):
    """One phase on one GPU. parts: bytes by what they are for."""

    phase: str
    parts: dict[str, float]

    @property
    def bytes(self) -> float:
        """The sum of the parts."""
        return sum(self.parts.values())


class Model(NamedTuple):
    """One DeepSpeed model on one GPU, in bytes. weights: bf16; states: what leaves when it sleeps; step: gradients and
    what the optimizer's step needs on top; host: what it holds in host memory."""

    weights: float
    states: float
    step: float
    host: float


def plan_model(shape: Shape, flags: Any, ranks: int, trained: bool, offload: bool = False) -> Model:
    """The memory of an actor or critic (trained) or a reference model. offload: the reference model's own."""
    parameters, stage = shape.parameters, flags.ds.zero_stage
    weights = 2 * parameters / (ranks if stage == 3 else 1)
    if not trained:  # DeepSpeed offloads parameters with ZeRO-3 only
        return (
            Model(0.0, 0.0, 0.0, weights)
            if offload and stage == 3
            else Model(weights, 0.0, 0.0, 0.0)
        )
    adapted = flags.ds.lora.rank > 0
    count = shape.count_lora(flags.ds.lora.rank) if adapted else parameters
    weights += 2 * count if adapted else 0
    optimizer = 12 * count / ranks  # fp32 weights and two moments
    gradients = 2 * count / (ranks if stage >= 2 else 1)
    if flags.ds.adam_offload:
        # ZeRO-2 hands each bucket of gradients to the host; there: fp32 gradients, a bf16 copy of the weights
        return Model(
            weights, 0.0, (gradients if stage < 2 else 0) + BUCKET, optimizer + 6 * count / ranks
        )
    # stage_1_and_2.py:2371: the step makes an fp32 copy of the gradients
    return Model(weights, optimizer, gradients + 4 * count / ranks + BUCKET, 0.0)


def activations(shape: Shape, tokens: float, checkpointing: bool, head: bool, train: bool) -> float:
    """Bytes of one micro-batch of `tokens`. head: with the vocabulary's logits (actor, reference), or a value alone."""
    block = 2 * tokens * (10 * shape.hidden + 4 * shape.intermediate)
    logits = (
        (12 if train else 6) * tokens * shape.vocab if head else 0
    )  # bf16, its fp32 copy; backward: both again
    if not train:
        return block + logits
    kept = 2 * tokens * shape.hidden * shape.layers if checkpointing else block * shape.layers
    return kept + block + logits


def count_kv_tokens(shape: Shape, cfg: Any) -> int:
    """Tokens that one vLLM engine's KV cache holds, over its tensor-parallel GPUs; negative: not even the weights."""
    vllm = cfg.openrlhf.vllm
    free = vllm.gpu_memory_utilization * cfg.hardware.gpu_memory_gb * GIB - VLLM_WORK
    free -= 2 * shape.parameters / vllm.tensor_parallel_size
    return int(free * vllm.tensor_parallel_size / shape.kv_bytes)


def plan_ppo(cfg: Any, shape: Shape) -> tuple[list[Need], float]:
    """Each phase's need on a training GPU (on a vLLM GPU for the rollout of an async run), and host bytes a node."""
    flags, hardware = cfg.openrlhf, cfg.hardware
    ranks = flags.actor.num_nodes * flags.actor.num_gpus_per_node
    actor = plan_model(shape, flags, ranks, trained=True)
    critic = (
        plan_model(shape, flags, ranks, trained=True)
        if flags.algo.advantage.estimator == "gae"
        else None
    )
    ref = (
        plan_model(shape, flags, ranks, False, flags.ref.offload)
        if flags.algo.kl.init_coef > 0
        else None
    )
    shared = not flags.train.async_enable  # vLLM is on the same GPUs
    sleeps = flags.ds.enable_sleep
    models = [model for model in (actor, critic) if model]
    resident = {"weights": sum(model.weights for model in models) + (ref.weights if ref else 0)}
    if not sleeps and any(model.states for model in models):
        resident["optimizer"] = sum(model.states for model in models)
    resident["processes"] = CONTEXT * (len(models) + bool(ref) + shared)
    engine = flags.vllm.gpu_memory_utilization * hardware.gpu_memory_gb * GIB
    awake = {"vLLM": engine} if shared and not flags.vllm.enable_sleep else {}
    longest = flags.data.max_len
    learn, look = flags.train.micro_batch_size * longest, flags.rollout.micro_batch_size * longest
    check = flags.actor.gradient_checkpointing_enable

    def train(model: Model, head: bool) -> dict[str, float]:
        own = {"optimizer": model.states} if sleeps else {}
        return own | {"step": model.step, "activ.": activations(shape, learn, check, head, True)}

    both = [train(actor, True)] + ([train(critic, False)] if critic else [])
    busiest = max(both, key=lambda parts: sum(parts.values())) if sleeps else merge(*both)
    last = models[-1]
    loading = (
        {"optimizer": last.states, "step": last.states / 3} if sleeps else {"step": last.states / 3}
    )
    needs = [
        Need("load", merge(resident, awake, loading)),
        Need(
            "rollout",
            merge(resident, {"vLLM": engine}) if shared else {"vLLM": engine, "processes": CONTEXT},
        ),
        Need(
            "experience",
            merge(resident, awake, {"activ.": activations(shape, look, check, True, False)}),
        ),
        Need("training", merge(resident, awake, busiest)),
        Need(
            "sync",
            merge(
                resident,
                awake or plan_woken(cfg, shape, shared),
                {"step": 2.0 * shape.vocab * shape.hidden},
            ),
        ),
    ]
    per_node = flags.actor.num_gpus_per_node
    host = sum(model.host for model in [*models, *([ref] if ref else [])]) * per_node
    host += sum(model.states for model in models) * per_node if sleeps else 0
    host += (
        2 * shape.parameters * per_node if flags.vllm.enable_sleep else 0
    )  # level 1: weights move to the host
    return needs, host


def plan_woken(cfg: Any, shape: Shape, shared: bool) -> dict[str, float]:
    """vLLM's weights on a training GPU during the sync, its KV cache still asleep."""
    return {"vLLM": 2 * shape.parameters / cfg.openrlhf.vllm.tensor_parallel_size} if shared else {}


def plan_sft(cfg: Any, shape: Shape) -> tuple[list[Need], float]:
    """As plan_ppo, for the SFT baseline."""
    flags, hardware = cfg.openrlhf, cfg.hardware
    model = plan_model(shape, flags, hardware.nodes * hardware.gpus_per_node, trained=True)
    fixed = {"weights": model.weights, "optimizer": model.states, "processes": CONTEXT}
    tokens = flags.train.micro_batch_size * flags.data.max_len
    work = activations(shape, tokens, flags.model.gradient_checkpointing_enable, True, True)
    training = merge(fixed, {"step": model.step, "activ.": work})
    return [Need("load", merge(fixed, {"step": model.states / 3})), Need("training", training)], (
        model.host * hardware.gpus_per_node
    )


def merge(*parts: dict[str, float]) -> dict[str, float]:
    """Sum parts by name, leaving out what is nothing."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return {name: value for name, value in total.items() if value}


def find_shortages(cfg: Any, method: str, shape: Shape) -> list[str]:
    """One line for each phase that cannot fit the GPU, with the key to change."""
    if not cfg.hardware.cuda or cfg.hardware.gpu_memory_gb is None:
        return []
    needs, _ = plan_ppo(cfg, shape) if method == "ppo" else plan_sft(cfg, shape)
    limit, size = MARGIN * cfg.hardware.gpu_memory_gb * GIB, cfg.hardware.gpu_memory_gb
    problems = [
        f"{need.phase} needs {need.bytes / GIB:.0f} GiB on each GPU, of {size:g} GiB (5 % left free): "
        f"{suggest(need, cfg, method)}"
        for need in needs
        if need.bytes > limit
    ]
    if method == "ppo" and (tokens := count_kv_tokens(shape, cfg)) < cfg.openrlhf.data.max_len:
        problems.append(
            f"vLLM's share of {cfg.openrlhf.vllm.gpu_memory_utilization:g} × {size:g} GiB leaves room for "
            f"{max(0, tokens)} tokens beside the weights, a sample has up to {cfg.openrlhf.data.max_len}: raise "
            "hardware.vllm_memory"
        )
    return problems


def suggest(need: Need, cfg: Any, method: str) -> str:
    """The key that takes most off this phase, and that is not used yet."""
    ppo, flags, hardware = method == "ppo", cfg.openrlhf, cfg.hardware
    keys: dict[str, str] = {}
    if not flags.ds.adam_offload:
        keys["optimizer"] = (
            "hardware.adam_offload=true" if ppo else "hardware.sft_adam_offload=true"
        )
    if flags.ds.zero_stage < 3 and hardware.gpus_per_node > 1:
        keys["weights"] = "hardware.zero_stage=3"
    if need.phase == "rollout":
        keys["vLLM"] = "a lower openrlhf.vllm.gpu_memory_utilization"
    elif ppo and not hardware.sleep and not hardware["async"]:
        keys["vLLM"] = "hardware.sleep=true"
    batch = "train" if need.phase == "training" else "rollout"
    if need.phase in ("training", "experience") and flags[batch].micro_batch_size > 1:
        keys["activ."] = f"openrlhf.{batch}.micro_batch_size=1"
    ranked = sorted(
        (name for name in need.parts if name in keys), key=lambda name: -need.parts[name]
    )
    chosen = [keys[name] for name in ranked[:2]]
    return " or ".join(chosen) if chosen else "a larger hardware=…, or a smaller model"
