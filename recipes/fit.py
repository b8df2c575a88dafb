"""Compute the memory and disk of a run before it starts: for `make plan` and for preflight.

Bytes, on one GPU where nothing else is said. The formulas follow OpenRLHF 0.11.2 and DeepSpeed
0.19.6; what is assumed is a constant here. Nothing was measured on a GPU: docs/hardware.md.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.prepared import MANIFEST, open_prepared
from recipes.model import Shape

GIB = 1024**3
CONTEXT = 0.7 * GIB  # CUDA context, cuBLAS and NCCL buffers of one process
BUCKET = 1.0 * GIB  # DeepSpeed's reduce bucket: 5e8 elements of bf16
VLLM_WORK = 3.0 * GIB  # vLLM: CUDA graphs, sampler, fragmentation
VLLM_BATCH = 8192  # tokens of one vLLM step, recipes/engine/startup
MARGIN = 0.95  # fraction of the GPU that may be planned; the rest is lost to fragmentation
LOGIT = 6  # bytes a logit: bf16 and its fp32 copy; backward holds both again
ENTROPY = 8  # more where it is logged: a softmax and its product (openrlhf/models/utils.py:216)
LOGS = 50e6  # bytes on disk: engine.log, metrics, tensorboard
CHECKPOINT = 14  # bytes on disk a weight: bf16 weights, fp32 weights, two Adam moments
ROLLOUT_TOKEN = 5  # bytes on disk a token of a response, as JSON and with the row's other fields


class Need(NamedTuple):
    """One phase of a run on one GPU. parts: bytes by what they are for."""

    phase: str
    parts: dict[str, float]

    @property
    def bytes(self) -> float:
        """Sum of the parts."""
        return sum(self.parts.values())


class ModelBytes(NamedTuple):
    """One DeepSpeed model on one GPU, in bytes.

    weights: bf16. states: of the optimizer, they leave the GPU in sleep. step: gradients, and what
    the optimizer's step needs on top. host: in host memory, for one rank.
    """

    weights: float
    states: float
    step: float
    host: float


def plan_model(shape: Shape, flags: Any, ranks: int, trained: bool) -> ModelBytes:
    """Compute the memory of an actor or critic (trained) or a reference; ranks: of ZeRO."""
    parameters, stage = shape.parameters, flags.ds.zero_stage
    weights = 2.0 * parameters / (ranks if stage == 3 else 1)
    if not trained:
        # DeepSpeed offloads parameters with ZeRO-3 only
        offloaded = flags.ref.offload and stage == 3
        return ModelBytes(0.0 if offloaded else weights, 0.0, 0.0, weights if offloaded else 0.0)
    count = count_trained(shape, flags)
    if count != parameters:
        weights += 2 * count
    # bf16 gradients, or fp32 ones with ds.grad_accum_dtype=fp32 (deepspeed/runtime/engine.py:1578)
    gradient_bytes = 4 if flags.ds.grad_accum_dtype == "fp32" else 2
    gradients = gradient_bytes * count / (ranks if stage >= 2 else 1)
    if flags.ds.adam_offload:
        # ZeRO-2 hands each bucket of gradients to the host
        step = (gradients if stage < 2 else 0) + BUCKET
        return ModelBytes(weights, 0.0, step, plan_offload(count / ranks))
    states = 12 * count / ranks  # fp32 weights and two moments
    # stage_1_and_2.py:2371: the step makes an fp32 copy of the gradients
    return ModelBytes(weights, states, gradients + 4 * count / ranks + BUCKET, 0.0)


def plan_offload(count: float) -> float:
    """Compute the host bytes of one rank whose optimizer is offloaded; count: its weights.

    DeepSpeed pins fp32 weights, fp32 gradients and a bf16 copy as flat buffers, bf16 gradients a
    parameter (stage_1_and_2.py:497, :852, :509, :1537) and keeps two fp32 moments unpinned. torch
    rounds each pinned allocation up to a power of two (ATen/core/CachingHostAllocator.h:300), a
    third more on average over many sizes.
    """
    flat = sum(2.0 ** math.ceil(math.log2(size * count)) for size in (4, 4, 2)) if count else 0.0
    return flat + 2 * count * 4 / 3 + 8 * count


def count_trained(shape: Shape, flags: Any) -> int:
    """Count the weights that are trained: all of them, or LoRA's adapters."""
    return shape.count_lora(flags.ds.lora.rank) if flags.ds.lora.rank else shape.parameters


