"""The report on 100,000 rollouts: seconds, memory, bytes, and how soon the page opens.

python bench/dynamics.py                    100,032 simulated rollouts of 300 words on average
python bench/dynamics.py --words 20         short ones

The simulated texts are independent words, which compress worse than any model's: what the page leaves out of these it
keeps of real ones. Limits: 60 s and 2 GB on 2 idle cores, 30 MB, 3 s to open (headless Chromium).
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def time_page(page: Path) -> float | None:
    """Seconds from the start of Chromium to the drawn page, its own start taken off; None without a Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        return None
    seconds = []
    for address in ("about:blank", page.resolve().as_uri()):
        options = ["--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--dump-dom"]
        started = time.monotonic()
        done = subprocess.run(
            [chromium, *options, "--virtual-time-budget=30000", address], capture_output=True, text=True
        )
        seconds.append(time.monotonic() - started)
    assert 'data-drawn="all"' in done.stdout, "the page was not drawn"
    return seconds[1] - seconds[0]


def main() -> None:
    """Simulates, reports, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1563)
    parser.add_argument("--words", type=int, default=360, help="of a question, the unit of the responses' lengths")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        sizes = ["--steps", str(args.steps), "--words", str(args.words)]
        subprocess.run([sys.executable, "-m", "eval.dynamics.simulate", "--out", run, *sizes], cwd=ROOT, check=True)
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "eval.report", f"run={run}"], cwd=ROOT, check=True)
        seconds = time.monotonic() - started
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = run / "report" / "report.html"
        opened = time_page(page)
        print(f"report: {seconds:.1f} s, {usage.ru_maxrss / 1e6:.2f} GB at most in one process")
        print(f"page: {page.stat().st_size / 1e6:.1f} MB" + ("" if opened is None else f", drawn in {opened:.1f} s"))


if __name__ == "__main__":
    main()
