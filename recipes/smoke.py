"""Prove an installation before money is spent: `make smoke experiment=paper hardware=8x80gb`.

The engine's flags are the recipe's, but model and questions are the laptop's, for three steps (and
small batches without a GPU); it is ended after its first checkpoint and resumed. A table says what
was wrong; runs/smoke/NAME/smoke.json is for `make plan plan.measured=FILE`. Exits with 1 then.
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

from data_prep.command import run_command
from data_prep.files import read_jsonl, write_json
from recipes.engine.checkpoints import list_complete
from recipes.launcher import INTERRUPTED
from recipes.machine import complete_words
from recipes.run_folder import read_record

MODEL = Path("recipes/laptop_model")
DATA = ["data=bank", "data.chat=false", "data.parts_of_mixture=[]"]  # whatever the recipe has
STEPS = 3
LEARNING_RATE = 1e-3  # an update of this size that never reaches vLLM is seen in vllm_kl
STALE_KL = 0.01  # of this model; about 1e-3 where vLLM has the trained weights


def main(cfg: DictConfig) -> None:
    """Run the recipe, resume it, check what it left, print the table."""
    words = [word for word in sys.argv[1:] if not word.startswith(("name=", "run_dir="))]
    folder = Path("runs/smoke") / f"{cfg.name}-{cfg.hardware.name}"
    shutil.rmtree(folder, ignore_errors=True)
    began, peak = time.monotonic(), {"host": 0.0, "gpu": 0.0}
    prepare(folder, cfg, words)
    command = [sys.executable, "-m", "recipes.rlvr", *words, *list_overrides(folder, cfg)]
    codes = [run(command, peak, until=folder / "run" / "checkpoints" / "complete")]
    if codes[0] == INTERRUPTED:
        codes.append(run(command, peak))
    result = check_run(folder / "run", cfg, codes)
    result |= {"seconds": time.monotonic() - began, "peak_memory_gb": peak}
    write_json(folder / "smoke.json", result)
    print_result(result, folder)
    sys.exit(0 if all(ok for ok, _ in result["checks"].values()) else 1)


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
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    while child.poll() is None:
        total = 0.0
        try:
            for process in (child, *child.children(recursive=True)):
                memory = process.memory_info()
                total += memory.rss - memory.shared
        except psutil.NoSuchProcess:
            pass  # one ended between the list and the look
        peak["host"] = max(peak["host"], total / 1e9)
        if shutil.which("nvidia-smi"):
            found = subprocess.run(query, capture_output=True, text=True).stdout.split()
            used = [float(value) * 2**20 / 1e9 for value in found if value.isdigit()]
            peak["gpu"] = max(peak["gpu"], *used, 0.0)
        if until and until.is_dir() and any(until.iterdir()):
            child.send_signal(signal.SIGTERM)
            until = None
        time.sleep(0.5)  # between two looks
    return int(child.returncode)


def check_run(folder: Path, cfg: DictConfig, codes: list[int]) -> dict[str, Any]:
    """Check what two starts left: checks (name → right, what was seen), phases, constants."""
    flags = cfg.openrlhf
    rows = [row for path in folder.glob("metrics.jsonl") for row in read_jsonl(path)]
    train = [row for row in rows if row["kind"] == "train"]
    answers = [row for path in folder.glob("rollouts/*.jsonl") for row in read_jsonl(path)]
    rollouts = [row for row in answers if row["split"] == "train"]
    samples = STEPS * sum(row["rollout/num_samples"] for row in train[:1])
    needed = ["policy_loss", "actor_grad_norm"]
    needed += ["critic_loss"] if flags.algo.advantage.estimator == "gae" else []
    needed += ["kl"] if flags.algo.kl.init_coef > 0 else []
    kl = [abs(row["vllm_kl"]) for row in train if "vllm_kl" in row]
    is_off = flags.algo.advantage.is_correction_level == "off"  # then there is no vllm_kl
    steps = [row["step"] for row in train]
    evaluated = [row["step"] for row in rows if row["kind"] == "eval"]
    saved = [checkpoint.tag for checkpoint in list_complete(folder / "checkpoints")]
    copies = sorted(path.name for path in (folder / "checkpoints").glob("*_hf"))
    checks = {
        "start, ended after a checkpoint": (codes[0] == INTERRUPTED, f"exit {codes[0]}"),
        "resume, to the end": (codes[1:] == [0], f"exit {codes[1] if codes[1:] else 'not run'}"),
        "each step once": (steps == list(range(1, STEPS + 1)), f"steps {steps}"),
        "actor, critic and reference, as the recipe has them": (
            bool(train) and all(key in row for row in train for key in needed),
            ", ".join(needed),
        ),
        "each rollout on disk once": (0 < samples == len(rollouts), f"{len(rollouts)} rows"),
        "vLLM has the trained weights": (
            max(kl) < STALE_KL if kl else is_off,
            f"largest |vllm_kl| {max(kl):.1e}" if kl else "not measured",
        ),
        "evaluation on dev": (
            bool(evaluated) if cfg.hardware["async"] else evaluated == [STEPS],
            f"at step {', '.join(map(str, evaluated)) or 'none'}",
        ),
        "checkpoints, Hugging Face copies": (bool(saved and copies), ", ".join(saved + copies)),
        "final model": ((folder / "model" / "config.json").is_file(), f"{folder}/model"),
    }
    timed = [key for key in train[0] if key.startswith("timing/")] if train else []
    phases = {key.removeprefix("timing/"): median(row[key] for row in train) for key in timed}
    constants = {}
    if "broadcast" in phases and cfg.hardware.cuda:
        content = (MODEL / "model.safetensors").read_bytes()  # 8 bytes of length, then a table
        tensors = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        constants["tensor_call"] = phases["broadcast"] / len(tensors)
    versions = read_record(folder).get("versions", {})
    return {"checks": checks, "phases": phases, "constants": constants, "versions": versions}


def print_result(result: dict[str, Any], folder: Path) -> None:
    """Print the table of checks, then seconds, memory and versions."""
    console = Console(highlight=False)
    table = Table("exercised", "result", "seen", title=f"smoke: {folder.name}")
    for name, (ok, seen) in result["checks"].items():
        table.add_row(name, "[green]right[/]" if ok else "[bold red]WRONG[/]", seen)
    console.print(table)
    for key in ("phases", "peak_memory_gb", "constants", "versions"):
        values = result[key].items()
        listed = (
            f"{name} {x:.3g}" if isinstance(x, float) else f"{name} {x}" for name, x in values
        )
        console.print(f"{key}: {', '.join(listed) or 'none'}")
    console.print(f"{result['seconds']:.0f} s; {folder}/run/engine.log, {folder}/smoke.json")


if __name__ == "__main__":
    run_command(main, "rlvr", complete_words)