def plan_activations(
    shape: Shape, tokens: float, logit_bytes: int, checkpointing: bool | None = None
) -> float:
    """Compute the bytes of a micro-batch of `tokens`; checkpointing: None where nothing is trained.

    logit_bytes: kept for each logit; 0 for a critic, whose head is a single value.
    """
    block = 2 * tokens * (10 * shape.hidden + 4 * shape.intermediate)
    kept = 0.0
    if checkpointing is not None:
        kept = 2 * tokens * shape.hidden * shape.layers if checkpointing else block * shape.layers
    return kept + block + logit_bytes * tokens * shape.vocab


def count_kv_tokens(shape: Shape, cfg: Any) -> int:
    """Count the tokens of one vLLM engine's KV cache; negative where the weights do not fit."""
    vllm = cfg.openrlhf.vllm
    free = vllm.gpu_memory_utilization * cfg.hardware.gpu_memory_gb * GIB - VLLM_WORK
    free -= plan_activations(shape, VLLM_BATCH, 0)
    free -= 2 * shape.parameters / vllm.tensor_parallel_size
    return int(free * vllm.tensor_parallel_size / shape.kv_bytes)


def plan_ppo(cfg: Any, shape: Shape) -> tuple[list[Need], float]:
    """Compute each phase's need on a training GPU, and the host bytes of a node.

    In an async run the rollout's need is that of a vLLM GPU.
    """
    flags, hardware = cfg.openrlhf, cfg.hardware
    per_node = flags.actor.num_gpus_per_node
    ranks = flags.actor.num_nodes * per_node
    trained = 2 if flags.algo.advantage.estimator == "gae" else 1
    models = [plan_model(shape, flags, ranks, trained=True)] * trained
    refs = []
    if flags.algo.kl.init_coef > 0:
        refs = [plan_model(shape, flags, ranks, trained=False)]

    # What is on the GPU in every phase
    shared = not flags.train.async_enable  # vLLM is on the same GPUs
    sleeps = flags.ds.enable_sleep
    resident = {"weights": sum(model.weights for model in [*models, *refs])}
    if not sleeps:
        resident["optimizer"] = sum(model.states for model in models)
    resident["processes"] = CONTEXT * (len(models) + len(refs) + shared)
    engine = flags.vllm.gpu_memory_utilization * hardware.gpu_memory_gb * GIB
    awake = {"vLLM": engine} if shared and not flags.vllm.enable_sleep else {}

    # Training: with sleep one model at a time, else actor and critic at once
    checkpointing = flags.actor.gradient_checkpointing_enable
    learned = flags.train.micro_batch_size * flags.data.max_len
    entropy = ENTROPY if flags.actor.entropy_coef is not None else 0
    training = []
    for model, logit_bytes in zip(models, (2 * LOGIT + entropy, 0), strict=False):
        own = {"optimizer": model.states} if sleeps else {}
        work = plan_activations(shape, learned, logit_bytes, checkpointing)
        training.append(own | {"step": model.step, "activations": work})
    busiest = max(training, key=lambda parts: sum(parts.values())) if sleeps else add(*training)

    # Loading: a third of the states again, while the fp32 copy of the weights is made
    states = models[-1].states
    loading = {"step": states / 3, "optimizer": states if sleeps else 0.0}
    looked = flags.rollout.micro_batch_size * flags.data.max_len
    experience = {"activations": plan_activations(shape, looked, LOGIT)}
    woken = {"vLLM": 2 * shape.parameters / flags.vllm.tensor_parallel_size} if shared else {}
    sync = add(awake or woken, {"step": 2.0 * shape.vocab * shape.hidden})
    rollout = add(resident if shared else {"processes": CONTEXT}, {"vLLM": engine})
    needs = [
        Need("load", add(resident, awake, loading)),
        Need("rollout", rollout),
        Need("experience", add(resident, awake, experience)),
        Need("training", add(resident, awake, busiest)),
        Need("sync", add(resident, sync)),
    ]

    host = sum(model.host for model in [*models, *refs])
    if sleeps:
        host += sum(model.states for model in models)
    if flags.vllm.enable_sleep:
        host += 2 * shape.parameters  # sleep level 1 moves vLLM's weights to the host
    # while loading, every rank reads the actor and then the reference: peaks one after another
    return needs, max(host, 4.0 * shape.parameters) * per_node


