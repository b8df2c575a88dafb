"""Time of a step and of a run, from a model of the machine: FLOPs, bytes, vLLM's decode bound, bytes of a weight sync.

Every constant of Machine is an assumption about an H100 node, none was measured here; the point is where the time goes
and how it moves with GPUs and settings, not the last percent.
"""

from typing import Any, NamedTuple

from recipes.memory import count_kv_tokens
from recipes.model import Shape

SECONDS_TO_START = 180.0


class Machine(NamedTuple):
    """An H100 node, per GPU: FLOP/s in bf16 (dense), bytes/s. Shares are of those peaks."""

    flops: float = 989e12  # NVIDIA's data sheet, H100 SXM
    memory: float = 3.35e12  # HBM3, data sheet
    link: float = 300e9  # NVLink 4: 450e9 each way by the data sheet, two thirds of it
    network: float = 40e9  # between nodes: 400 Gb/s for each GPU, 80 % of it
    host: float = 25e9  # PCIe 5 to pinned host memory, about half of the data sheet's
    train_share: float = 0.35  # of FLOPs, forward and backward with packing
    forward_share: float = 0.45
    decode_share: float = 0.6  # of memory bandwidth
    decode_floor: float = (
        0.006  # seconds for a decode step, however small: kernel starts, scheduler, sampler
    )
    cpu_adam: float = 1.0e9  # weights a second that DeepSpeed's CPU Adam updates on one node
    tensor_call: float = (
        0.005  # seconds for one tensor of a sync: Ray call, gather of handles, load
    )
    engine_call: float = 0.0003  # more for each vLLM engine that is called
    sample_call: float = (
        0.002  # seconds of the one trainer process for a sample: dispatch, objects, decoding
    )


class Load(NamedTuple):
    """What a step is made of. samples: responses; updates: optimizer steps; mean lengths in tokens."""

    samples: int
    updates: int
    prompt: float
    response: float
    longest: int

    @property
    def tokens(self) -> float:
        """All tokens of a step, prompts included."""
        return self.samples * (self.prompt + self.response)


def plan_load(cfg: Any) -> Load:
    """The load of one PPO step. Prompt and response lengths are `plan.*`: they are not known before the run."""
    flags = cfg.openrlhf
    samples = flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
    updates = samples // flags.train.batch_size * flags.train.max_epochs
    longest = flags.rollout.max_new_tokens or flags.data.max_len
    return Load(
        samples, updates, cfg.plan.prompt_tokens, min(cfg.plan.response_tokens, longest), longest
    )


def estimate_generation(cfg: Any, shape: Shape, load: Load, machine: Machine) -> float:
    """Seconds for vLLM to answer load.samples prompts: prefill by FLOPs, decoding by bytes.

    Decoding ends with the longest response, which is taken to be as long as it may be; where the KV cache cannot hold
    every sample at once they go in waves.
    """
    vllm = cfg.openrlhf.vllm
    share = load.samples / vllm.num_engines
    gpus = vllm.tensor_parallel_size
    prefill = (
        2 * shape.parameters * share * load.prompt / (gpus * machine.flops * machine.forward_share)
    )
    context = load.prompt + load.response / 2
    at_once = min(
        share, max(1.0, count_kv_tokens(shape, cfg) / (load.prompt + load.response)), 1024.0
    )
    waves = share / at_once
    bandwidth = gpus * machine.memory * machine.decode_share
    weights = max(2 * shape.parameters / bandwidth, machine.decode_floor)
    steps = load.longest + (waves - 1) * load.response
    return prefill + steps * weights + share * load.response * context * shape.kv_bytes / bandwidth


def estimate_update(
    cfg: Any, shape: Shape, tokens: float, updates: int, count: float, machine: Machine
) -> float:
    """Seconds to train one model on `tokens` (of all ranks) in `updates` optimizer steps. count: trained weights."""
    flags, hardware = cfg.openrlhf, cfg.hardware
    ppo = "actor" in flags
    per_node = flags.actor.num_gpus_per_node if ppo else hardware.gpus_per_node
    ranks = hardware.nodes * per_node
    check = (
        flags.actor.gradient_checkpointing_enable
        if ppo
        else flags.model.gradient_checkpointing_enable
    )
    work = (
        (8 if check else 6)
        * shape.parameters
        * tokens
        / (ranks * machine.flops * machine.train_share)
    )
    samples = flags.train.batch_size * updates
    micro_batches = samples / (flags.train.micro_batch_size * ranks)
    reduced = (
        micro_batches * (6 if flags.ds.zero_stage == 3 else 2) * count
    )  # ZeRO-2 reduces at each micro-batch
    gathered = updates * 2 * count
    wire = machine.network if hardware.nodes > 1 else machine.link
    traffic = (reduced + gathered) / wire * (ranks - 1) / ranks
    if flags.ds.adam_offload:
        traffic += updates * (
            count / hardware.nodes / machine.cpu_adam + 4 * count / ranks / machine.host
        )
        traffic += micro_batches * 2 * count / ranks / machine.host
    return work + traffic


