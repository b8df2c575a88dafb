"""Plan the memory, disk and time of a run before it starts: for `make plan` and for preflight.

make plan experiment=paper hardware=8x80gb
make plan method=sft experiment=paper hardware=1x80gb
make plan hardware=8x80gb plan.measured=runs/smoke/NAME/smoke.json      constants of `make smoke`

Bytes are those on one GPU where nothing else is said, by the formulas of OpenRLHF 0.11.2 and
DeepSpeed 0.19.6. Time is a range. Nothing was measured here: docs/hardware.md.
"""

import math
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from omegaconf import DictConfig

from data_prep.command import run_command
from data_prep.errors import UserError
from data_prep.files import read_mapping
from data_prep.prepared import MANIFEST
from recipes.machine import complete_words
from recipes.model import Shape, read_shape
from recipes.rules import count_samples, find_wrong_values
from recipes.run_folder import find_data, open_data

GIB = 1024**3
CONTEXT = 0.7 * GIB  # CUDA context, cuBLAS and NCCL buffers of one process
BUCKET = 1.0 * GIB  # DeepSpeed's reduce bucket: 5e8 elements of bf16
VLLM_WORK = 3.0 * GIB  # vLLM: CUDA graphs, sampler, fragmentation
CPU_PROCESS = 0.53e9  # of an engine's process without a GPU: Python, torch, Ray (docs/LOG.md)
VLLM_BATCH = 8192  # tokens of one vLLM step, recipes/engine/trainer.py
MARGIN = 0.95  # fraction of the GPU that may be planned; the rest is lost to fragmentation
LOGIT = 6  # bytes a logit: bf16 and its fp32 copy; backward holds both again
ENTROPY = 8  # more where it is logged: a softmax and its product (openrlhf/models/utils.py:216)
LOGS = 50e6  # bytes on disk: engine.log, metrics, tensorboard
CHECKPOINT = 14  # bytes on disk a weight: bf16 weights, fp32 weights, two Adam moments
ROLLOUT_TOKEN = 5  # bytes on disk a token of a response, as JSON and with the row's other fields
RANGE = (0.6, 3.0)  # of an estimate: where the public measurements of tests/test_plan.py fall
Bytes: Any = Counter  # by what they are for; a sum of two drops what is zero
CONSTANTS = read_mapping(Path(__file__).with_suffix(".yaml"))


def count_models(flags: Any) -> tuple[int, int]:
    """Count the trained models (actor and critic, or SFT's) and the frozen reference."""
    if "actor" not in flags:
        return 1, 0
    return 1 + (flags.algo.advantage.estimator == "gae"), int(flags.algo.kl.init_coef > 0)


def count_ranks(cfg: Any) -> int:
    """Count the training GPUs of all nodes."""
    of_sft = {"num_gpus_per_node": cfg.hardware.gpus_per_node}
    return int(cfg.hardware.nodes * cfg.openrlhf.get("actor", of_sft)["num_gpus_per_node"])


def count_trained(shape: Shape, flags: Any) -> int:
    """Count the weights that are trained: all of them, or LoRA's adapters."""
    return shape.count_lora(flags.ds.lora.rank) or shape.parameters


def count_rows(cfg: Any) -> dict[str, int]:
    """Count the rows of `train` and `eval`: prepared, else official, else plan.rows."""
    folder, path = find_data(cfg), Path(cfg.openrlhf.eval.dataset or "dev.jsonl")
    known = {split: facts.rows for split, facts in cfg.data.official.items() if "rows" in facts}
    known = {"train": cfg.plan.rows.train, path.stem: cfg.plan.rows.dev} | known
    if (folder / MANIFEST).is_file():
        files = open_data(cfg).manifest["files"]
        known = {Path(name).stem: file["rows"] for name, file in files.items()}
    # a file of the user's own
    if path.parent != folder and path.is_file():
        known[path.stem] = path.read_bytes().count(b"\n")
    return {"train": known.get("train", 0), "eval": known.get(path.stem, 0)}