def plan_sft(cfg: Any, shape: Shape) -> tuple[list[Need], float]:
    """Compute as plan_ppo does, for the SFT baseline."""
    flags, hardware = cfg.openrlhf, cfg.hardware
    model = plan_model(shape, flags, hardware.nodes * hardware.gpus_per_node, trained=True)
    fixed = {"weights": model.weights, "optimizer": model.states, "processes": CONTEXT}
    tokens = flags.train.micro_batch_size * flags.data.max_len
    checkpointing = flags.model.gradient_checkpointing_enable
    work = plan_activations(shape, tokens, 2 * LOGIT, checkpointing)
    training = {"step": model.step, "activations": work}
    needs = [Need("load", add(fixed, {"step": model.states / 3}))]
    needs += [Need("training", add(fixed, training))]
    return needs, max(model.host, 2.0 * shape.parameters) * hardware.gpus_per_node


def plan_phases(cfg: Any, method: str, shape: Shape) -> tuple[list[Need], float]:
    """Compute what plan_ppo or plan_sft does."""
    return plan_ppo(cfg, shape) if method == "ppo" else plan_sft(cfg, shape)


def add(*parts: dict[str, float]) -> dict[str, float]:
    """Add dictionaries key by key; drop entries that are zero."""
    names = dict.fromkeys(name for part in parts for name in part)
    total = {name: sum(part.get(name, 0.0) for part in parts) for name in names}
    return {name: value for name, value in total.items() if value}


def check_memory(cfg: Any, method: str, shape: Shape) -> tuple[list[str], list[str]]:
    """List what cannot fit the GPU (refused) and what may not (doubtful), each with its key.

    Refused is what weights and optimizer states alone exceed, or a KV cache that holds no sample;
    the rest depends on assumptions about activations and buffers, so it is only a warning.
    """
    if not cfg.hardware.cuda or cfg.hardware.gpu_memory_gb is None:
        return [], []
    size = cfg.hardware.gpu_memory_gb
    refused: list[str] = []
    doubtful: list[str] = []
    for need in plan_phases(cfg, method, shape)[0]:
        if need.bytes <= MARGIN * size * GIB:
            continue
        # activations and buffers are estimates: on them alone nothing is refused
        certain = sum(need.parts.get(name, 0.0) for name in ("weights", "optimizer", "vLLM"))
        kind = refused if certain > size * GIB else doubtful
        kind.append(
            f"{need.phase} needs {need.bytes / GIB:.0f} GiB on each GPU, of {size:g} GiB "
            f"(5 % left free): {suggest_key(need, cfg, method)}"
        )
    # the KV cache gets what vLLM's fraction leaves next to the weights
    if method == "ppo" and (tokens := count_kv_tokens(shape, cfg)) < cfg.openrlhf.data.max_len:
        refused.append(
            f"vLLM's fraction {cfg.openrlhf.vllm.gpu_memory_utilization:g} of {size:g} GiB leaves "
            f"room for {max(0, tokens)} tokens next to the weights, a sample has up to "
            f"{cfg.openrlhf.data.max_len}: raise hardware.vllm_memory"
        )
    return refused, doubtful


