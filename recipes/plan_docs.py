"""Write the planned tables of docs/hardware.md and docs/scaling.md: `python -m recipes.plan_docs`."""

import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from recipes import cost, disk, memory
from recipes.model import read_shape
from recipes.plan import count_rows

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("1x80gb", "1x141gb", "2x80gb", "4x80gb", "8x80gb", "2x8x80gb", "8x80gb_async")
RECIPES = ("paper", "grpo", "lora", "0.5B", "7B")
SFT_PRESETS = ("1x80gb", "1x141gb", "2x80gb", "4x80gb", "8x80gb")
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def compose_recipe(root: str, *overrides: str) -> DictConfig:
    """A recipe without the machine's own data folder, so that the tables are the same everywhere."""
    with initialize_config_dir(str(ROOT / "recipes" / "configs"), version_base="1.3"):
        return compose(root, [*overrides, "data_dir=/nonexistent"])


def tabulate(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right from the third column on."""
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def render_rlvr() -> str:
    """Memory by phase, host memory, time and disk of each recipe on each preset."""
    rows = []
    for experiment in RECIPES:
        for preset in PRESETS:
            cfg = compose_recipe("rlvr", f"experiment={experiment}", f"hardware={preset}")
            shape = read_shape(cfg)
            assert shape
            needs, host = memory.plan_ppo(cfg, shape)
            cells = [f"{need.bytes / memory.GIB:.0f}" for need in needs]
            counted = count_rows(cfg)
            run = cost.estimate_run(cfg, shape, counted["train"], counted["dev"])
            fits = not memory.find_shortages(cfg, "ppo", shape)
            times = (
                [f"{run['step']:.0f}", f"{run['run'] / 3600:.0f}", f"{run['gpu_hours']:.0f}"]
                if fits
                else ["–"] * 3
            )
            kept = f"{sum(disk.plan_disk(cfg, 'ppo', shape, counted).values()) / 1e9:.0f}"
            status = "planned" if fits else "**refused**: does not fit"
            rows.append(
                [experiment, preset, *cells, f"{host / memory.GIB:.0f}", *times, kept, status]
            )
    head = [
        "experiment",
        "hardware",
        *memory.PHASES,
        "host",
        "s/step",
        "hours",
        "GPU-hours",
        "disk GB",
        "status",
    ]
    return tabulate(head, rows)


def render_sft() -> str:
    """The same for the SFT baselines."""
    rows = []
    for experiment in ("paper", "0.5B", "7B"):
        for preset in SFT_PRESETS:
            cfg = compose_recipe("sft", f"experiment=sft/{experiment}", f"hardware={preset}")
            shape = read_shape(cfg)
            assert shape
            needs, _ = memory.plan_sft(cfg, shape)
            cells = [f"{need.bytes / memory.GIB:.0f}" for need in needs]
            run = cost.estimate_sft(cfg, shape, count_rows(cfg)["train"])
            fits = not memory.find_shortages(cfg, "sft", shape)
            times = [f"{run['step']:.2f}", f"{run['run'] / 60:.0f}"] if fits else ["–"] * 2
            rows.append(
                [
                    experiment,
                    preset,
                    *cells,
                    *times,
                    "planned" if fits else "**refused**: does not fit",
                ]
            )
    return tabulate(
        ["experiment", "hardware", *memory.SFT_PHASES, "s/step", "minutes", "status"], rows
    )


def spread(gpus: int, samples: int, asynchronous: bool = False) -> DictConfig:
    """The paper's recipe on `gpus` GPUs, 8 to a node, with `samples` responses a step and 4 updates.

    asynchronous: half of the GPUs train, half generate.
    """
    cfg = compose_recipe(
        "rlvr", "experiment=paper", "hardware=8x80gb_async" if asynchronous else "hardware=8x80gb"
    )
    with open_dict(cfg):
        cfg.hardware.nodes = max(1, gpus // 8)
        cfg.hardware.gpus_per_node = min(gpus, 8)
        cfg.hardware.training_gpus_per_node = min(gpus, 8) // (2 if asynchronous else 1)
        cfg.hardware.vllm_engines = gpus // (2 if asynchronous else 1)
        if gpus == 1:  # as in hardware=1x80gb
            cfg.hardware.adam_offload, cfg.hardware.ds_sleep = True, False
        cfg.openrlhf.rollout.batch_size = samples // cfg.openrlhf.rollout.n_samples_per_prompt
        cfg.openrlhf.train.batch_size = samples // 4
    return cfg


def render_scaling(samples_of: Any) -> str:
    """Where a step's time goes from 1 to 1,024 GPUs. samples_of: GPUs → responses a step."""
    rows = []
    base = None
    for gpus in GPUS:
        samples = samples_of(gpus)
        cfg = spread(gpus, samples)
        shape = read_shape(cfg)
        assert shape
        parts = cost.estimate_step(cfg, shape)
        rate = samples / parts["step"] / gpus
        base = base or rate
        pays = "–"
        if gpus > 1:
            apart = cost.estimate_step(spread(gpus, samples, asynchronous=True), shape)["step"]
            pays = f"{apart:.0f}"
        cells = [
            f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}" for seconds in parts.values()
        ]
        first = max((name for name in parts if name != "step"), key=lambda name: parts[name])
        rows.append([f"{gpus:,}", f"{samples:,}", *cells, pays, f"{rate / base:.0%}", first])
    names = ["generation", "experience", "training", "sync", "moving", "controller", "step"]
    head = ["GPUs", "samples", *names, "async step", "per GPU, of 1 GPU", "most time"]
    return tabulate(head, rows)


DOCS = {
    "hardware.md": {"rlvr": render_rlvr, "sft": render_sft},
    "scaling.md": {
        "strong": lambda: render_scaling(lambda _: 1024),
        "weak": lambda: render_scaling(lambda gpus: max(1024, 128 * gpus)),
    },
}


def fill_in(text: str, name: str) -> str:
    """The document with its tables between `<!-- table: NAME -->` and `<!-- end -->` written anew."""
    for table, render in DOCS[name].items():
        parts = re.split(
            rf"(?<=<!-- table: {table} -->\n).*?(?=<!-- end -->)", text, flags=re.DOTALL
        )
        if len(parts) != 2:
            raise ValueError(
                f"docs/{name} has {len(parts) - 1} places for the table {table}, not one"
            )
        text = f"{parts[0]}{render()}\n{parts[1]}"
    return text


if __name__ == "__main__":
    for document in DOCS:
        path = ROOT / "docs" / document
        path.write_text(fill_in(path.read_text(encoding="utf-8"), document), encoding="utf-8")
        print(path)
