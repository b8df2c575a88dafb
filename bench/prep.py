"""Measure how long preparation takes and how much memory it needs.

python bench/prep.py                       all of MedQA against every evaluation set, MedMCQA's shape (3 minutes)
python bench/prep.py --rows 10000          MedMCQA's shape at one size
python bench/prep.py --real-data FOLDER    of medqa, mmlu_pro, medmcqa and pubmedqa; ../shared/data by default

Each run is its own process, with wall time, processor time and peak memory. The rows of MedMCQA's shape are made
up: words drawn by Zipf's law, three in ten stems after a common frame, one in a hundred a near copy of an earlier row.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
TOKENIZERS = (ROOT / "recipes/laptop_model", ROOT / "tests/tokenizer")
FRAMES = (
    "Which of the following is not true about",
    "All of the following are true about",
    "Most common cause of",
)
EVALUATION_SETS = {"mmlu_pro_health": "mmlu_pro", "pubmedqa": "pubmedqa", "medmcqa": "medmcqa"}


def write_rows(path: Path, count: int, seed: int, first: int = 0) -> None:
    """Writes made-up records in MedMCQA's layout: stems of about 15 words, four options of about 4."""
    draw = random.Random(seed)
    words = [
        "".join(draw.choices("abcdefghilmnoprstu", k=draw.randint(3, 11))) for _ in range(40_000)
    ]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))

    def write_text(low: int, high: int) -> str:
        return " ".join(draw.choices(words, cum_weights=weights, k=draw.randint(low, high)))

    earlier: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            stem = write_text(6, 26)
            if draw.random() < 0.3:
                stem = f"{draw.choice(FRAMES)} {stem}"
            if earlier and draw.random() < 0.01:
                stem = f"{draw.choice(earlier)} {write_text(1, 2)}"
            if len(earlier) < 1000:
                earlier.append(stem)
            options = {key: write_text(1, 7) for key in ("opa", "opb", "opc", "opd")}
            rest = {
                "id": str(first + number),
                "exp": write_text(20, 120),
                "subject_name": "Anatomy",
                "topic_name": None,
            }
            record = {
                "question": stem,
                **options,
                "cop": draw.randint(1, 4),
                "choice_type": "single",
                **rest,
            }
            file.write(json.dumps(record) + "\n")


def run_prep(data_dir: Path, *overrides: str) -> dict[str, float]:
    """Runs `python -m data_prep.run` once. Returns seconds of wall time and processor, and peak memory in GB."""
    model = next(folder for folder in TOKENIZERS if (folder / "tokenizer.json").is_file())
    settings = [
        f"model.path={model}",
        f"data_dir={data_dir}",
        "data.max_prompt_tokens=7000",
        "data.accept=true",
    ]
    start = time.monotonic()
    command = [sys.executable, "-m", "data_prep.run", *settings, *overrides]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    print(f"{wall:.1f} s: {' '.join(overrides)}", file=sys.stderr)
    scale = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss is in bytes there, in kB on Linux
    return {
        "wall": wall,
        "processor": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / scale,
    }


def measure_shape(sizes: list[int], work: Path) -> list[tuple[str, int, dict[str, float]]]:
    """MedMCQA's shape: training rows of each size, with 4,183 evaluation rows."""
    results = []
    for rows in sizes:
        source = work / f"source-{rows}"
        source.mkdir()
        write_rows(source / "train.jsonl", rows, seed=1)
        write_rows(source / "dev.jsonl", 4183, seed=2, first=rows)
        figures = run_prep(work / f"data-{rows}", "data=medmcqa", f"data.source={source}")
        results.append(("MedMCQA's shape", rows, figures))
    return results


def measure_medqa(real_data: Path, work: Path) -> list[tuple[str, int, dict[str, float]]]:
    """All of MedQA against the evaluation sets, which are prepared first."""
    data_dir, results = work / "data-medqa", []
    for name, folder in EVALUATION_SETS.items():
        extra = ["data.files.train=null"] if name == "medmcqa" else []
        run_prep(data_dir, f"data={name}", f"data.source={(real_data / folder).resolve()}", *extra)
    source = (real_data / "medqa").resolve()
    rows = sum(len(path.read_bytes().splitlines()) for path in source.glob("*.jsonl"))
    results.append(("MedQA, all", rows, run_prep(data_dir, "data=medqa", f"data.source={source}")))
    return results


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=int,
        nargs="*",
        default=[10_000, 50_000, 180_000],
        help="sizes of training sets",
    )
    parser.add_argument(
        "--real-data", type=Path, default=ROOT.parent / "shared/data", help="of MedQA and its like"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure_medqa(args.real_data, Path(folder)) if args.real_data.is_dir() else []
        results += measure_shape(args.rows, Path(folder))
    table = Table(title=f"python -m data_prep.run, {os.cpu_count()} cores")
    for heading in ("data", "rows", "wall s", "processor s", "ms a row", "peak memory GB"):
        table.add_column(heading, justify="left" if heading == "data" else "right")
    for name, rows, figures in results:
        per_row = 1000 * figures["processor"] / rows
        cells = (
            f"{figures['wall']:.1f}",
            f"{figures['processor']:.1f}",
            f"{per_row:.2f}",
            f"{figures['memory']:.2f}",
        )
        table.add_row(name, f"{rows:,}", *cells)
    if not args.real_data.is_dir():
        table.caption = f"MedQA n/a: {args.real_data} is not here, see --real-data"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