def suggest_key(need: Need, cfg: Any, method: str) -> str:
    """Name the key that takes most off this phase, of those not used yet."""
    ppo, flags, hardware = method == "ppo", cfg.openrlhf, cfg.hardware
    keys: dict[str, str] = {}
    if not flags.ds.adam_offload:
        keys["optimizer"] = f"hardware.{'' if ppo else 'sft_'}adam_offload=true"
    if flags.ds.zero_stage < 3 and hardware.gpus_per_node > 1:
        keys["weights"] = "hardware.zero_stage=3"
    if need.phase == "rollout":
        keys["vLLM"] = "a lower openrlhf.vllm.gpu_memory_utilization"
    elif ppo and not hardware.sleep and not hardware["async"]:
        keys["vLLM"] = "hardware.sleep=true"
    batch = "train" if need.phase == "training" else "rollout"
    if need.phase in ("training", "experience") and flags[batch].micro_batch_size > 1:
        keys["activations"] = f"openrlhf.{batch}.micro_batch_size=1"
    known = [name for name in need.parts if name in keys]
    ranked = sorted(known, key=lambda name: -need.parts[name])
    chosen = " or ".join(keys[name] for name in ranked[:2])
    return chosen or "a larger hardware=…, or a smaller model"


def count_rows(cfg: Any) -> dict[str, int]:
    """Count rows of train and dev: prepared, else official, else `plan.rows`. Raises UserError."""
    folder, assumed = Path(cfg.data_dir) / cfg.data.name, cfg.plan.rows
    if (folder / MANIFEST).is_file():
        files = open_prepared(folder).manifest["files"]
        return {split: files.get(f"{split}.jsonl", {"rows": 0})["rows"] for split in assumed}
    official = {split: (cfg.data.official.get(split) or {}).get("rows") for split in assumed}
    return {split: official[split] or assumed[split] for split in assumed}


def count_steps(flags: Any, method: str, rows: int) -> int:
    """Count the steps of a run: PPO's rollout batches over all episodes, SFT's optimizer steps."""
    used = min(rows, flags.data.max_samples)
    if method == "sft":
        return int(used * flags.train.max_epochs // flags.train.batch_size)
    return int(used // flags.rollout.batch_size * flags.train.num_episodes)


def count_every(steps: int, each: int) -> int:
    """Count what happens every `each` steps: evaluations, saves; never where that is 0 or less."""
    return int(steps // each) if each > 0 else 0


def plan_checkpoint(cfg: Any, method: str, shape: Shape) -> float:
    """Compute the bytes of one checkpoint to resume from, of all trained models."""
    flags = cfg.openrlhf
    trained = count_trained(shape, flags)
    one = CHECKPOINT * trained + (2 * shape.parameters if trained != shape.parameters else 0)
    has_critic = method == "ppo" and flags.algo.advantage.estimator == "gae"
    return float(one * (2 if has_critic else 1))


def plan_disk(cfg: Any, method: str, shape: Shape, rows: dict[str, int]) -> dict[str, float]:
    """Compute the bytes on disk of a run: ckpt.max_num checkpoints, and the best next to them."""
    flags, ckpt = cfg.openrlhf, cfg.openrlhf.ckpt
    trained = count_trained(shape, flags)
    adapter = 2 * trained if trained != shape.parameters else 0
    sizes = {"model": 2.0 * shape.parameters + adapter, "logs": LOGS}
    steps = count_steps(flags, method, rows["train"])
    saves = count_every(steps, ckpt.save_steps)
    best = 0
    if method == "ppo":
        best = int(flags.eval.steps > 0 and ckpt.best_metric_key != "none")
        samples = steps * flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
        evaluated = rows["dev"] * flags.eval.n_samples_per_prompt
        samples += count_every(steps, flags.eval.steps) * evaluated
        tokens = min(cfg.plan.response_tokens, flags.rollout.max_new_tokens or math.inf)
        sizes["rollouts"] = samples * tokens * ROLLOUT_TOKEN
    if not ckpt.disable_ds:
        kept = min(ckpt.max_num, saves) + best
        sizes["to resume from"] = plan_checkpoint(cfg, method, shape) * kept
    if ckpt.save_hf:
        # the old best is deleted after the new one was written
        sizes["copies"] = 2.0 * shape.parameters * (saves + 2 * best)
    return sizes
