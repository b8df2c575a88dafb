"""Train the SFT baseline at each rate of a grid, score every epoch on dev, keep one model.

make sft-grid experiment=paper hardware=8x80gb      3 rates × 10 epochs, as the paper
python -m recipes.sft_grid experiment=paper_laptop  the same on a laptop, in minutes
python -m recipes.sft_grid experiment=paper grid.select=last

Each rate is a run of its own, `runs/sft/<name>-<rate>`, made by recipes.sft; eval.run scores its
epochs in mode direct. The same command continues where it was interrupted: a finished run is kept,
an unfinished one resumed, and answers that are there are not asked for again. What it writes:

runs/sft/<name>/grid.json, table.md, grid.png    accuracy on dev by rate and epoch
runs/sft/<name>/model                            a link to the model that was kept
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import write_json, write_text
from data_prep.prepared import open_prepared
from recipes.choices import add_environment_choices

Scores = dict[str, list[float]]
"""Rate → accuracy on dev after each epoch."""


@hydra.main(config_path="configs", config_name="sft", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run the grid; exits with 2 where the user must act, 1 where a part of it failed."""
    try:
        run_grid(cfg, list(HydraConfig.get().overrides.task))
    except UserError as error:
        print(*(f"sft-grid: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        sys.exit(2)


def run_grid(cfg: DictConfig, words: list[str]) -> None:
    """Train and score every rate, then write the table, the plot and the link.

    words: the command line's overrides, which each run gets too. Raises UserError.
    """
    rates = [f"{rate:g}" for rate in cfg.grid.rates]
    if cfg.grid.select not in ("best", "last") or not rates:
        raise UserError("grid.select is best or last, and grid.rates has at least one rate")
    folder, data = Path(cfg.run_dir), Path(cfg.data_dir) / cfg.data.name
    rows = open_prepared(data).manifest["files"]["train.jsonl"]["rows"]
    train = cfg.openrlhf.train
    # the engine leaves out the last, partial batch of each epoch
    steps = min(rows, cfg.openrlhf.data.max_samples) // train.batch_size
    if steps < 1:
        raise UserError(f"{data} has {rows} training rows, fewer than train.batch_size")
    if cfg.dry_run:
        print(f"{len(rates)} rates × {train.max_epochs} epochs of {steps} steps → {folder}")
        return

    scores: Scores = {}
    models: dict[str, list[Path]] = {}
    for rate in rates:
        run_dir = folder.with_name(f"{folder.name}-{rate}")
        train_rate(words, rate, run_dir, steps)
        models[rate] = [
            run_dir / f"checkpoints/global_step{steps * epoch}_hf"
            for epoch in range(1, train.max_epochs + 1)
        ]
        scores[rate] = score_epochs(cfg, f"{cfg.name}-{rate}", models[rate])

    rate, epoch = choose(scores, cfg.grid.select)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"rate": rate, "epoch": epoch, "accuracy": scores[rate][epoch - 1]}
    benchmark = f"{cfg.data.name}/dev"
    record = {"benchmark": benchmark, "mode": "direct", "select": cfg.grid.select, "kept": kept}
    write_json(folder / "grid.json", {**record, "scores": scores})
    write_text(folder / "table.md", render_table(scores, record))
    draw_grid(folder / "grid.png", scores, record)
    link(folder / "model", models[rate][epoch - 1])
    print((folder / "table.md").read_text(encoding="utf-8"))


def train_rate(words: list[str], rate: str, run_dir: Path, steps: int) -> None:
    """Train at one rate, or continue; a copy of the model is kept after each epoch."""
    record = run_dir / "run.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["exit"] == 0:
        print(f"{run_dir} is finished")
        return
    run_child(
        "recipes.sft",
        *words,
        f"name={run_dir.name}",
        f"run_dir={run_dir}",
        f"openrlhf.adam.lr={rate}",
        f"openrlhf.ckpt.save_steps={steps}",
        "openrlhf.ckpt.save_hf=true",
        f"resume={'true' if record.is_file() else 'false'}",
    )


def score_epochs(cfg: DictConfig, name: str, models: list[Path]) -> list[float]:
    """Score the copies of one run on dev in mode direct; returns their accuracies."""
    experiment = HydraConfig.get().runtime.choices["experiment"].removeprefix("sft/")
    named = ", ".join(f"e{number:02d}: {path}" for number, path in enumerate(models, 1))
    run_child(
        "eval.run",
        f"experiment={experiment}",
        f"name={name}-dev",
        f"data_dir={cfg.data_dir}",
        f"data.chat={cfg.data.chat}",
        f"benchmarks=[{cfg.data.name}/dev]",
        f"models={{{named}}}",
        "modes=[direct]",
        "compare=[]",
    )
    summary = json.loads(Path(f"results/{name}-dev/summary.json").read_text(encoding="utf-8"))
    found = {result["model"]: result["accuracy"]["value"] for result in summary["results"]}
    return [found[f"e{number:02d}"] for number in range(1, len(models) + 1)]


def run_child(module: str, *words: str) -> None:
    """Run another command of ours to its end. Raises UserError where it fails."""
    command = [sys.executable, "-m", module, *words]
    print(f"\n$ python -m {module} {shlex.join(words)}", flush=True)
    code = subprocess.run(command).returncode
    if code:
        raise UserError(f"{module} failed (exit {code}); the same command continues the grid")


def choose(scores: Scores, select: str) -> tuple[str, int]:
    """Choose (rate, epoch): best on dev, or best of the last epochs; of equals the first."""
    candidates = [
        (rate, epoch)
        for rate, accuracies in scores.items()
        for epoch in range(1 if select == "best" else len(accuracies), len(accuracies) + 1)
    ]
    return max(candidates, key=lambda chosen: scores[chosen[0]][chosen[1] - 1])


def render_table(scores: Scores, record: dict[str, Any]) -> str:
    """Render accuracy in percent, a rate a row and an epoch a column; the kept one is bold."""
    kept = record["kept"]
    epochs = range(1, len(next(iter(scores.values()))) + 1)
    lines = [
        f"| rate | {' | '.join(f'epoch {epoch}' for epoch in epochs)} |",
        f"|---|{'--:|' * len(epochs)}",
    ]
    for rate, accuracies in scores.items():
        cells = [f"{100 * accuracy:.1f}" for accuracy in accuracies]
        if rate == kept["rate"]:
            cells[kept["epoch"] - 1] = f"**{cells[kept['epoch'] - 1]}**"
        lines.append(f"| {rate} | {' | '.join(cells)} |")
    rule = "best on dev" if record["select"] == "best" else "best of the last epochs"
    lines += ["", f"Accuracy (%) on {record['benchmark']}, mode direct. Kept: {rule}.", ""]
    return "\n".join(lines)


def draw_grid(path: Path, scores: Scores, record: dict[str, Any]) -> None:
    """Draw accuracy over epochs, a line a rate, and mark the kept model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for rate, accuracies in scores.items():
        values = [100 * accuracy for accuracy in accuracies]
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=4, label=f"rate {rate}")
    kept = record["kept"]
    axes.plot(
        kept["epoch"], 100 * kept["accuracy"], "o", ms=13, mfc="none", mec="black", label="kept"
    )
    axes.set(
        xlabel="epoch", ylabel="accuracy (%)", title=f"SFT on {record['benchmark']}, mode direct"
    )
    axes.set_xticks(range(1, len(values) + 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def link(path: Path, target: Path) -> None:
    """Point a link at the kept model, also where an earlier grid had kept another."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, path.parent))
    os.replace(partial, path)


if __name__ == "__main__":
    add_environment_choices(sys.argv, prefix="sft/")
    main()
