"""Seconds and processor seconds of a laptop step, phase by phase, of one or several trees in turn.

python bench/step.py                                       this tree alone
python bench/step.py --against ../other --rounds 3         and another checkout, in alternation
python bench/step.py openrlhf.train.micro_batch_size=32    any override, for all trees

Each round is one `recipes.rlvr` of 12 steps of 64. Wall seconds are the engine's own timings, medians
over the steps but the first; processor seconds are those of all processes of the run, which other work
on the machine changes less. Start-up is from the command to the end of the first step. Each tree trains on its
own prepared bank (`make prep`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
STEPS, BATCH = 12, 64
PHASES = ("generation", "make_experience", "ppo_train", "broadcast", "step_total")


def measure_cpu(run: Path) -> float:
    """Processor seconds of all live processes of a run, known by the run folder in their environment."""
    total = 0.0
    for process in psutil.process_iter():
        try:
            if process.environ().get("MEDRLVR_RUN") == str(run):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue
    return total


def time_run(tree: Path, run: Path, overrides: list[str]) -> dict[str, float]:
    """Run STEPS steps from `tree`; return medians of the phases, start-up, and processor seconds."""
    command = [
        sys.executable,
        "-m",
        "recipes.rlvr",
        f"run_dir={run}",
        f"openrlhf.data.max_samples={STEPS * BATCH}",
        "openrlhf.train.num_episodes=1",
        "openrlhf.eval.steps=-1",
        "openrlhf.ckpt.save_steps=-1",
        *overrides,
    ]
    started, metrics = time.time(), run / "metrics.jsonl"
    seen: list[tuple[int, float]] = []  # step, processor seconds when it was first seen
    with (run.parent / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=tree, stdout=output, stderr=output)
        while process.poll() is None:
            lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            if lines and (not seen or lines > seen[-1][0]):
                seen.append((lines, measure_cpu(run)))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit((run.parent / "output.txt").read_text())
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    found = {
        phase: statistics.median(row[f"timing/{phase}"] for row in rows[1:]) for phase in PHASES
    }
    # The last row is written while processes may already end.
    (first, before), (last, after) = seen[0], seen[-2]
    return found | {
        "cpu a step": (after - before) / (last - first),
        "start-up": rows[0]["time"] - started,
        "cpu of start-up": before,
    }


def main() -> None:
    """Time the trees in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    trees = [ROOT, *(tree.resolve() for tree in options.against)]
    results: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for number in range(options.rounds):
        # The other way round in every second round: what runs first finds a colder disk cache.
        for tree in trees if number % 2 == 0 else reversed(trees):
            with tempfile.TemporaryDirectory() as folder:
                results[tree].append(time_run(tree, Path(folder) / "run", options.overrides))
            figures = ", ".join(f"{key} {value:.2f}" for key, value in results[tree][-1].items())
            print(f"{tree}: {figures}", flush=True)
    for tree, rounds in results.items():
        medians = {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}
        print(f"median of {len(rounds)} of {tree}:")
        print(*(f"  {key:16} {value:7.2f} s" for key, value in medians.items()), sep="\n")


if __name__ == "__main__":
    main()