def estimate_sync(cfg: Any, shape: Shape, machine: Machine) -> float:
    """Seconds to bring the actor's weights to every vLLM engine: one call a tensor, then its bytes."""
    calls = shape.tensors * (
        machine.tensor_call + machine.engine_call * cfg.openrlhf.vllm.num_engines
    )
    wire = machine.network if cfg.hardware.nodes > 1 else machine.link
    shared = not cfg.openrlhf.train.async_enable and cfg.openrlhf.vllm.sync_backend == "nccl"
    moved = (
        2 * shape.parameters / (machine.memory if shared else wire)
    )  # CUDA IPC copies within a GPU
    if cfg.openrlhf.ds.zero_stage == 3:
        moved += 2 * shape.parameters / wire
    return calls + moved


def estimate_step(cfg: Any, shape: Shape, machine: Machine | None = None) -> dict[str, float]:
    """Seconds of one PPO step by phase; `step` is the whole (in async mode generation overlaps the rest)."""
    machine = machine or Machine()
    flags, load = cfg.openrlhf, plan_load(cfg)
    ranks = cfg.hardware.nodes * flags.actor.num_gpus_per_node
    count = shape.count_lora(flags.ds.lora.rank) if flags.ds.lora.rank else shape.parameters
    critic, ref = flags.algo.advantage.estimator == "gae", flags.algo.kl.init_coef > 0
    looks = 1 + critic + ref
    work = (
        looks * 2 * shape.parameters * load.tokens / (ranks * machine.flops * machine.forward_share)
    )
    moved = 0.0
    if flags.vllm.enable_sleep:  # out and in, once each
        moved += 2 * 2 * shape.parameters / machine.host
    if flags.ds.enable_sleep and not flags.ds.adam_offload:
        moved += 2 * (1 + critic) * 14 * count / ranks / machine.host
    train = estimate_update(cfg, shape, load.tokens, load.updates, count, machine)
    phases = {
        "generation": estimate_generation(cfg, shape, load, machine),
        "experience": work,
        "training": train
        * (2 if critic else 1),  # in turn, or at the same time on the same GPUs: no faster
        "sync": estimate_sync(cfg, shape, machine),
        "moving": moved,
        "controller": load.samples * machine.sample_call,
    }
    rest = sum(
        seconds for name, seconds in phases.items() if name not in ("generation", "controller")
    )
    busy = phases["generation"] + phases["controller"]
    whole = max(busy, rest) + phases["sync"] if flags.train.async_enable else busy + rest
    return phases | {"step": whole}


def count_steps(flags: Any, method: str, rows: int) -> int:
    """Steps of a run: PPO's rollout batches over all episodes, SFT's optimizer steps over all epochs."""
    used = min(rows, flags.data.max_samples)
    if method == "sft":
        return int(used * flags.train.max_epochs // flags.train.batch_size)
    return int(used // flags.rollout.batch_size * flags.train.num_episodes)


def count_evaluations(flags: Any, steps: int) -> int:
    """Evaluations on dev during a PPO run."""
    return int(steps // flags.eval.steps) if flags.eval.steps > 0 else 0


def estimate_run(
    cfg: Any, shape: Shape, rows: int, dev_rows: int, machine: Machine | None = None
) -> dict[str, float]:
    """Steps, seconds of a step, of an evaluation and of the whole PPO run, and GPU-hours."""
    machine = machine or Machine()
    flags = cfg.openrlhf
    steps = count_steps(flags, "ppo", rows)
    step = estimate_step(cfg, shape, machine)["step"]
    greedy = plan_load(cfg)._replace(samples=dev_rows * flags.eval.n_samples_per_prompt)
    evaluation = estimate_generation(cfg, shape, greedy, machine)
    evaluations = count_evaluations(flags, steps)
    seconds = SECONDS_TO_START + steps * step + evaluations * evaluation
    gpus = cfg.hardware.nodes * cfg.hardware.gpus_per_node
    return {
        "steps": steps,
        "step": step,
        "evaluation": evaluation,
        "run": seconds,
        "gpu_hours": seconds * gpus / 3600,
    }


def estimate_sft(
    cfg: Any, shape: Shape, rows: int, machine: Machine | None = None
) -> dict[str, float]:
    """Optimizer steps, seconds of one, seconds of the whole SFT run, and GPU-hours."""
    machine = machine or Machine()
    flags = cfg.openrlhf
    steps = count_steps(flags, "sft", rows)
    tokens = flags.train.batch_size * (cfg.plan.prompt_tokens + 2)
    count = shape.count_lora(flags.ds.lora.rank) if flags.ds.lora.rank else shape.parameters
    step = estimate_update(cfg, shape, tokens, 1, count, machine)
    seconds = SECONDS_TO_START / 3 + steps * step
    gpus = cfg.hardware.nodes * cfg.hardware.gpus_per_node
    return {"steps": steps, "step": step, "run": seconds, "gpu_hours": seconds * gpus / 3600}
