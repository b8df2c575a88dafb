"""PPO runs through each way to the reward, on the real engine: agent, function, server; and a server that goes away."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_server.verifier import verify

pytestmark = pytest.mark.e2e
LOGGED = ("rollout/reward_mean", "accuracy", "format", "leak", "think_words")


class Server:
    """A reward server of this test, on a port of its own, which can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "reward_server.server", "--port", self.address.rpartition(":")[2]]
        self.process = subprocess.Popen(command, cwd=self.root, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and "reward server: " in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def count_correct(self) -> int:
        with urllib.request.urlopen(f"{self.address}/metrics") as reply:
            text = reply.read().decode()
        (line,) = [line for line in text.splitlines() if line.startswith('reward_verdicts_total{reason="correct"}')]
        return int(float(line.split()[-1]))


@pytest.fixture
def server(root) -> Iterator[Server]:
    server = Server(root)
    yield server
    server.kill()


def after_step_one(folder: Path, act) -> threading.Thread:
    """Call `act` as soon as the run in `folder` has ended its first step."""

    def wait() -> None:
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def assert_rewards_are_those_of_the_text(rows: list[dict], bank: Path) -> None:
    """Every sample of three steps is there, with the reward that its text deserves."""
    known = {row["id"]: row for row in map(json.loads, (bank / "bank" / "train.jsonl").read_text().splitlines())}
    assert len(rows) == 192
    for row in rows:
        question = known[row["id"]]
        assert row["reward"] == verify(row["response"], question["answer"], len(question["options"])).reward


def test_the_three_hooks_give_the_same_rewards_for_the_same_rollouts(train, read_metrics, read_rollouts, server, bank):
    """Without learning, the three runs sample the same responses: seeded prompts, seeded vLLM."""
    still = ["openrlhf.actor.adam.lr=0", "openrlhf.critic.adam.lr=0"]
    runs = {}
    for hook in ("agent", "function", "server"):
        url = [f"reward.url={server.address}/get_reward"] if hook == "server" else []
        done, folder = train(f"reward.hook={hook}", *url, *still, name=hook)
        assert done.returncode == 0, done.stdout + done.stderr
        runs[hook] = folder
    metrics = {hook: [{key: row[key] for key in LOGGED} for row in read_metrics(runs[hook])] for hook in runs}
    assert len(metrics["agent"]) == 3
    for hook in ("function", "server"):
        for got, wanted in zip(metrics[hook], metrics["agent"], strict=True):
            assert got == pytest.approx(wanted, abs=1e-6)
    assert_rewards_are_those_of_the_text(read_rollouts(runs["agent"]), bank)
    assert_rewards_are_those_of_the_text(read_rollouts(runs["server"]), bank)
    assert not (runs["function"] / "rollouts").exists()
    assert server.count_correct() == sum(row["correct"] for row in read_rollouts(runs["server"]))


def test_a_server_that_comes_back_costs_no_reward(train, read_metrics, read_rollouts, server, bank, tmp_path):
    def restart() -> None:
        server.kill()
        time.sleep(10)
        server.start()

    thread = after_step_one(tmp_path / "run", restart)
    done, folder = train("reward.hook=server", f"reward.url={server.address}/get_reward")
    thread.join(timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3]
    assert_rewards_are_those_of_the_text(read_rollouts(folder), bank)


def test_a_server_that_stays_away_is_named(train, read_metrics, server, tmp_path):
    after_step_one(tmp_path / "run", server.kill)
    done, folder = train("reward.hook=server", "reward.patience=5", f"reward.url={server.address}/get_reward")
    assert done.returncode == 1
    assert f"reward server {server.address}/get_reward: Client" in done.stderr, done.stderr
    assert len(read_metrics(folder)) < 3


def test_the_launcher_starts_and_stops_a_server_of_its_own(train, read_rollouts, bank, monkeypatch):
    monkeypatch.setenv("MEDRLVR_REWARD_TOKEN", "a-secret")
    done, folder = train("reward.hook=server")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_rewards_are_those_of_the_text(read_rollouts(folder), bank)
    assert (folder / "reward_server.log").read_text().rstrip().endswith("reward server: stopped")
    written = [folder / name for name in ("config.yaml", "command.txt", "run.json", "engine.log")]
    assert not any("a-secret" in path.read_text() for path in written)
