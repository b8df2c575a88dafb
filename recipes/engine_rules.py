"""Check OpenRLHF's own rules before it starts: most of them it finds late, or not at all.

Each check names the place of its rule in OpenRLHF 0.11.2; docs/engine.md has the failures
themselves.
"""

from collections.abc import Iterator
from typing import Any

GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")


def find_broken_rules(cfg: Any, method: str) -> list[str]:
    """Find all rules of the engine that this configuration breaks."""
    of_ppo, of_sft = [check_batches, check_placement, check_traps], [check_sft_batches]
    rules = [*(of_ppo if method == "ppo" else of_sft), check_checkpoints]
    problems = [problem for rule in rules for problem in rule(cfg)]
    return problems + ([] if cfg.hardware.cuda else list(check_cpu(cfg, method)))


def count_ranks(cfg: Any, role: str) -> int:
    """Count the processes of a role (actor, critic, ref)."""
    return cfg.openrlhf[role].num_nodes * cfg.openrlhf[role].num_gpus_per_node


def count_gpus(cfg: Any) -> int:
    """Count the GPUs that the placement groups will ask for (cli/train_ppo_ray.py:38-128)."""
    flags = cfg.openrlhf
    engines = (flags.vllm.num_engines or 0) * flags.vllm.tensor_parallel_size
    if flags.train.colocate_all:
        return count_ranks(cfg, "actor") + (engines if flags.train.async_enable else 0)
    own_ref = flags.algo.kl.init_coef > 0 and not flags.train.colocate_actor_ref
    ref = count_ranks(cfg, "ref") if own_ref else 0
    critic = count_ranks(cfg, "critic") if flags.algo.advantage.estimator == "gae" else 0
    return count_ranks(cfg, "actor") + ref + critic + engines


def check_batches(cfg: Any) -> Iterator[str]:
    """Check that batches divide: else DeepSpeed fails, gradients leak, or ranks hang."""
    flags = cfg.openrlhf
    samples = flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
    # ppo_actor.py:163: leftover micro-batches go into the next rollout's update
    if samples % flags.train.batch_size:
        yield (
            f"openrlhf.rollout.batch_size × n_samples_per_prompt = {samples} is not a multiple of "
            f"openrlhf.train.batch_size={flags.train.batch_size}"
        )
    estimator = flags.algo.advantage.estimator
    used = {"actor": True, "critic": estimator == "gae", "ref": flags.algo.kl.init_coef > 0}
    for role in (role for role, is_used in used.items() if is_used):
        ranks = count_ranks(cfg, role) // (flags.ds.ring_attn_size * flags.ds.tensor_parallel_size)
        # deepspeed.py:455: train_batch_size = micro × accumulation × ranks, exactly
        micro = flags.train.micro_batch_size * ranks
        if not flags.train.dynamic_batch_enable and flags.train.batch_size % micro:
            yield (
                f"openrlhf.train.batch_size={flags.train.batch_size} is not a multiple of openrlhf."
                f"train.micro_batch_size={flags.train.micro_batch_size} × {ranks} {role} ranks"
            )
        # launcher.py:354: uneven shards give ranks different numbers of forward passes
        if samples % (flags.rollout.micro_batch_size * ranks):
            yield (
                f"{samples} samples a rollout are not a multiple of openrlhf.rollout."
                f"micro_batch_size={flags.rollout.micro_batch_size} × {ranks} {role} ranks"
            )
    # cli:656: with one sample a group every advantage is 0
    if estimator in GROUP_ESTIMATORS and flags.rollout.n_samples_per_prompt < 2:
        yield (
            f"openrlhf.algo.advantage.estimator={estimator} compares samples of one prompt: "
            "set openrlhf.rollout.n_samples_per_prompt to 4 or more"
        )


def check_sft_batches(cfg: Any) -> Iterator[str]:
    """Check that batches divide (deepspeed.py:455), and torchrun runs on this machine alone."""
    train, nodes = cfg.openrlhf.train, cfg.hardware.nodes
    if nodes > 1:
        yield f"SFT runs on one machine, not on hardware.nodes={nodes}: choose hardware=8x80gb"
    size, micro, ranks = (
        train.batch_size,
        train.micro_batch_size,
        nodes * cfg.hardware.gpus_per_node,
    )
    if size % (micro * ranks):
        yield (
            f"openrlhf.train.batch_size={size} is not a multiple of "
            f"openrlhf.train.micro_batch_size={micro} × {ranks} ranks"
        )


def check_placement(cfg: Any) -> Iterator[str]:
    """Check the colocation rules of cli/train_ppo_ray.py:42-64 and :109-127."""
    flags = cfg.openrlhf
    # cli:231: the default None ends in a TypeError, 0 in an empty generator
    if not flags.vllm.num_engines:
        yield "openrlhf.vllm.num_engines must be at least 1"
        return
    is_async = flags.train.async_enable
    actors, ref, critic = (count_ranks(cfg, role) for role in ("actor", "ref", "critic"))
    engines = flags.vllm.num_engines * flags.vllm.tensor_parallel_size
    if flags.train.colocate_all:
        if not is_async and actors != engines:
            yield (
                f"with openrlhf.train.colocate_all there must be as many actor GPUs ({actors}) as "
                f"vLLM GPUs (num_engines × tensor_parallel_size = {engines})"
            )
        if flags.algo.kl.init_coef > 0 and ref != actors:
            yield f"colocated, the reference model needs the actor's {actors} GPUs, not {ref}"
        if flags.algo.advantage.estimator == "gae" and critic > actors:
            yield f"colocated, the critic can have at most the actor's {actors} GPUs, not {critic}"
    if is_async and flags.vllm.enable_sleep:
        yield "openrlhf.train.async_enable excludes openrlhf.vllm.enable_sleep"


