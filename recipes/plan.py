"""Print the memory, time and disk of a run before it starts: `make plan`.

make plan experiment=paper hardware=8x80gb
make plan experiment=7B hardware=2x8x80gb openrlhf.rollout.batch_size=512
make plan method=sft experiment=paper hardware=1x80gb
make plan hardware=8x80gb plan.measured=runs/smoke/NAME/smoke.json      constants of `make smoke`

Memory and disk are those of recipes/fit.py. Time is a range, from FLOPs, bytes and calls: each
constant of Machine is assumed of an H100 node, and RANGE is what seven public runs took of such
estimates (docs/hardware.md).
"""

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from data_prep.command import run_command
from data_prep.errors import UserError
from recipes import fit
from recipes.machine import complete_words, find_host_memory_gb
from recipes.model import Shape, read_shape

RANGE = (0.6, 3.0)  # of an estimate: where the public measurements of tests/test_plan.py fall


class Machine(NamedTuple):
    """Speed of an H100 node: FLOP/s (bf16, dense) and bytes/s a GPU, fractions, seconds a call."""

    flops: float = 989e12  # data sheet, H100 SXM; hardware.gpu_tflops
    memory: float = 3.35e12  # HBM3, data sheet; hardware.gpu_tbps
    link: float = 300e9  # NVLink 4: two thirds of 450e9 each way
    network: float = 40e9  # between nodes: 80 % of 400 Gb/s for each GPU
    host: float = 45e9  # PCIe 5 to pinned host memory
    disk: float = 1.5e9  # a checkpoint to a shared file system
    train_fraction: float = 0.20  # of FLOPs; public RL runs at 3B reach 6 to 30 %
    forward_fraction: float = 0.32
    decode_fraction: float = 0.6  # of memory bandwidth
    decode_floor: float = 0.009  # a decode step, however small: kernel starts, scheduler, sampler
    adam_thread: float = 0.3e9  # weights a second that one CPU thread updates (DeepSpeed PR 7474)
    adam_node: float = 2.0e9  # and a node at most: memory bandwidth
    adam_threads: int = 32
    tensor_call: float = 0.010  # one tensor of a sync: Ray call, gather of handles, load
    engine_call: float = 0.0003  # more for each vLLM engine that is called
    sample_call: float = 0.002  # one sample in the trainer's process: dispatch, objects, decoding
    start: float = 180.0  # from the command to the first step


class StepLoad(NamedTuple):
    """Work of one step. samples: responses; updates: optimizer steps; mean lengths in tokens."""

    samples: int
    updates: int
    prompt: float
    response: float
    longest: int