def count_steps(flags: Any, rows: int) -> int:
    """Count the steps of a run: PPO's rollout batches over all episodes, SFT's optimizer steps."""
    used = min(rows, flags.data.max_samples)
    if "rollout" in flags:
        return int(used // flags.rollout.batch_size * flags.train.num_episodes)
    return int(used * flags.train.max_epochs // flags.train.batch_size)


def count_every(steps: int, each: int) -> int:
    """Count what happens every `each` steps; never where that is 0 or less."""
    return int(steps // each) if each > 0 else 0


def find_response_lengths(cfg: Any) -> tuple[float, float]:
    """Find a response's mean length, from `plan.*`, and the longest that is allowed, in tokens."""
    longest = cfg.openrlhf.rollout.max_new_tokens or cfg.openrlhf.data.max_len
    return min(cfg.plan.response_tokens, longest), longest


def plan_model(shape: Shape, flags: Any, ranks: int) -> tuple[Any, float]:
    """Compute a trained model's bytes on one GPU, and in host memory; ranks: of ZeRO.

    step: gradients and what the optimizer's step needs; optimizer: leaves the GPU in sleep.
    """
    count, stage = count_trained(shape, flags), flags.ds.zero_stage
    weights = 2.0 * shape.parameters / (ranks if stage == 3 else 1)
    weights += 2 * shape.count_lora(flags.ds.lora.rank)
    # bf16 gradients, or fp32 ones with ds.grad_accum_dtype=fp32 (deepspeed/runtime/engine.py:1578)
    gradient_bytes = 4 if flags.ds.grad_accum_dtype == "fp32" else 2
    gradients = gradient_bytes * count / (ranks if stage >= 2 else 1)
    if flags.ds.adam_offload:
        # ZeRO-2 hands each bucket of gradients to the host
        step = (gradients if stage < 2 else 0) + BUCKET
        return Bytes(weights=weights, step=step), plan_offload(count / ranks)
    # fp32 weights and two moments; stage_1_and_2.py:2371: the step makes fp32 copies of gradients
    states, step = 12 * count / ranks, gradients + 4 * count / ranks + BUCKET
    return Bytes(weights=weights, optimizer=states, step=step), 0.0


def plan_offload(count: float) -> float:
    """Compute the host bytes of one rank that offloads the optimizer of `count` weights.

    Flat fp32 weights, gradients and a bf16 copy, and bf16 gradients, are pinned (stage_1_and_2.py:
    497, 852, 509, 1537), rounded up to powers of two (CachingHostAllocator.h:300); moments are not.
    """
    flat = sum(2.0 ** math.ceil(math.log2(size * count)) for size in (4, 4, 2)) if count else 0.0
    return flat + 2 * count * 4 / 3 + 8 * count


def plan_activations(shape: Shape, tokens: float, logit_bytes: int) -> float:
    """Compute a forward pass's bytes for `tokens`; logit_bytes: 0 for a critic's single value."""
    block = 2 * tokens * (10 * shape.hidden + 4 * shape.intermediate)
    return block + logit_bytes * tokens * shape.vocab


def count_kv_tokens(shape: Shape, cfg: Any) -> int:
    """Count the tokens of one vLLM engine's KV cache; negative where the weights do not fit."""
    vllm = cfg.openrlhf.vllm
    free = vllm.gpu_memory_utilization * cfg.hardware.gpu_memory_gb * GIB - VLLM_WORK
    free -= plan_activations(shape, VLLM_BATCH, 0)
    free -= 2 * shape.parameters / vllm.tensor_parallel_size
    return int(free * vllm.tensor_parallel_size / shape.kv_bytes)


def size_cpu_cache(cfg: Any, shape: Shape | None) -> int:
    """Compute the bytes of an engine's KV cache without a GPU, from its part of a rollout."""
    token = shape.kv_bytes if shape else math.inf
    return int(min(GIB, max(GIB / 4, count_samples(cfg) * cfg.openrlhf.data.max_len * token)))


def plan_phases(cfg: Any, shape: Shape) -> tuple[dict[str, Any], float]:
    """Compute each phase's bytes on a training GPU, by what they are for, and a node's host bytes.

    In an async run the rollout's need is that of a vLLM GPU.
    """
    flags, is_ppo, ranks = cfg.openrlhf, "actor" in cfg.openrlhf, count_ranks(cfg)
    trained, frozen = count_models(flags)
    model, host = plan_model(shape, flags, ranks)
    host *= trained
    # What is on the GPU in every phase
    shared = is_ppo and not flags.train.async_enable  # vLLM is on the same GPUs
    weights, is_split = 2.0 * shape.parameters, flags.ds.zero_stage == 3
    reference = frozen * weights / (ranks if is_split else 1)
    # DeepSpeed offloads parameters with ZeRO-3 only
    if is_split and frozen and flags.ref.offload:
        host, reference = host + reference, 0.0
    resident = Bytes(weights=trained * model["weights"] + reference)
    resident["processes"] = CONTEXT * (trained + frozen + shared)
    # with sleep one model is awake at a time, and the actor needs most; else both at once
    woken, at_once = Bytes(optimizer=model["optimizer"]), 1
    if is_ppo and flags.ds.enable_sleep:
        host += trained * model["optimizer"]
    else:
        resident["optimizer"], woken, at_once = trained * model["optimizer"], Bytes(), trained
    learned = flags.train.micro_batch_size * flags.data.max_len
    checkpointing = flags.get("actor", flags.get("model")).gradient_checkpointing_enable
    kept = 2 * learned * shape.hidden if checkpointing else plan_activations(shape, learned, 0)
    entropy = ENTROPY if is_ppo and flags.actor.entropy_coef is not None else 0
    training = resident
    for logit_bytes in (2 * LOGIT + entropy, 0)[:at_once]:
        work = plan_activations(shape, learned, logit_bytes) + kept * shape.layers
        training = training + woken + Bytes(step=model["step"], activations=work)
    # Loading: a third of the states again, while the fp32 copy of the weights is made
    loading = resident + woken + Bytes(step=model["optimizer"] / 3)
    per_node = ranks // cfg.hardware.nodes
    if not is_ppo:
        return {"load": loading, "training": training}, max(host, weights) * per_node

    engine = Bytes(vLLM=flags.vllm.gpu_memory_utilization * cfg.hardware.gpu_memory_gb * GIB)
    awake = engine if shared and not flags.vllm.enable_sleep else Bytes()
    synced = Bytes(vLLM=weights / flags.vllm.tensor_parallel_size) if shared else Bytes()
    looked = flags.rollout.micro_batch_size * flags.data.max_len
    host += weights if flags.vllm.enable_sleep else 0  # sleep level 1 moves vLLM's to the host
    phases = {
        "load": loading + awake,
        "rollout": (resident if shared else Bytes(processes=CONTEXT)) + engine,
        "experience": resident + awake + Bytes(activations=plan_activations(shape, looked, LOGIT)),
        "training": training + awake,
        "sync": resident + (awake or synced) + Bytes(step=2.0 * shape.vocab * shape.hidden),
    }
    # while loading, every rank reads the actor and then the reference: peaks one after another
    return phases, max(host, 2 * weights) * per_node


def plan_cpu(cfg: Any, shape: Shape) -> Any:
    """Compute the bytes of a run without a GPU, all its processes together, by what they are for.

    Within a tenth of what was measured in five runs (tests/test_plan.py); nothing is sharded there.
    """
    flags, ranks = cfg.openrlhf, count_ranks(cfg)
    trained, frozen = (ranks * count for count in count_models(flags))
    engines, is_ppo = flags.vllm.num_engines if "vllm" in flags else 0, "actor" in flags
    # the engine's command and trainer, and Ray's daemons; SFT has torchrun alone
    processes = trained + frozen + 2 * engines + (3 if is_ppo else 1)
    logits = 2 * LOGIT * flags.train.micro_batch_size * flags.data.max_len * shape.vocab
    count = count_trained(shape, flags)
    return Bytes(
        processes=CPU_PROCESS * processes,
        weights=2.0 * shape.parameters * (trained + frozen + engines),
        # fp32 weights, two moments and bf16 gradients; the step makes fp32 copies
        optimizer=14.0 * count * trained,
        step=max(10.0 * count, logits) * trained,
        vLLM=float(size_cpu_cache(cfg, shape) * engines if engines else 0),
    )


def check_memory(cfg: Any, shape: Shape) -> tuple[list[str], list[str]]:
    """List what cannot fit (weights, states and vLLM alone) and what may not, each with its key."""
    found: tuple[list[str], list[str]] = ([], [])
    size, longest = cfg.hardware.gpu_memory_gb, cfg.openrlhf.data.max_len
    if not cfg.hardware.cuda or size is None:
        return found
    for phase, parts in plan_phases(cfg, shape)[0].items():
        needed = sum(parts.values()) / GIB
        certain = sum(parts.get(name, 0.0) for name in ("weights", "optimizer", "vLLM")) / GIB
        if needed > MARGIN * size:
            found[certain <= size].append(
                f"{phase} needs {needed:.0f} GiB on each GPU, of {size:g} GiB (5 % left free): "
                f"{suggest_key(phase, parts, cfg)}"
            )
    # the KV cache gets what vLLM's fraction leaves next to the weights
    if "vllm" in cfg.openrlhf and (tokens := count_kv_tokens(shape, cfg)) < longest:
        room = f"room for {max(0, tokens)} tokens next to the weights, a sample has up to {longest}"
        fraction = f"{cfg.openrlhf.vllm.gpu_memory_utilization:g} of {size:g} GiB"
        found[0].append(f"vLLM's {fraction} leave {room}: raise hardware.vllm_memory")
    return found


def suggest_key(phase: str, parts: dict[str, float], cfg: Any) -> str:
    """Name the keys that take most off this phase, of those not used yet."""
    flags, hardware, is_ppo = cfg.openrlhf, cfg.hardware, "actor" in cfg.openrlhf
    batch = "train" if phase == "training" else "rollout"
    keys = {}
    if not flags.ds.adam_offload:
        keys["optimizer"] = f"hardware.{'' if is_ppo else 'sft_'}adam_offload=true"
    if flags.ds.zero_stage < 3 and hardware.gpus_per_node > 1:
        keys["weights"] = "hardware.zero_stage=3"
    if phase == "rollout":
        keys["vLLM"] = "a lower openrlhf.vllm.gpu_memory_utilization"
    elif is_ppo and not hardware.sleep and not hardware["async"]:
        keys["vLLM"] = "hardware.sleep=true"
    if "activations" in parts and flags[batch].micro_batch_size > 1:
        keys["activations"] = f"openrlhf.{batch}.micro_batch_size=1"
    largest = [name for name, _ in Bytes(parts).most_common() if name in keys][:2]
    return " or ".join(keys[name] for name in largest) or "a larger hardware=…, or a smaller model"


def plan_checkpoint(flags: Any, shape: Shape) -> float:
    """Compute the bytes of one checkpoint to resume from, of all trained models."""
    base = 2 * shape.parameters if flags.ds.lora.rank else 0
    return float((CHECKPOINT * count_trained(shape, flags) + base) * count_models(flags)[0])


def plan_disk(cfg: Any, shape: Shape, rows: dict[str, int]) -> dict[str, float]:
    """Compute the bytes on disk of a run: ckpt.max_num checkpoints, and the best next to them."""
    flags, ckpt, steps = cfg.openrlhf, cfg.openrlhf.ckpt, count_steps(cfg.openrlhf, rows["train"])
    copy, best = 2.0 * shape.parameters, 0
    sizes = {"model": copy + 2 * shape.count_lora(flags.ds.lora.rank), "logs": LOGS}
    if "rollout" in flags:
        best = int(flags.eval.steps > 0 and ckpt.best_metric_key != "none")
        samples = steps * flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
        evaluated = rows["eval"] * flags.eval.n_samples_per_prompt
        samples += count_every(steps, flags.eval.steps) * evaluated
        sizes["rollouts"] = samples * find_response_lengths(cfg)[0] * ROLLOUT_TOKEN
    saves = count_every(steps, ckpt.save_steps)
    if not ckpt.disable_ds:
        sizes["to resume from"] = plan_checkpoint(flags, shape) * (min(ckpt.max_num, saves) + best)
    if ckpt.save_hf:
        sizes["copies"] = copy * (saves + 2 * best)  # the old best goes after the new one came
    return sizes


def build_machine(**known: float) -> Any:
    """Build the speed of a node: what is known, else the constants of plan.yaml."""
    return SimpleNamespace(**CONSTANTS | known)


def read_machine(cfg: Any) -> Any:
    """Read the constants: assumed, or those of plan.measured. Raises UserError."""
    path, hardware, measured = cfg.plan.measured, cfg.hardware, {}
    try:
        if path is not None:
            measured = read_mapping(Path(path), "run `make smoke`")["constants"]
        known = {name: type(CONSTANTS[name])(value) for name, value in measured.items()}
        if not all(0 < value < math.inf for value in known.values()):
            raise ValueError(f"{known}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"plan.measured={path} is no smoke.json ({error!r:.100}): run `make smoke`"
        raise UserError(message) from error
    speed = {"flops": hardware.gpu_tflops * 1e12, "memory": hardware.gpu_tbps * 1e12}
    return build_machine(**speed | known)


def estimate_generation(cfg: Any, shape: Shape, samples: float, machine: Any) -> float:
    """Estimate the seconds of `samples` in vLLM: prefill by FLOPs, decoding by bytes."""
    vllm, prompt = cfg.openrlhf.vllm, cfg.plan.prompt_tokens
    response, longest = find_response_lengths(cfg)
    gpus, samples, weights = vllm.tensor_parallel_size, samples / vllm.num_engines, shape.parameters
    prefill = 2 * weights * samples * prompt / (gpus * machine.flops * machine.forward_fraction)
    # as many at once as the KV cache holds, 1,024 at most (recipes/engine/trainer.py)
    room = count_kv_tokens(shape, cfg) / (prompt + response)
    waves = samples / min(samples, max(1.0, room), 1024.0)
    # Decoding ends with the longest response, which is taken to be as long as it may be
    steps = longest + (waves - 1) * response
    bandwidth = gpus * machine.memory * machine.decode_fraction
    decoding = steps * max(2 * weights / bandwidth, machine.decode_floor)
    cached = samples * response * (prompt + response / 2) * shape.kv_bytes
    return prefill + decoding + cached / bandwidth


def estimate_update(cfg: Any, shape: Shape, tokens: float, updates: int, machine: Any) -> float:
    """Estimate the seconds to train one model on `tokens` of all ranks, in optimizer steps."""
    flags, nodes, ranks = cfg.openrlhf, cfg.hardware.nodes, count_ranks(cfg)
    micro, count = flags.train.micro_batch_size, count_trained(shape, flags)
    checkpointing = flags.get("actor", flags.get("model")).gradient_checkpointing_enable
    # Larger micro-batches fill the GPU better: 20 % of its FLOPs at 4, 25 % at 8
    fraction = machine.train_fraction * (1.25 if micro >= 8 else 1.0)
    flop = (8 if checkpointing else 6) * shape.parameters * tokens
    seconds = flop / (ranks * machine.flops * fraction)
    # ZeRO-2 reduces gradients at each micro-batch and gathers weights at each update
    micro_batches = flags.train.batch_size * updates / (micro * ranks)
    wire = machine.network if nodes > 1 else machine.link
    reduced = micro_batches * (6 if flags.ds.zero_stage == 3 else 2) * count
    seconds += (reduced + updates * 2 * count) / wire * (ranks - 1) / ranks
    if flags.ds.adam_offload:
        # gradients cross PCIe twice a micro-batch (stage_1_and_2.py:1526), weights each update
        adam = min(machine.adam_node, machine.adam_thread * machine.adam_threads)
        seconds += updates * (count / nodes / adam + 4 * count / ranks / machine.host)
        seconds += micro_batches * 2 * 2 * count / ranks / machine.host
    return seconds


def estimate_step(cfg: Any, shape: Shape, machine: Any) -> dict[str, float]:
    """Estimate the seconds of one step by phase; `step` is the whole."""
    flags, (trained, frozen) = cfg.openrlhf, count_models(cfg.openrlhf)
    if "rollout" not in flags:
        tokens = flags.train.batch_size * (cfg.plan.prompt_tokens + 2)
        return {"step": estimate_update(cfg, shape, tokens, 1, machine)}
    samples = flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
    updates = samples // flags.train.batch_size * flags.train.max_epochs
    tokens = samples * (cfg.plan.prompt_tokens + find_response_lengths(cfg)[0])
    speed = count_ranks(cfg) * machine.flops * machine.forward_fraction
    weights = 2 * shape.parameters  # bytes; moving them to the host and back takes under a second
    # A sync calls every engine for each tensor; on vLLM's own GPU, CUDA IPC copies within it
    call = machine.tensor_call + machine.engine_call * flags.vllm.num_engines
    wire = machine.network if cfg.hardware.nodes > 1 else machine.link
    shared = not flags.train.async_enable and flags.vllm.sync_backend == "nccl"
    sync = shape.tensors * call + weights / (machine.memory if shared else wire)
    sync += weights / wire if flags.ds.zero_stage == 3 else 0.0
    phases = {
        "generation": estimate_generation(cfg, shape, samples, machine),
        "controller": samples * machine.sample_call,
        "experience": (trained + frozen) * weights * tokens / speed,
        # actor and critic in turn, or at the same time on the same GPUs: no faster
        "training": trained * estimate_update(cfg, shape, tokens, updates, machine),
        "sync": sync,
    }
    whole, busy = sum(phases.values()), phases["generation"] + phases["controller"]
    if flags.train.async_enable:  # generation overlaps the rest
        whole = max(busy, whole - busy) + sync
    return phases | {"step": whole}


def estimate_run(cfg: Any, shape: Shape, machine: Any) -> dict[str, float]:
    """Estimate the seconds of a step by phase, an evaluation, a save, the start and the run."""
    flags, rows = cfg.openrlhf, count_rows(cfg)
    run = estimate_step(cfg, shape, machine)
    steps, evaluations, evaluation = count_steps(flags, rows["train"]), 0, 0.0
    # samples_generator.py:73: in chunks of rollout.batch_size, each waits for its longest
    if "rollout" in flags and rows["eval"]:
        evaluations = count_every(steps, flags.eval.steps)
        chunk = min(rows["eval"], flags.rollout.batch_size)
        samples = chunk * flags.eval.n_samples_per_prompt
        each = estimate_generation(cfg, shape, samples, machine)
        evaluation = math.ceil(rows["eval"] / chunk) * each
    save = plan_checkpoint(flags, shape) / machine.disk
    start = machine.start if "rollout" in flags else machine.start / 3
    # a new best checkpoint is assumed at a third of the evaluations
    saves = count_every(steps, flags.ckpt.save_steps) + evaluations / 3
    whole = start + steps * run["step"] + evaluations * evaluation + saves * save
    return run | {"evaluation": evaluation, "save": save, "start": start, "run": whole}


def print_plan(cfg: DictConfig) -> None:
    """Print memory and time by phase, disk, what does not fit, what the time depends on."""
    from pandas import DataFrame

    if wrong := find_wrong_values(cfg, "ppo" if "actor" in cfg.openrlhf else "sft"):
        raise UserError(*wrong)
    shape, hardware, rows = read_shape(cfg), cfg.hardware, count_rows(cfg)
    if shape is None:
        advice = "download it, or set model.shape"
        raise UserError(f"the shape of model.path={cfg.model.path} is unknown: {advice}")
    size = shape.parameters / 1e9
    print(f"{cfg.name} on {hardware.name}: {size:.2f} B parameters; planned, not measured\n")
    if hardware.cuda:
        phases, host = plan_phases(cfg, shape)  # memory first: it decides if the run can start
        memory = DataFrame(phases).T / GIB
        print(memory.assign(all=memory.sum(axis=1)).to_string(na_rep="", float_format="%.1f"))
        has = f"this machine has {psutil.virtual_memory().total / GIB:.0f}"
        print(f"GiB on a GPU of {hardware.gpu_memory_gb:g}; a node: {host / GIB:.0f} ({has})\n")
        machine = read_machine(cfg)  # then time, as a range: nothing of it was measured here
        time = DataFrame({"seconds": estimate_run(cfg, shape, machine)})
        time["range from"], time["to"] = (time["seconds"] * factor for factor in RANGE)
        print(time[time["seconds"] > 0].drop("run").to_string(float_format="%.3g"))
        steps = count_steps(cfg.openrlhf, rows["train"])
        gpus = hardware.nodes * hardware.gpus_per_node
        low, high = time.loc["run", ["range from", "to"]] / 3600
        each = f"{low * gpus:.3g} to {high * gpus:.3g} GPU-hours"
        print(f"{steps} steps: {low:.3g} to {high:.3g} hours, {each}")
        constants = ", ".join(f"{name} {value:.3g}" for name, value in vars(machine).items())
        shown = {key: value for key, value in cfg.plan.items() if value and key != "rows"}
        given = ", ".join(f"{key} {value}" for key, value in shown.items())
        counted = f"{rows['train']:,} rows to train on, {rows['eval']:,} to evaluate"
        longest = "the longest response as long as allowed"
        print(f"rests on {counted}; {given}; {longest}; {constants}\n")
    else:
        print("hardware=cpu: a GPU's memory and time do not apply; see docs/engine.md")
    disk = plan_disk(cfg, shape, rows)  # without a GPU too
    listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in disk.items())
    print(f"disk: {sum(disk.values()) / 1e9:.0f} GB ({listed})")
    for kind, lines in zip(("does not fit", "may not fit"), check_memory(cfg, shape), strict=True):
        for line in lines:
            print(f"{kind}: {line}")


def main() -> None:
    """Compose rlvr.yaml, or sft.yaml with method=sft, and print the plan."""
    is_sft = "method=sft" in sys.argv
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in ("method=ppo", "method=sft")]
    run_command(print_plan, "sft" if is_sft else "rlvr", partial(complete_words, sft=is_sft))


if __name__ == "__main__":
    main()
