"""Prove an installation before money is spent: `make smoke experiment=tuned hardware=8x80gb`.

Runs the chosen recipe on the chosen hardware with the engine's flags as they are, but with the
laptop's model, question bank and learning rate, for three steps. The run is ended after its first
checkpoint and resumed. Then a table says what was exercised, how long each phase took, and what of
it was wrong; runs/smoke/<name>/smoke.json has the same, with the constants that `make plan
plan.measured=FILE` takes. Exits with 1 where a check failed.
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
import yaml
from rich.console import Console
from rich.table import Table

from data_prep.files import read_jsonl, write_json

MODEL = Path("recipes/laptop_model")
STEPS = 3
# Large enough for three steps to move the weights visibly: a vLLM that never got them shows in
# vllm_kl
LEARNING_RATE = 1e-3
STALE_KL = 0.01  # a sound sync is at 1e-3 or below with this model, a missing one far above
PHASES = ("generation", "make_experience", "ppo_train", "broadcast", "step_total")


def main() -> None:
    """Run the recipe, resume it, check what it left, print the table."""
    words = [word for word in sys.argv[1:] if not word.startswith(("name=", "run_dir="))]
    cfg = read_config(words)
    name = f"{cfg['name']}-{cfg['hardware']['name']}"
    folder = Path("runs/smoke") / name
    if folder.exists():
        shutil.rmtree(folder)
    overrides = build_overrides(folder, cfg)
    prepare(folder, cfg)
    command = [sys.executable, "-m", "recipes.rlvr", *words, *overrides]
    began = time.time()
    watch = Watch()
    first = watch.run(command, until=folder / "run" / "checkpoints" / "complete")
    second = watch.run(command)
    result = check_run(folder / "run", cfg, (first, second))
    result |= {"seconds": time.time() - began, "peak_memory_gb": watch.peak}
    write_json(folder / "smoke.json", result)
    print_result(result, folder)
    sys.exit(0 if all(ok for ok, _ in result["checks"].values()) else 1)


def read_config(words: list[str]) -> dict[str, Any]:
    """Read the recipe as the launcher composes it; ends where it cannot be composed."""
    command = [sys.executable, "-m", "recipes.rlvr", "--cfg", "job", "--resolve", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or done.stdout.strip())
    return dict(yaml.safe_load(done.stdout))


def build_overrides(folder: Path, cfg: dict[str, Any]) -> list[str]:
    """Build what smoke changes of a recipe: model, data, steps and places; nothing of the engine's
    set-up.
    """
    return [
        "model=laptop",
        f"model.path={folder}/base",
        "data=bank",
        f"data_dir={folder}/data",
        "name=smoke",
        f"run_dir={folder}/run",
        "resume=auto",
        f"openrlhf.data.max_samples={cfg['openrlhf']['rollout']['batch_size']}",
        f"openrlhf.train.num_episodes={STEPS}",
        f"openrlhf.actor.adam.lr={LEARNING_RATE}",
        f"openrlhf.critic.adam.lr={LEARNING_RATE}",
        "openrlhf.eval.steps=1",
        "openrlhf.ckpt.save_steps=1",
        "openrlhf.ckpt.save_hf=true",
    ]


def prepare(folder: Path, cfg: dict[str, Any]) -> None:
    """Copy the laptop's model, with room for the recipe's lengths, and prepare the bank for it."""
    base = folder / "base"
    shutil.copytree(MODEL, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    longest = cfg["openrlhf"]["data"]["max_len"]
    config["max_position_embeddings"] = max(config["max_position_embeddings"], longest)
    write_json(base / "config.json", config)
    command = [sys.executable, "-m", "data_prep.run", "experiment=laptop", "data=bank"]
    command += [f"data_dir={folder}/data", f"model.path={base}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())


class Watch:
    """Run child processes and note the peak memory, in GB: `host` of all of them, `gpu` of the
    fullest GPU.
    """

    def __init__(self) -> None:
        self.peak = {"host": 0.0, "gpu": 0.0}

    def run(self, command: list[str], until: Path | None = None) -> int:
        """Run to the end, or end it as Ctrl-C does once the folder `until` has a file; returns the
        exit code.
        """
        child = subprocess.Popen(command)
        while child.poll() is None:
            self.look(child.pid)
            if until and until.is_dir() and any(until.iterdir()):
                child.send_signal(signal.SIGTERM)
                until = None
            time.sleep(0.2)  # between two looks
        return child.returncode

    def look(self, pid: int) -> None:
        """Add up the memory of a process and its descendants now."""
        total = 0.0
        try:
            for process in (root := psutil.Process(pid), *root.children(recursive=True)):
                memory = process.memory_info()
                total += memory.rss - getattr(memory, "shared", 0)
        except psutil.NoSuchProcess:
            pass  # one ended between the list and the look
        self.peak["host"] = max(self.peak["host"], total / 1e9)
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            found = subprocess.run(query, capture_output=True, text=True).stdout.split()
            used = [float(value) * 2**20 / 1e9 for value in found if value.isdigit()]
            self.peak["gpu"] = max(self.peak["gpu"], *used, 0.0)


def check_run(run: Path, cfg: dict[str, Any], codes: tuple[int, int]) -> dict[str, Any]:
    """Check what two starts left behind; returns checks (name → ok, what was seen), seconds,
    constants, versions.
    """
    rows = read_jsonl(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    train = [row for row in rows if row["kind"] == "train"]
    flags = cfg["openrlhf"]
    samples = flags["rollout"]["batch_size"] * flags["rollout"]["n_samples_per_prompt"]
    rollouts = [
        row for path in sorted((run / "rollouts").glob("*.jsonl")) for row in read_jsonl(path)
    ]
    trained = [row for row in rollouts if row["split"] == "train"]
    kl = [abs(row["vllm_kl"]) for row in train if "vllm_kl" in row]
    copies = sorted(path.name for path in (run / "checkpoints").glob("*_hf"))
    steps = [row["step"] for row in train]
    finite = all(isinstance(row.get("policy_loss"), float) for row in train)
    checks = {
        "first start, ended after a checkpoint": (codes[0] in (130, 143), f"exit {codes[0]}"),
        "resume to the end": (codes[1] == 0, f"exit {codes[1]}"),
        "every step once": (steps == list(range(1, STEPS + 1)), f"steps {steps}"),
        "actor and critic train": (bool(train) and finite, f"losses of {len(train)} steps"),
        "every rollout on disk once": (
            len(trained) == STEPS * samples,
            f"{len(trained)} of {STEPS * samples} rows",
        ),
        "vLLM has the trained weights": (
            bool(kl) and max(kl) < STALE_KL,
            f"largest |vllm_kl| {max(kl, default=float('nan')):.1e}",
        ),
        "evaluation": (
            any(row["kind"] == "eval" for row in rows),
            f"{sum(row['kind'] == 'eval' for row in rows)} on dev",
        ),
        "Hugging Face copies": (bool(copies), ", ".join(copies)),
        "final model": ((run / "model" / "config.json").is_file(), str(run / "model")),
    }
    if flags["algo"]["advantage"]["is_correction_level"] == "off":
        # without importance correction the engine logs no vllm_kl
        checks["vLLM has the trained weights"] = (True, "not measured: is_correction_level=off")
    seconds = {
        phase: median(row[f"timing/{phase}"] for row in train)
        for phase in PHASES
        if train and all(f"timing/{phase}" in row for row in train)
    }
    record = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    longest = max((row["response_tokens"] for row in trained), default=0)
    constants = {}
    if "broadcast" in seconds:
        constants["tensor_call"] = seconds["broadcast"] / count_tensors(MODEL)
    if "generation" in seconds and longest:
        constants["decode_floor"] = seconds["generation"] / longest
    return {
        "checks": checks,
        "phases": seconds,
        "constants": constants,
        "versions": record.get("versions", {}),
        "hardware": cfg["hardware"]["name"],
    }


def count_tensors(model: Path) -> int:
    """Count the tensors of a safetensors file, from its header."""
    content = (model / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return sum(name != "__metadata__" for name in header)


def print_result(result: dict[str, Any], folder: Path) -> None:
    """Print the table of checks, the seconds of each phase, memory, and where the log is."""
    console = Console(highlight=False)
    table = Table(title=f"smoke: {folder.name}", title_justify="left")
    for column in ("exercised", "result", "seen"):
        table.add_column(column)
    for name, (ok, seen) in result["checks"].items():
        table.add_row(name, "[green]right[/]" if ok else "[bold red]WRONG[/]", seen)
    console.print(table)
    phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in result["phases"].items())
    peak = ", ".join(
        f"{name} {size:.1f}" for name, size in result["peak_memory_gb"].items() if size
    )
    console.print(f"seconds of a step, median: {phases}")
    console.print(f"peak memory in GB: {peak}; {result['seconds']:.0f} s in all")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    console.print(f"versions: {versions}", style="dim")
    console.print(f"log {folder}/run/engine.log; for the plan: plan.measured={folder}/smoke.json")


if __name__ == "__main__":
    main()