def read_machine(cfg: Any) -> Machine:
    """Read the constants: assumed, or those of plan.measured. Raises UserError."""
    flops, memory = cfg.hardware.gpu_tflops * 1e12, cfg.hardware.gpu_tbps * 1e12
    machine = Machine(flops=flops, memory=memory)
    if cfg.plan.measured is None:
        return machine
    try:
        measured = json.loads(Path(cfg.plan.measured).read_text(encoding="utf-8"))["constants"]
        return Machine(**machine._asdict() | {name: float(x) for name, x in measured.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"plan.measured={cfg.plan.measured} is no smoke.json ({error!r:.100}): run `make smoke`"
        ) from error


def plan_load(cfg: Any) -> StepLoad:
    """Compute the load of one PPO step. Lengths are `plan.*`: they are not known before the run."""
    flags = cfg.openrlhf
    samples = flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
    updates = samples // flags.train.batch_size * flags.train.max_epochs
    longest = flags.rollout.max_new_tokens or flags.data.max_len
    response = min(cfg.plan.response_tokens, longest)
    return StepLoad(samples, updates, cfg.plan.prompt_tokens, response, longest)


def estimate_generation(cfg: Any, shape: Shape, load: StepLoad, machine: Machine) -> float:
    """Estimate the seconds of a rollout in vLLM: prefill by FLOPs, decoding by bytes."""
    vllm = cfg.openrlhf.vllm
    gpus = vllm.tensor_parallel_size
    samples = load.samples / vllm.num_engines
    speed = gpus * machine.flops * machine.forward_fraction
    prefill = 2 * shape.parameters * samples * load.prompt / speed
    # as many at once as the KV cache holds, 1,024 at most (recipes/engine/startup)
    room = fit.count_kv_tokens(shape, cfg) / (load.prompt + load.response)
    waves = samples / min(samples, max(1.0, room), 1024.0)
    # Decoding ends with the longest response, which is taken to be as long as it may be
    steps = load.longest + (waves - 1) * load.response
    bandwidth = gpus * machine.memory * machine.decode_fraction
    weights = max(2 * shape.parameters / bandwidth, machine.decode_floor)
    context = load.prompt + load.response / 2
    cached = samples * load.response * context * shape.kv_bytes
    return prefill + steps * weights + cached / bandwidth


def estimate_update(cfg: Any, shape: Shape, tokens: float, updates: int, machine: Machine) -> float:
    """Estimate the seconds to train one model on `tokens` of all ranks, in optimizer steps."""
    flags, hardware = cfg.openrlhf, cfg.hardware
    is_ppo = "actor" in flags
    per_node = flags.actor.num_gpus_per_node if is_ppo else hardware.gpus_per_node
    checkpointing = (flags.actor if is_ppo else flags.model).gradient_checkpointing_enable
    ranks, micro = hardware.nodes * per_node, flags.train.micro_batch_size
    # Larger micro-batches fill the GPU better: 20 % of its FLOPs at 4, 25 % at 8
    fraction = machine.train_fraction * (1.25 if micro >= 8 else 1.0)
    flop = (8 if checkpointing else 6) * shape.parameters * tokens
    seconds = flop / (ranks * machine.flops * fraction)

    # ZeRO-2 reduces gradients at each micro-batch and gathers weights at each update
    count = fit.count_trained(shape, flags)
    micro_batches = flags.train.batch_size * updates / (micro * ranks)
    wire = machine.network if hardware.nodes > 1 else machine.link
    reduced = micro_batches * (6 if flags.ds.zero_stage == 3 else 2) * count
    seconds += (reduced + updates * 2 * count) / wire * (ranks - 1) / ranks
    if flags.ds.adam_offload:
        # gradients cross PCIe twice a micro-batch (stage_1_and_2.py:1526), weights each update
        adam = min(machine.adam_node, machine.adam_thread * machine.adam_threads)
        seconds += updates * (count / hardware.nodes / adam + 4 * count / ranks / machine.host)
        seconds += micro_batches * 2 * 2 * count / ranks / machine.host
    return seconds


def estimate_sync(cfg: Any, shape: Shape, machine: Machine) -> float:
    """Estimate the seconds of a weight sync to every vLLM engine: calls, then bytes."""
    flags = cfg.openrlhf
    call = machine.tensor_call + machine.engine_call * flags.vllm.num_engines
    wire = machine.network if cfg.hardware.nodes > 1 else machine.link
    # Where vLLM is on the same GPU, CUDA IPC copies within it
    shared = not flags.train.async_enable and flags.vllm.sync_backend == "nccl"
    moved = 2 * shape.parameters / (machine.memory if shared else wire)
    if flags.ds.zero_stage == 3:
        moved += 2 * shape.parameters / wire
    return shape.tensors * call + moved


def estimate_step(cfg: Any, shape: Shape, machine: Machine) -> dict[str, float]:
    """Estimate the seconds of one PPO step by phase; `step` is the whole."""
    flags, load = cfg.openrlhf, plan_load(cfg)
    ranks = cfg.hardware.nodes * flags.actor.num_gpus_per_node
    critic, ref = flags.algo.advantage.estimator == "gae", flags.algo.kl.init_coef > 0
    tokens = load.samples * (load.prompt + load.response)
    forward = 2 * shape.parameters * tokens / (ranks * machine.flops * machine.forward_fraction)
    moved = 0.0
    if flags.vllm.enable_sleep:  # weights out and in again
        moved += 2 * 2 * shape.parameters / machine.host
    if flags.ds.enable_sleep and not flags.ds.adam_offload:
        states = 14 * fit.count_trained(shape, flags) / ranks
        moved += 2 * (1 + critic) * states / machine.host
    phases = {
        "generation": estimate_generation(cfg, shape, load, machine),
        "controller": load.samples * machine.sample_call,
        "experience": (1 + critic + ref) * forward,
        # actor and critic in turn, or at the same time on the same GPUs: no faster
        "training": (1 + critic) * estimate_update(cfg, shape, tokens, load.updates, machine),
        "sync": estimate_sync(cfg, shape, machine),
        "moving": moved,
    }
    if flags.train.async_enable:  # generation overlaps the rest
        busy = phases["generation"] + phases["controller"]
        whole = max(busy, sum(phases.values()) - busy) + phases["sync"]
    else:
        whole = sum(phases.values())
    return phases | {"step": whole}


def estimate_run(cfg: Any, method: str, shape: Shape, machine: Machine) -> dict[str, float]:
    """Estimate steps, seconds of a step, of an evaluation, of a save, of the run, and GPU-hours."""
    flags, rows = cfg.openrlhf, fit.count_rows(cfg)
    steps = fit.count_steps(flags, method, rows["train"])
    run: dict[str, float] = {"steps": steps, "evaluation": 0.0, "start": machine.start}
    if method == "ppo":
        run["step"] = estimate_step(cfg, shape, machine)["step"]
        # samples_generator.py:73: in chunks of rollout.batch_size, each waits for its longest
        chunk = min(rows["dev"], flags.rollout.batch_size)
        load = plan_load(cfg)._replace(samples=chunk * flags.eval.n_samples_per_prompt)
        chunks = math.ceil(rows["dev"] / chunk) if chunk else 0
        run["evaluation"] = chunks * estimate_generation(cfg, shape, load, machine)
    else:
        tokens = flags.train.batch_size * (cfg.plan.prompt_tokens + 2)
        run["step"] = estimate_update(cfg, shape, tokens, 1, machine)
        run["start"] = machine.start / 3
    saves = fit.count_every(steps, flags.ckpt.save_steps)
    evaluations = fit.count_every(steps, flags.eval.steps) if method == "ppo" else 0
    run["save"] = fit.plan_checkpoint(cfg, method, shape) / machine.disk
    run["run"] = run["start"] + steps * run["step"] + evaluations * run["evaluation"]
    # a new best checkpoint is assumed at a third of the evaluations
    run["run"] += (saves + evaluations / 3) * run["save"]
    gpus = cfg.hardware.nodes * cfg.hardware.gpus_per_node
    return run | {"gpu_hours": run["run"] * gpus / 3600}


def main() -> None:
    """Compose rlvr.yaml, or sft.yaml with method=sft, and print the plan."""
    methods = [word.partition("=")[2] for word in sys.argv if word.startswith("method=")]
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith("method=")]
    method = methods[-1] if methods else "ppo"
    if method not in ("ppo", "sft"):
        sys.exit(f"method={method} is neither ppo nor sft")
    complete = partial(complete_words, sft=method == "sft")
    name = "rlvr" if method == "ppo" else "sft"
    run_command(partial(print_plan, method=method), name, complete)


