"""The memory and time of a run before it starts, by the numbers that preflight refuses by: `make plan`.

make plan experiment=paper hardware=8x80gb
make plan experiment=7B hardware=2x8x80gb openrlhf.rollout.batch_size=512
make plan method=sft experiment=paper hardware=1x80gb
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from data_prep.command import run_command
from recipes import cost, disk, memory
from recipes.machine import complete_words, find_host_memory_gb
from recipes.model import Shape, read_shape


def main() -> None:
    """Compose rlvr.yaml, or sft.yaml with method=sft, and print the plan."""
    methods = [word.partition("=")[2] for word in sys.argv if word.startswith("method=")]
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith("method=")]
    method = methods[-1] if methods else "ppo"
    if method not in ("ppo", "sft"):
        sys.exit(f"method={method} is neither ppo nor sft")
    run_command(
        lambda cfg: print_plan(cfg, method),
        "rlvr" if method == "ppo" else "sft",
        partial(complete_words, sft=method == "sft"),
    )


def print_plan(cfg: DictConfig, method: str, console: Console | None = None) -> None:
    """Memory by phase, time by phase, disk, what does not fit, and what all this assumes."""
    console = console or Console(highlight=False)
    shape = read_shape(cfg)
    if shape is None:
        sys.exit(
            f"the shape of model.path={cfg.model.path} is not known: download it, or give model.shape"
        )
    size = f"{shape.parameters / 1e9:.2f} B parameters"
    console.print(f"[bold]{cfg.name} on {cfg.hardware.name}[/]: {size}; planned, not measured")
    if cfg.hardware.cuda:
        console.print(tabulate_memory(cfg, method, shape))
        console.print(tabulate_time(cfg, method, shape))
    else:
        console.print(
            "hardware=cpu: memory and time of a GPU do not apply; docs/engine.md has what was measured"
        )
    kept = disk.plan_disk(cfg, method, shape, count_rows(cfg))
    listed = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in kept.items())
    console.print(f"disk: {sum(kept.values()) / 1e9:.0f} GB ({listed})")
    for line in memory.find_shortages(cfg, method, shape):
        console.print(f"[bold red]does not fit[/]: {line}")
    console.print(f"assumed: {state_assumptions(cfg, method)}", style="dim")


def tabulate_memory(cfg: Any, method: str, shape: Shape) -> Table:
    """GiB on a GPU, a row a phase, a column a part."""
    needs, host = memory.plan_ppo(cfg, shape) if method == "ppo" else memory.plan_sft(cfg, shape)
    names = list(dict.fromkeys(name for need in needs for name in need.parts))
    here = find_host_memory_gb()
    caption = f"host memory: {host / memory.GIB:.0f} GiB a node beside the data (this machine: {here:.0f})"
    title = f"GiB on a GPU of {cfg.hardware.gpu_memory_gb:g}"
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("phase")
    for name in [*names, "all"]:
        table.add_column(name, justify="right", no_wrap=True)
    for need in needs:
        cells = [
            f"{need.parts[name] / memory.GIB:.1f}" if name in need.parts else "" for name in names
        ]
        table.add_row(need.phase, *cells, f"{need.bytes / memory.GIB:.1f}")
    return table


def tabulate_time(cfg: Any, method: str, shape: Shape) -> Table:
    """Seconds of a step by phase, and hours of the run."""
    rows = count_rows(cfg)
    table = Table(title="time", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("of a step")
    table.add_column("seconds", justify="right")
    if method == "ppo":
        for name, seconds in cost.estimate_step(cfg, shape).items():
            table.add_row(name, f"{seconds:.1f}", end_section=name == "controller")
        run = cost.estimate_run(cfg, shape, rows["train"], rows["dev"])
        table.add_row("one evaluation on dev", f"{run['evaluation']:.1f}")
    else:
        run = cost.estimate_sft(cfg, shape, rows["train"])
        table.add_row("step", f"{run['step']:.2f}")
    table.add_row(f"run of {run['steps']:.0f} steps", f"{run['run'] / 3600:.1f} h")
    table.add_row("GPU-hours", f"{run['gpu_hours']:.0f} h")
    return table


def count_rows(cfg: Any) -> dict[str, int]:
    """Training and dev rows: of the prepared data, else of the official data set, else `plan.rows`."""
    manifest = Path(cfg.data_dir) / cfg.data.name / "manifest.json"
    if manifest.is_file():
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {
            split: files[f"{split}.jsonl"]["rows"]
            for split in ("train", "dev")
            if f"{split}.jsonl" in files
        }
    official = {
        split: (cfg.data.official.get(split) or {}).get("rows") for split in ("train", "dev")
    }
    return {split: rows or cfg.plan.rows[split] for split, rows in official.items()}


def state_assumptions(cfg: Any, method: str) -> str:
    """What the numbers rest on, in a line or two."""
    machine = cost.Machine()
    response = (
        f", responses {cfg.plan.response_tokens}, the longest as long as may be"
        if method == "ppo"
        else ""
    )
    return (
        f"prompts of {cfg.plan.prompt_tokens} tokens{response}; H100: {machine.flops / 1e12:.0f} TFLOP/s bf16 at "
        f"{machine.train_share:.0%} (training) and {machine.forward_share:.0%} (forward), "
        f"{machine.memory / 1e12:.2f} TB/s at {machine.decode_share:.0%} (decoding), "
        f"{machine.network / 1e9:.0f} GB/s between nodes, {machine.host / 1e9:.0f} GB/s to the host. "
        "All of them: recipes/cost.py, recipes/memory.py"
    )


if __name__ == "__main__":
    main()