def check_traps(cfg: Any) -> list[str]:
    """Refuse flags that 0.11.2 accepts and that spoil the run."""
    flags, stage = cfg.openrlhf, cfg.openrlhf.ds.zero_stage
    generated = flags.rollout.vllm_generate_batch_size or 0
    # recipes/engine/lora.py merges whole bf16 matrices
    split = stage == 3 or flags.ds.tensor_parallel_size > 1 or flags.ds.load_in_4bit
    templated = flags.data.input_template is not None or flags.data.apply_chat_template
    traps = {
        "openrlhf.reward.normalize_enable divides values by uninitialised memory "
        "(OpenRLHF#1343): leave it false": flags.reward.normalize_enable,
        "openrlhf.critic.freezing_steps trains on stale rollouts afterwards (OpenRLHF#1356): "
        "leave it at -1": flags.critic.freezing_steps != -1,
        "openrlhf.algo.kl.target is marked incompatible in the engine (ppo_trainer.py:252): "
        "leave it null": flags.algo.kl.target is not None,
        "openrlhf.train.dynamic_batch_enable crashes below ZeRO-3 (OpenRLHF#1131): "
        "openrlhf.ds.zero_stage=3": flags.train.dynamic_batch_enable and stage != 3,
        # runtime/zero/config.py: offload_param, valid only with stage 3
        "openrlhf.ref.offload does nothing below ZeRO-3: hardware.zero_stage=3, or "
        "hardware.ref_offload=false": flags.ref.offload and stage != 3,
        "openrlhf.rollout.vllm_generate_batch_size above rollout.batch_size loses samples on "
        "resume (OpenRLHF#1322): leave it null": generated > flags.rollout.batch_size
        and flags.ckpt.save_steps > 0,
        "openrlhf.ds.lora.rank: merged weights go to vLLM, for which each rank must hold whole "
        "bf16 matrices: openrlhf.ds.zero_stage=2, tensor_parallel_size=1, "
        "load_in_4bit=false": flags.ds.lora.rank and split,
        "rows hold the whole prompt: leave openrlhf.data.input_template null and "
        "apply_chat_template false": templated,
    }
    return [trap for trap, is_set in traps.items() if is_set]


def check_checkpoints(cfg: Any) -> Iterator[str]:
    """Keep a checkpoint while the next is saved: deepspeed.py:724 deletes to max_num - 1."""
    ckpt = cfg.openrlhf.ckpt
    if ckpt.save_steps > 0 and not ckpt.disable_ds and ckpt.max_num < 2:
        yield (
            f"openrlhf.ckpt.max_num={ckpt.max_num} deletes the last checkpoint before the next is "
            "whole: 2 or more"
        )


def check_cpu(cfg: Any, method: str) -> Iterator[str]:
    """Refuse what the CPU engine has no GPU for."""
    flags = cfg.openrlhf
    ranks = cfg.hardware.nodes * cfg.hardware.gpus_per_node
    refused = {
        "ds.packing_samples": "packing needs flash-attn, which is CUDA only",
        "ds.adam_offload": "it compiles a C++ optimizer; on CPU there is nowhere to offload to",
        "ds.load_in_4bit": "4-bit weights need a GPU",
        "train.dynamic_batch_enable": "dynamic batches need packing, and so flash-attn",
        "train.enable_ema": "the engine averages on a CUDA device (ppo_actor.py:365)",
        "ds.enable_sleep": "there is no GPU memory to free",
        "vllm.enable_sleep": "vLLM has no sleep mode on CPU",
        "vllm.sync_with_ray": "vLLM's worker is no Ray actor on CPU",
    }
    for key, reason in refused.items():
        group, name = key.split(".")
        if flags.get(group, {}).get(name):
            yield f"openrlhf.{key}=true cannot run on hardware=cpu: {reason}"
    if method == "ppo" and flags.vllm.sync_backend != "gloo":
        backend = flags.vllm.sync_backend
        yield f"openrlhf.vllm.sync_backend={backend} needs CUDA: gloo on hardware=cpu"
    attention = flags.ds.attn_implementation
    if "flash" in attention:
        yield f"openrlhf.ds.attn_implementation={attention} is CUDA only: sdpa on hardware=cpu"
    if method == "ppo" and flags.ds.zero_stage == 3 and ranks > 1:  # SFT is right: docs/LOG.md
        yield "PPO with ZeRO-3 on several ranks gives NaN gradients on CPU: hardware.zero_stage=2"
    if cfg.hardware.nodes > 1:
        yield f"hardware=cpu is one machine, not hardware.nodes={cfg.hardware.nodes}"