def print_plan(cfg: DictConfig, method: str) -> None:
    """Print memory by phase, time by phase, disk, what does not fit, what the time depends on."""
    console, shape = Console(highlight=False), read_shape(cfg)
    if shape is None:
        raise UserError(
            f"the shape of model.path={cfg.model.path} is unknown: download it, or set model.shape"
        )
    size = f"{shape.parameters / 1e9:.2f} B parameters"
    console.print(f"[bold]{cfg.name} on {cfg.hardware.name}[/]: {size}; planned, not measured")
    if cfg.hardware.cuda:
        machine = read_machine(cfg)
        console.print(tabulate_memory(cfg, method, shape))
        console.print(tabulate_time(cfg, method, shape, machine))
        console.print(f"rests on: {list_assumptions(cfg, method, machine)}", style="dim")
    else:
        console.print("hardware=cpu: a GPU's memory and time do not apply; see docs/engine.md")
    kept = fit.plan_disk(cfg, method, shape, fit.count_rows(cfg))
    listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in kept.items())
    console.print(f"disk: {sum(kept.values()) / 1e9:.0f} GB ({listed})")
    refused, doubtful = fit.check_memory(cfg, method, shape)
    for line in refused:
        console.print(f"[bold red]does not fit[/]: {line}")
    for line in doubtful:
        console.print(f"[bold yellow]may not fit[/]: {line}")


