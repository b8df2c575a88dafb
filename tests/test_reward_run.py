"""PPO runs through each way to the reward, on the real engine: agent, function, server; and a server that goes away."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_server.verifier import verify

pytestmark = pytest.mark.e2e


class Server:
    """A reward server of this test, on a port of its own, which can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "reward_server.server",
            "--port",
            self.address.rpartition(":")[2],
        ]
        self.process = subprocess.Popen(command, cwd=self.root, stdout=subprocess.PIPE, text=True)
        assert (
            self.process.stdout is not None and "reward server: " in self.process.stdout.readline()
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


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
    known = {
        row["id"]: row
        for row in map(json.loads, (bank / "bank" / "train.jsonl").read_text().splitlines())
    }
    assert len(rows) == 192
    for row in rows:
        question = known[row["id"]]
        assert (
            row["reward"] == verify(row["response"], question["answer"], question["options"]).reward
        )


RECORD_CALLS = """

def record_calls(judge):
    def reward_func(queries, prompts, labels, **kwargs):
        found = judge(queries, prompts, labels, **kwargs)
        if "MEDRLVR_RUN" not in os.environ:
            return found  # preflight's probe
        label = json.loads(labels[0])
        row = {"id": label["id"], "step": label["step"], "reward": found["rewards"]}
        row["response"] = queries[0].removeprefix(prompts[0])
        with open(os.environ["MEDRLVR_RUN"] + "/calls.jsonl", "a") as file:
            file.write(json.dumps(row) + "\\n")
        return found

    return reward_func


reward_func = record_calls(reward_func)
"""


@pytest.mark.parametrize("hook", ["agent", "function", "server"])
def test_each_hook_gives_every_rollout_the_reward_of_its_text(
    hook, train, read_metrics, read_rollouts, project, bank, server
):
    """So the three give the same rewards for the same rollouts, and the engine trains on these."""
    with (project / "reward_server" / "openrlhf_hook.py").open("a") as file:
        file.write(RECORD_CALLS)  # the function writes no rollouts of its own
    url = [f"reward.url={server.address}/get_reward"] if hook == "server" else []
    done, folder = train(f"reward.hook={hook}", *url, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    if hook == "function":
        assert not (folder / "rollouts").exists()
        rows = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    else:
        assert not (folder / "calls.jsonl").exists()
        rows = read_rollouts(folder)
    assert_rewards_are_those_of_the_text(rows, bank)
    for metrics in read_metrics(folder):
        rewards = [row["reward"] for row in rows if row["step"] == metrics["step"]]
        assert sum(rewards) / len(rewards) == pytest.approx(
            metrics["rollout/reward_mean"], abs=1e-6
        )


def test_a_server_that_comes_back_costs_no_reward(
    train, read_metrics, read_rollouts, server, bank, tmp_path
):
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
    done, folder = train(
        "reward.hook=server", "reward.patience=5", f"reward.url={server.address}/get_reward"
    )
    assert done.returncode == 1
    assert f"reward server {server.address}/get_reward: Client" in done.stderr, done.stderr
    assert len(read_metrics(folder)) < 3


def test_a_token_reaches_the_server_and_no_file(train, read_rollouts, bank, monkeypatch, request):
    monkeypatch.setenv("MEDRLVR_REWARD_TOKEN", "a-secret")
    server = request.getfixturevalue("server")  # started with the token
    done, folder = train("reward.hook=server", f"reward.url={server.address}/get_reward")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_rewards_are_those_of_the_text(read_rollouts(folder), bank)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / "engine.log" in written
    assert not [path for path in written if b"a-secret" in path.read_bytes()]
