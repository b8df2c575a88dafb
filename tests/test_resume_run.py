"""Killed at random moments and resumed: 20 kills (-9) over the driver and its workers on the real engine. 20 minutes.

After the last resume the run has its planned steps, each sample once, and the prompts in an undisturbed run's order.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
KILLS, STEPS, BATCH = 20, 48, 64
VICTIMS = ("recipes.engine.ppo", "ray::PolicyModelActor", "ray::CriticModelActor", "ray::RolloutRayActor", "VLLM::")


def list_prompts(rollouts: list[dict]) -> list[tuple[int, list[str]]]:
    """Each step's row ids, steps in order."""
    train = [row for row in rollouts if row["split"] == "train"]
    steps = sorted({row["step"] for row in train})
    return [(step, sorted(row["id"] for row in train if row["step"] == step)) for step in steps]


def list_victims(launcher: int) -> dict[str, list[psutil.Process]]:
    """The run's processes, by what they are; only kinds that are there."""
    found: dict[str, list[psutil.Process]] = {}
    for member in psutil.Process(launcher).children(recursive=True):
        try:
            command = " ".join(member.cmdline())
        except psutil.NoSuchProcess:
            continue
        for kind in VICTIMS:
            if kind in command:
                found.setdefault(kind, []).append(member)
    return found


def count_steps(folder: Path) -> int:
    """The last step in metrics.jsonl, whose last line may be on its way."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return max((row["step"] for row in map(json.loads, lines) if row["kind"] == "train"), default=0)


def await_moment(launcher: subprocess.Popen, folder: Path, draw: random.Random) -> None:
    """Sleep until the next kill: one in four while the engine starts, the others up to 2 s after 1 to 3 more steps."""
    ahead, begin = draw.randrange(4), count_steps(folder)
    time.sleep(draw.uniform(0, 2) if ahead else draw.uniform(5, 25))
    while ahead and launcher.poll() is None and count_steps(folder) < begin + ahead:
        time.sleep(0.2)
        begin = min(begin, count_steps(folder))  # the resumed run takes back what came after its checkpoint
    time.sleep(draw.uniform(0, 2))
    while launcher.poll() is None and not list_victims(launcher.pid):
        time.sleep(0.5)
    assert launcher.poll() is None, "ended before its kill"


def test_twenty_kills_lose_nothing_and_double_nothing(
    train, read_metrics, read_rollouts, list_processes, root, bank, tmp_path
):
    size = [f"openrlhf.data.max_samples={STEPS // 2 * BATCH}", "openrlhf.train.num_episodes=2"]
    size += ["openrlhf.ckpt.save_steps=2", "openrlhf.eval.steps=-1"]
    done, undisturbed = train(*size, name="undisturbed")
    assert done.returncode == 0, done.stderr
    folder, draw = tmp_path / "killed", random.Random(7)
    command = [sys.executable, "-m", "recipes.rlvr", f"data_dir={bank}", f"run_dir={folder}", *size]
    killed: Counter[str] = Counter()
    steps_at: list[int] = []
    while True:
        resume = ["resume=true"] if (folder / "run.json").exists() else []
        log = (tmp_path / "launcher.log").open("a")
        launcher = subprocess.Popen([*command, *resume], cwd=root, stdout=log, stderr=subprocess.STDOUT)
        if to_kill := killed.total() < KILLS:
            await_moment(launcher, folder, draw)
            victims = list_victims(launcher.pid)
            kind = draw.choice(sorted(victims))
            draw.choice(victims[kind]).kill()
            killed[kind] += 1
            steps_at.append(count_steps(folder))
            print(f"kill {killed.total()}: {kind} after step {steps_at[-1]}", flush=True)
        code = launcher.wait(timeout=1800)
        assert (code != 0) == to_kill, f"exit {code} after {dict(killed)}, see {log.name}"
        deadline = time.monotonic() + 15
        while left := list_processes(folder):
            assert time.monotonic() < deadline, f"still there: {[process.cmdline() for process in left]}"
            time.sleep(0.5)
        if not to_kill:
            break
    assert len(killed) >= 3 and max(steps_at) >= 4, (killed, steps_at)  # of several kinds, and past a checkpoint
    assert [row["step"] for row in read_metrics(folder) if row["kind"] == "train"] == list(range(1, STEPS + 1))
    rows = [(row["id"], row["step"]) for row in read_rollouts(folder) if row["split"] == "train"]
    assert len(rows) == len(set(rows)) == STEPS * BATCH
    assert list_prompts(read_rollouts(folder)) == list_prompts(read_rollouts(undisturbed))
