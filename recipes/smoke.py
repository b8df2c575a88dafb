"""Prove an installation before money is spent: `make smoke experiment=paper hardware=8x80gb`.

The engine's flags are the recipe's, but model and questions are the laptop's, for three steps (and
small batches without a GPU); it is ended after its first checkpoint and resumed. A table says what
was right; it exits with 1 where something was not. `make plan plan.measured=` takes its smoke.json.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from data_prep.command import run_command
from data_prep.errors import UserError
from data_prep.files import read_jsonl, write_json
from recipes.engine.checkpoints import list_complete
from recipes.launcher import INTERRUPTED
from recipes.machine import complete_words, read_nvidia
from recipes.rules import find_wrong_settings
from recipes.run_folder import read_record

MODEL = Path("recipes/laptop_model")
DATA = ["data=bank", "data.chat=false", "data.parts_of_mixture=[]"]  # whatever the recipe has
STEPS = 3
LEARNING_RATE = 1e-3  # an update of this size that never reaches vLLM is seen in vllm_kl
STALE_KL = 0.01  # of this model; about 1e-3 where vLLM has the trained weights


def main(cfg: DictConfig) -> None:
    """Run the recipe, resume it, check what it left, print the table."""
    if wrong := find_wrong_settings(cfg, "ppo"):  # a folder of this name is removed
        raise UserError(*wrong)
    words = [word for word in sys.argv[1:] if not word.startswith(("name=", "run_dir="))]
    folder = Path("runs/smoke") / f"{cfg.name}-{cfg.hardware.name}"
    shutil.rmtree(folder, ignore_errors=True)
    began, peak = time.monotonic(), {"host": 0.0, "gpu": 0.0}
    prepare(folder, cfg, words)
    command = [sys.executable, "-m", "recipes.rlvr", *words, *list_overrides(folder, cfg)]
    codes = [run(command, peak, until=folder / "run" / "checkpoints" / "complete")]
    if codes[0] == INTERRUPTED:
        codes.append(run(command, peak))
    checks, timings = check_run(folder / "run", cfg, codes)
    constants = {}
    if "broadcast" in timings and cfg.hardware.cuda:
        tensors = safe_open(MODEL / "model.safetensors", "numpy").keys()
        constants["tensor_call"] = timings["broadcast"] / len(tensors)
    result = {
        "checks": checks,
        "phases": timings,
        "constants": constants,
        "versions": read_record(folder / "run").get("versions", {}),
        "seconds": time.monotonic() - began,
        "peak_memory_gb": peak,
    }
    write_json(folder / "smoke.json", result)

    console = Console(highlight=False)
    table = Table("exercised", "result", "seen", title=f"smoke: {folder}/run")
    for name, (ok, seen) in checks.items():
        table.add_row(name, "[green]right[/]" if ok else "[bold red]WRONG[/]", seen)
    console.print(table)
    for key in ("phases", "peak_memory_gb", "constants", "versions", "seconds"):
        console.print(f"{key}: {json.dumps(result[key])}")
    console.print(f"{folder}/run/engine.log, {folder}/smoke.json")
    sys.exit(0 if all(ok for ok, _ in checks.values()) else 1)


def list_overrides(folder: Path, cfg: DictConfig) -> list[str]:
    """List what differs from the recipe: model, data, steps and places, nothing of the set-up."""
    size, each = cfg.openrlhf.rollout.batch_size, cfg.openrlhf.rollout.n_samples_per_prompt
    changes = []
    if not cfg.hardware.cuda:  # a thousand samples would take an hour
        size = max(1, 64 // each)
        changes = [f"openrlhf.train.batch_size={size * each}", "openrlhf.rollout.max_new_tokens=64"]
    return [
        *changes,
        f"openrlhf.rollout.batch_size={size}",
        "model=laptop",
        f"model.path={folder}/base",
        *DATA,
        f"data_dir={folder}/data",
        "name=smoke",
        f"run_dir={folder}/run",
        "resume=auto",
        f"openrlhf.data.max_samples={size}",
        f"openrlhf.train.num_episodes={STEPS}",
        f"openrlhf.actor.adam.lr={LEARNING_RATE}",
        "openrlhf.actor.lr_warmup_ratio=0",
        # the asynchronous trainer evaluates between two batches only, never after the last one
        f"openrlhf.eval.steps={1 if cfg.hardware['async'] else STEPS}",
        "openrlhf.ckpt.save_steps=1",
        "openrlhf.ckpt.save_hf=true",
    ]


def prepare(folder: Path, cfg: DictConfig, words: list[str]) -> None:
    """Copy the laptop's model, with room for the recipe's lengths, and prepare the bank for it."""
    base = folder / "base"
    shutil.copytree(MODEL, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    longest = max(config["max_position_embeddings"], cfg.openrlhf.data.max_len)
    write_json(base / "config.json", config | {"max_position_embeddings": longest})
    of_data = [word for word in words if word.startswith(("experiment=", "data."))]
    command = [sys.executable, "-m", "data_prep.run", *of_data, *DATA]
    command += [f"data_dir={folder}/data", f"model.path={base}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())


def run(command: list[str], peak: dict[str, float], until: Path | None = None) -> int:
    """Run to the end, or end it as a time limit does once `until` has a file; return its exit code.

    peak: GB of all its processes (host) and of the fullest GPU, which are raised here.
    """
    child = psutil.Popen(command)
    while child.poll() is None:
        try:
            family = [process.memory_info() for process in (child, *child.children(recursive=True))]
        except psutil.NoSuchProcess:
            family = []  # one ended between the list and the look
        used = sum(memory.rss - memory.shared for memory in family) / 1e9
        seen = read_nvidia("memory.used")
        gpus = [float(mebibytes) * 2**20 / 1e9 for (mebibytes,) in seen if mebibytes.isdigit()]
        peak |= {"host": max(peak["host"], used), "gpu": max(peak["gpu"], *gpus, 0.0)}
        if until and until.is_dir() and any(until.iterdir()):
            child.send_signal(signal.SIGTERM)
            until = None
        time.sleep(0.5)  # between two looks
    return int(child.returncode)


def check_run(folder: Path, cfg: DictConfig, codes: list[int]) -> tuple[dict[str, Any], Any]:
    """Check what two starts left: name → right, what was seen; and the seconds of each phase."""
    algo = cfg.openrlhf.algo
    rows = [row for path in folder.glob("metrics.jsonl") for row in read_jsonl(path)]
    train = [row for row in rows if row["kind"] == "train"]
    answers = [row for path in folder.glob("rollouts/*.jsonl") for row in read_jsonl(path)]
    rollouts = sum(row["split"] == "train" for row in answers)
    samples = STEPS * sum(row["rollout/num_samples"] for row in train[:1])
    needed = ["policy_loss", "actor_grad_norm"]
    needed += ["critic_loss"] if algo.advantage.estimator == "gae" else []
    needed += ["kl"] if algo.kl.init_coef > 0 else []
    has_all = bool(train) and all(key in row for row in train for key in needed)
    # with the correction off there is no vllm_kl
    is_synced, seen_kl = algo.advantage.is_correction_level == "off", "not measured"
    if gaps := [abs(row["vllm_kl"]) for row in train if "vllm_kl" in row]:
        is_synced, seen_kl = max(gaps) < STALE_KL, f"largest |vllm_kl| {max(gaps):.1e}"
    steps = [row["step"] for row in train]
    evaluated = [row["step"] for row in rows if row["kind"] == "eval"]
    has_eval = bool(evaluated) if cfg.hardware["async"] else evaluated == [STEPS]
    seen_eval = f"at step {', '.join(map(str, evaluated)) or 'none'}"
    saved = [checkpoint.tag for checkpoint in list_complete(folder / "checkpoints")]
    copies = sorted(path.name for path in (folder / "checkpoints").glob("*_hf"))
    last = f"exit {codes[1] if codes[1:] else 'not run'}"
    checks = {
        "start, ended after a checkpoint": (codes[0] == INTERRUPTED, f"exit {codes[0]}"),
        "resume, to the end": (codes[1:] == [0], last),
        "each step once": (steps == list(range(1, STEPS + 1)), f"steps {steps}"),
        "actor, critic and reference, as the recipe has them": (has_all, ", ".join(needed)),
        "each rollout on disk once": (0 < samples == rollouts, f"{rollouts} rows"),
        "vLLM has the trained weights": (is_synced, seen_kl),
        "evaluation on dev": (has_eval, seen_eval),
        "checkpoints, Hugging Face copies": (bool(saved and copies), ", ".join(saved + copies)),
        "final model": ((folder / "model" / "config.json").is_file(), f"{folder}/model"),
    }
    timed = [key for key in train[0] if key.startswith("timing/")] if train else []
    return checks, {key[7:]: round(median(row[key] for row in train), 3) for key in timed}


if __name__ == "__main__":
    run_command(main, "rlvr", complete_words)
