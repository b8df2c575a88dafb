"""Time the report on 100,000 rollouts: seconds, memory, bytes, and how soon the page opens.

python bench/dynamics.py                    100,032 simulated rollouts of 300 words on average
python bench/dynamics.py --words 20         short ones

The simulated texts are independent words, which compress worse than any model's. The page lists 20,000 rollouts.
Opening, filtering and searching are timed inside a headless Chromium: from the navigation until the curves are drawn and
the list shows its rollouts' texts.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # a package of the lock is called tests too
import browser  # noqa: E402

LISTED = """document.body.dataset.drawn === "all" &&
  [...document.querySelectorAll(".row .text")].every((text) => text.textContent)"""
WORK = """
const opened = performance.now(), count = document.getElementById("count");
const time = async (id, value) => {
  const begin = performance.now(), before = count.textContent;
  document.getElementById(id).value = value;
  applyFilters();
  while (count.textContent === before || !count.textContent.includes("rollouts"))
    await new Promise((go) => setTimeout(go, 5));
  return (performance.now() - begin) / 1000;
};
return { "opened": opened / 1000, "filtered by verdict": await time("f-verdict", "right"),
  "searched the right ones' texts": await time("f-text", "<answer>a") };
"""


def time_page(page: Path) -> dict[str, float]:
    """Seconds until the page is drawn, and of what is then done on it."""
    with browser.open_chromium() as address:
        return browser.drive(address, page.resolve(), WORK, drawn=LISTED)[0]


def main() -> None:
    """Simulates, reports, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1563)
    parser.add_argument(
        "--words", type=int, default=360, help="of a question, the unit of the responses' lengths"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        sizes = ["--steps", str(args.steps), "--words", str(args.words)]
        subprocess.run(
            [sys.executable, "-m", "dev.simulate_run", "--out", run, *sizes], cwd=ROOT, check=True
        )
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "eval.dynamics.report", f"run={run}"], cwd=ROOT, check=True
        )
        seconds = time.monotonic() - started
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = run / "report" / "report.html"
        print(f"report: {seconds:.1f} s, {usage.ru_maxrss / 1e6:.2f} GB at most in one process")
        print(f"page: {page.stat().st_size / 1e6:.1f} MB")
        if browser.CHROMIUM is None:
            sys.exit("no Chromium on the PATH: how soon the page opens was not measured")
        for name, seconds in time_page(page).items():
            print(f"page: {name} in {seconds:.2f} s")


if __name__ == "__main__":
    main()
