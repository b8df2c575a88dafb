"""Killed at random moments and resumed: 20 kills (-9) over the driver and its workers on the real engine. Hours.

After the last resume the run has its planned steps, each sample once, and the prompts in an undisturbed run's order.
"""

import random
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.slow
KILLS, STEPS, BATCH = 20, 24, 64
VICTIMS = ("recipes.engine.ppo", "ray::PolicyModelActor", "ray::CriticModelActor", "ray::RolloutRayActor", "VLLM::")


def list_prompts(rollouts: list[dict]) -> list[tuple[int, list[str]]]:
    """Each step's row ids, steps in order."""
    train = [row for row in rollouts if row["split"] == "train"]
    steps = sorted({row["step"] for row in train})
    return [(step, sorted(row["id"] for row in train if row["step"] == step)) for step in steps]


def test_twenty_kills_lose_nothing_and_double_nothing(train, read_metrics, read_rollouts, root, bank, tmp_path):
    size = [f"openrlhf.data.max_samples={STEPS // 2 * BATCH}", "openrlhf.train.num_episodes=2"]
    size += ["openrlhf.ckpt.save_steps=2", "openrlhf.eval.steps=6"]
    done, undisturbed = train(*size, name="undisturbed")
    assert done.returncode == 0, done.stderr
    folder, draw, kills = tmp_path / "killed", random.Random(7), 0
    command = [sys.executable, "-m", "recipes.rlvr", f"data_dir={bank}", f"run_dir={folder}", *size]
    while True:
        resume = ["resume=true"] if (folder / "run.json").exists() else []
        launcher = subprocess.Popen([*command, *resume], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kills < KILLS:
            time.sleep(draw.uniform(20, 150))
            family = psutil.Process(launcher.pid).children(recursive=True) if launcher.poll() is None else []
            wanted = draw.choice(VICTIMS)
            victims = [member for member in family if wanted in " ".join(member.cmdline())]
            if victims:
                draw.choice(victims).kill()
                kills += 1
        code = launcher.wait(timeout=1800)
        if code == 0:
            break
    assert kills > 0
    assert [row["step"] for row in read_metrics(folder) if row["kind"] == "train"] == list(range(1, STEPS + 1))
    rows = [(row["id"], row["step"]) for row in read_rollouts(folder) if row["split"] == "train"]
    assert len(rows) == len(set(rows)) == STEPS * BATCH
    assert list_prompts(read_rollouts(folder)) == list_prompts(read_rollouts(undisturbed))
