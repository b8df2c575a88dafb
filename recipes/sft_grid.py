"""Train the SFT baseline at each rate of a grid, score every epoch on dev, keep one model.

make sft-grid experiment=paper hardware=8x80gb      3 rates × 10 epochs, as the paper
python -m recipes.sft_grid experiment=paper_laptop  the same on a laptop, in minutes

Each rate is its own run, `runs/sft/<name>-<rate>`, by recipes.sft; eval.run scores its epochs
in mode direct. The same command continues: a finished run is kept, an unfinished one resumed, and
no question is asked twice. Written to `runs/sft/<name>/`: grid.json, table.md, grid.png (accuracy
on dev by rate and epoch), and `model`, a link to the model that was kept.
"""

import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data_prep.command import run_command
from data_prep.errors import UserError
from data_prep.files import write_json, write_text
from recipes.machine import complete_words
from recipes.rules import find_wrong_settings, show
from recipes.run_folder import open_data, read_record

Scores = dict[str, list[float]]  # rate → accuracy on dev after each epoch


def run_grid(cfg: DictConfig) -> None:
    """Train and score every rate, then write table, plot and link. Raises UserError."""
    wrong, select = find_wrong_settings(cfg, "sft"), cfg.grid.select
    if select not in ("best", "last"):
        wrong.append(f"grid.select={show(select)} is best or last")
    if not cfg.grid.rates or any(type(rate) not in (int, float) for rate in cfg.grid.rates):
        wrong.append(f"grid.rates={show(cfg.grid.rates)} is no list of rates: [1e-5,5e-6]")
    if wrong:
        raise UserError(*wrong)
    rates = [f"{rate:g}" for rate in cfg.grid.rates]
    folder, epochs, data = Path(cfg.run_dir), cfg.openrlhf.train.max_epochs, open_data(cfg)
    rows = min(data.manifest["files"]["train.jsonl"]["rows"], cfg.openrlhf.data.max_samples)
    # the engine leaves out the last, partial batch of each epoch
    if not (steps := rows // cfg.openrlhf.train.batch_size):
        size = f"openrlhf.train.batch_size={cfg.openrlhf.train.batch_size}"
        raise UserError(f"{rows} rows are less than one batch: lower {size}")
    print(f"{len(rates)} rates × {epochs} epochs of {steps} steps → {folder}", flush=True)
    if cfg.dry_run:
        return

    scores: Scores = {}
    models: dict[str, list[Path]] = {}
    for rate in rates:
        run_dir = folder.with_name(f"{folder.name}-{rate}")
        # each run gets the command line's own overrides
        train_rate(list(HydraConfig.get().overrides.task), rate, run_dir, steps)
        copies = [f"global_step{steps * epoch}_hf" for epoch in range(1, epochs + 1)]
        models[rate] = [run_dir / "checkpoints" / copy for copy in copies]
        scores[rate] = score_epochs(cfg, f"{run_dir.name}-dev", models[rate])

    rate, epoch = choose(scores, select)
    n = data.manifest["files"]["dev.jsonl"]["rows"]
    record = {
        "title": f"{cfg.name}: accuracy on {cfg.data.name}/dev (%), n = {n:,}, mode direct",
        "select": select,
        "kept": {"rate": rate, "epoch": epoch, "accuracy": scores[rate][epoch - 1]},
        "scores": scores,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "grid.json", record)
    write_text(folder / "table.md", render_table(record))
    draw_grid(folder / "grid.png", record)
    link(folder / "model", models[rate][epoch - 1])
    print(render_table(record))


def train_rate(words: list[str], rate: str, run_dir: Path, steps: int) -> None:
    """Train at one rate, or continue; a copy of the model is kept after each epoch."""
    if (record := read_record(run_dir)) and record["exit"] == 0:
        print(f"{run_dir} is finished")
        return
    names = [f"name={run_dir.name}", f"run_dir={run_dir}", f"openrlhf.adam.lr={rate}"]
    copies = [f"openrlhf.ckpt.save_steps={steps}", "openrlhf.ckpt.save_hf=true"]
    run_child("recipes.sft", *words, *names, *copies, f"resume={str(bool(record)).lower()}")


def score_epochs(cfg: DictConfig, name: str, models: list[Path]) -> list[float]:
    """Score the copies of one run on dev in mode direct; returns their accuracies."""
    experiment = HydraConfig.get().runtime.choices["experiment"].removeprefix("sft/")
    named = {f"e{number:02d}": str(path) for number, path in enumerate(models, 1)}
    run_child(
        "eval.run",
        f"experiment={experiment}",
        f"name={name}",
        f"data_dir={cfg.data_dir}",
        f"data.chat={cfg.data.chat}",
        f"benchmarks=[{cfg.data.name}/dev]",
        "models={" + ", ".join(f"{key}: {path}" for key, path in named.items()) + "}",
        "modes=[direct]",
        "compare=[]",  # epochs of one run are chosen from, not tested against each other
    )
    summary = json.loads(Path(f"results/{name}/summary.json").read_text(encoding="utf-8"))
    found = {result["model"]: result["accuracy"]["value"] for result in summary["results"]}
    return [found[key] for key in named]


def run_child(module: str, *words: str) -> None:
    """Run another of our commands to its end. Raises UserError where it fails."""
    print(f"\n$ python -m {module} {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", module, *words]).returncode
    if code:
        raise UserError(f"{module} failed (exit {code}); the same command continues the grid")


def choose(scores: Scores, select: str) -> tuple[str, int]:
    """Choose (rate, epoch): best on dev, or best of the last epochs; of equals the first."""
    candidates = {
        (rate, epoch): accuracy
        for rate, accuracies in scores.items()
        for epoch, accuracy in enumerate(accuracies, 1)
        if select == "best" or epoch == len(accuracies)
    }
    return max(candidates, key=candidates.__getitem__)


def render_table(record: dict[str, Any]) -> str:
    """Render accuracies, a rate a row and an epoch a column; the kept one is bold."""
    kept, count = record["kept"], len(next(iter(record["scores"].values())))
    titles = " | ".join(f"epoch {epoch}" for epoch in range(1, count + 1))
    lines = [record["title"], "", f"| rate | {titles} |", "|---|" + "--:|" * count]
    for rate, accuracies in record["scores"].items():
        cells = [f"{100 * accuracy:.1f}" for accuracy in accuracies]
        if rate == kept["rate"]:
            cells[kept["epoch"] - 1] = f"**{cells[kept['epoch'] - 1]}**"
        lines.append(f"| {rate} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Kept: {record['select']}.", ""])


def draw_grid(path: Path, record: dict[str, Any]) -> None:
    """Draw accuracy over epochs, a line a rate, and mark the kept model."""
    from pandas import DataFrame

    frame, kept = DataFrame(record["scores"]).mul(100).add_prefix("rate "), record["kept"]
    frame.index = frame.index + 1
    axes = frame.plot(style="o-", ms=4, grid=True, xticks=frame.index, title=record["title"])
    axes.plot(kept["epoch"], 100 * kept["accuracy"], "ko", ms=13, mfc="none", label="kept")
    axes.set(xlabel="epoch", ylabel="accuracy (%)")
    axes.legend()
    axes.figure.savefig(path, dpi=120)


def link(path: Path, target: Path) -> None:
    """Point a link at the kept model, also where an earlier grid had kept another."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, path.parent))
    os.replace(partial, path)


if __name__ == "__main__":
    run_command(run_grid, "sft", partial(complete_words, sft=True))
