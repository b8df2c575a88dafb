"""Time what the recipe adds before the engine: `make rlvr` to its first line, over the bare command.

python bench/startup.py              five rounds in turn, medians; nothing else may run on the machine

Both are timed from the command to the first byte that the engine process writes, then ended. The bare
command is the run's own `command.txt`. Limit: 2 s more. bench/step.py times the engine's own start.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts the folder of this file there, not the root
from recipes.process import stop_engine  # noqa: E402


def time_first_byte(command: list[str], log: Path, output: Path) -> float:
    """Return the seconds until `log` has grown; end the command and all that it started."""
    before = log.stat().st_size if log.exists() else 0
    with output.open("ab") as sink:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True
        )
        while not log.exists() or log.stat().st_size <= before:
            if process.poll() is not None:
                raise SystemExit(
                    f"{' '.join(command)} ended before the engine's first line:\n"
                    f"{output.read_text()}"
                )
            time.sleep(0.005)
        seconds = time.perf_counter() - started
    stop_engine(process, [])
    return seconds


def main() -> None:
    """Time both in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    recipe, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            run, output = Path(name) / f"run{number}", Path(name) / f"{number}.txt"
            recipe.append(
                time_first_byte(["make", "rlvr", f"run_dir={run}"], run / "engine.log", output)
            )
            output = output.with_suffix(".bare.txt")
            bare.append(time_first_byte(["bash", str(run / "command.txt")], output, output))
            print(f"make rlvr {recipe[-1]:.2f} s, bare engine {bare[-1]:.2f} s", flush=True)
    ours, theirs = statistics.median(recipe), statistics.median(bare)
    print(f"medians of {rounds}: {ours:.2f} and {theirs:.2f} s: {ours - theirs:.2f} s more")


if __name__ == "__main__":
    main()
