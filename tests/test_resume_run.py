"""Stopped and resumed on the real engine: by kills (-9) at random moments (25 minutes), Ctrl-C and a full disk (6).

After the last resume the run has its planned steps, each sample once, and the prompts in an undisturbed run's order.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until

pytestmark = pytest.mark.slow
KILLS, BATCH = 20, 64
VICTIMS = (
    "recipes.engine.ppo",
    "ray::PolicyModelActor",
    "ray::CriticModelActor",
    "ray::RolloutRayActor",
    "VLLM::",
)


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


def size_run(steps: int) -> list[str]:
    """Overrides for a run of `steps` steps in two episodes, with a checkpoint every second step."""
    size = [f"openrlhf.data.max_samples={steps // 2 * BATCH}", "openrlhf.train.num_episodes=2"]
    return [*size, "openrlhf.ckpt.save_steps=2", "openrlhf.eval.steps=-1"]


@pytest.fixture
def check_whole(read_metrics, read_rollouts):
    """check_whole(folder, undisturbed, steps): nothing is lost, nothing is there twice, the prompts are the same."""

    def check(folder: Path, undisturbed: Path, steps: int) -> None:
        metrics = read_metrics(folder)
        assert [row["step"] for row in metrics if row["kind"] == "train"] == list(
            range(1, steps + 1)
        )
        rows = [
            (row["id"], row["step"]) for row in read_rollouts(folder) if row["split"] == "train"
        ]
        assert len(rows) == len(set(rows)) == steps * BATCH
        assert list_prompts(read_rollouts(folder)) == list_prompts(read_rollouts(undisturbed))

    return check


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
        begin = min(
            begin, count_steps(folder)
        )  # the resumed run takes back what came after its checkpoint
    time.sleep(draw.uniform(0, 2))
    while launcher.poll() is None and not list_victims(launcher.pid):
        time.sleep(0.5)
    assert launcher.poll() is None, "ended before its kill"


def test_twenty_kills_lose_nothing_and_double_nothing(
    train, check_whole, list_processes, root, bank, tmp_path
):
    steps = 48
    done, undisturbed = train(*size_run(steps), name="undisturbed")
    assert done.returncode == 0, done.stderr
    folder, draw = tmp_path / "killed", random.Random(7)
    command = [
        sys.executable,
        "-m",
        "recipes.rlvr",
        f"data_dir={bank}",
        f"run_dir={folder}",
        *size_run(steps),
    ]
    killed: Counter[str] = Counter()
    steps_at: list[int] = []
    while True:
        resume = ["resume=true"] if (folder / "run.json").exists() else []
        log = (tmp_path / "launcher.log").open("a")
        launcher = subprocess.Popen(
            [*command, *resume], cwd=root, stdout=log, stderr=subprocess.STDOUT
        )
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
        wait_until(lambda: not list_processes(folder), 15, "the end of the run's processes")
        if not to_kill:
            break
    assert len(killed) >= 3 and max(steps_at) > 6, (
        killed,
        steps_at,
    )  # of several kinds, and well into the run
    check_whole(folder, undisturbed, steps)


def fill_disk(filler: Path) -> None:
    """Leave nothing on the file's disk, on which the run goes on writing meanwhile."""
    with filler.open("wb") as file:
        end = 0
        for size in (1 << 26, 1 << 20, 1 << 12):  # down to one page of memory
            with suppress(OSError):  # no room for one more of this size
                while True:
                    os.posix_fallocate(file.fileno(), end, size)
                    end += size


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own is mounted, which needs root")
def test_ctrl_c_and_a_full_disk_lose_nothing(
    train, check_whole, list_processes, root, bank, tmp_path
):
    """Ctrl-C after step 3; then the disk is full after step 7, and what is printed says so; then to the end."""
    steps, disk = 12, tmp_path / "disk"
    done, undisturbed = train(*size_run(steps), name="undisturbed")
    assert done.returncode == 0, done.stderr
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", disk], check=True)
    try:
        folder, filler = disk / "run", disk / "filler"
        command = [
            sys.executable,
            "-m",
            "recipes.rlvr",
            f"data_dir={bank}",
            f"run_dir={folder}",
            *size_run(steps),
        ]

        def run_until(
            step: int, act: Callable[[subprocess.Popen], None], *words: str
        ) -> tuple[int, str]:
            launcher = subprocess.Popen(
                [*command, *words],
                cwd=root,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(
                    signal.SIGINT, signal.SIG_DFL
                ),  # which a shell's `&` switches off
            )
            while launcher.poll() is None and count_steps(folder) < step:
                time.sleep(0.2)
            act(launcher)
            said = launcher.communicate(timeout=300)[1]
            assert not list_processes(folder)
            return launcher.returncode, said

        code, said = run_until(3, lambda launcher: launcher.send_signal(signal.SIGINT))
        assert code == 130 and "resume=true" in said
        code, said = run_until(7, lambda _: fill_disk(filler), "resume=true")
        assert code == 1 and "No space left on device" in said and "resume=true" in said
        filler.unlink()
        code, said = run_until(steps, lambda _: None, "resume=true")
        assert code == 0, said
        check_whole(folder, undisturbed, steps)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