def tabulate_memory(cfg: Any, method: str, shape: Shape) -> Table:
    """Build the table of GiB on a GPU: a row a phase, a column a part."""
    needs, host = fit.plan_phases(cfg, method, shape)
    names = list(dict.fromkeys(name for need in needs for name in need.parts))
    columns = [Column(name, justify="right", no_wrap=True) for name in [*names, "all"]]
    table = Table("phase", *columns, box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.title = f"GiB on a GPU of {cfg.hardware.gpu_memory_gb:g}"
    table.caption = f"host memory: {host / fit.GIB:.0f} GiB a node and the data"
    table.caption += f" (this machine has {find_host_memory_gb():.0f})"
    for need in needs:
        sizes = [*(need.parts.get(name, 0.0) for name in names), need.bytes]
        table.add_row(need.phase, *(f"{size / fit.GIB:.1f}" if size else "" for size in sizes))
    return table


def tabulate_time(cfg: Any, method: str, shape: Shape, machine: Machine) -> Table:
    """Build the table of seconds by phase and hours of the run, each estimate with its range."""
    phases = estimate_step(cfg, shape, machine) if method == "ppo" else {}
    run = estimate_run(cfg, method, shape, machine)
    rows = [(name, seconds, "s") for name, seconds in phases.items() if name != "step"]
    rows += [
        ("step", run["step"], "s"),
        ("evaluation on dev", run["evaluation"], "s"),
        ("save", run["save"], "s"),
        (f"run of {run['steps']:.0f} steps", run["run"] / 3600, "h"),
        ("GPU-hours", run["gpu_hours"], "h"),
    ]
    columns = [Column(name, justify="right") for name in ("estimate", "range")]
    table = Table("", *columns, title="time", title_justify="left", box=SIMPLE_HEAD)
    for name, value, unit in rows:
        low, high = (f"{value * factor:.3g}" for factor in RANGE)
        if value:
            table.add_row(name, f"{value:.3g} {unit}", f"{low} to {high} {unit}")
    return table


def list_assumptions(cfg: Any, method: str, machine: Machine) -> str:
    """Name the assumptions of the time, in a line or two."""
    lengths = f"prompts of {cfg.plan.prompt_tokens} tokens"
    if method == "ppo":
        lengths += f", responses of {cfg.plan.response_tokens}, the longest as long as allowed"
    source = f"measured constants of {cfg.plan.measured}" if cfg.plan.measured else "no measurement"
    return (
        f"{lengths}; a GPU: {machine.flops / 1e12:.0f} TFLOP/s bf16 at "
        f"{machine.train_fraction:.0%} (training) and {machine.forward_fraction:.0%} (forward), "
        f"{machine.memory / 1e12:.2f} TB/s at {machine.decode_fraction:.0%} (decoding), "
        f"{machine.host / 1e9:.0f} GB/s to the host; {source}. "
        f"Seven public runs took {RANGE[0]:g} to {RANGE[1]:g} times such an estimate"
    )


if __name__ == "__main__":
    main()
