"""The CPU engine in its corners, each on the real OpenRLHF: sync that must not be stale, two ranks, NaN, real text.

`make e2e` runs these (a quarter of an hour on 2 cores); `make test` runs tests/test_e2e.py alone.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
MEDQA = Path(__file__).resolve().parents[2] / "shared" / "data" / "medqa"


def test_a_stale_lm_head_shows_in_vllm_kl(train, read_metrics, project):
    """The proof that the watch on `vllm_kl` can fail: tied embeddings synced, but the LM head vLLM packed kept."""
    cpu = project / "recipes" / "engine" / "cpu.py"
    source = cpu.read_text()
    keep = "layer.cpu_linear = lambda x, w, b, kept=layer.weight.detach().clone(): torch.nn.functional.linear("
    stale = (
        keep + "x, kept if kept.shape[0] > 1000 else w, b)"
    )  # the LM head is the one layer of over 1,000 rows
    assert source.count("layer.cpu_linear = torch.nn.functional.linear") == 1
    cpu.write_text(source.replace("layer.cpu_linear = torch.nn.functional.linear", stale))
    done, folder = train(
        "openrlhf.actor.adam.lr=3e-3", "openrlhf.train.num_episodes=2", cwd=project
    )
    assert done.returncode == 0, done.stderr
    assert max(abs(row["vllm_kl"]) for row in read_metrics(folder)) > 1e-3


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


RECORD_WEIGHTS = """

def record_weights(ppo_actor):
    import hashlib, os, torch
    broadcast = ppo_actor.ActorPPOTrainer.broadcast_to_vllm

    def broadcast_to_vllm(self):
        digest = hashlib.sha256()
        for weight in self.actor.model.module.parameters():
            digest.update(weight.detach().float().numpy().tobytes())
        with open(f"{os.environ['MEDRLVR_RUN']}/weights-{torch.distributed.get_rank()}.txt", "a") as file:
            print(digest.hexdigest(), file=file)
        return broadcast(self)

    ppo_actor.ActorPPOTrainer.broadcast_to_vllm = broadcast_to_vllm


wrapt.register_post_import_hook(record_weights, "openrlhf.trainer.ray.ppo_actor")
"""


def test_two_ranks_with_two_vllm_engines_hold_the_same_weights(
    train, read_metrics, read_rollouts, project
):
    with (project / "recipes" / "engine" / "cpu.py").open("a") as file:
        file.write(RECORD_WEIGHTS)
    done, folder = train("hardware.gpus_per_node=2", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 < row["actor_grad_norm"] < 1e3 and abs(row["vllm_kl"]) < 1e-3 for row in rows)
    rollouts = read_rollouts(folder)
    assert len(rollouts) == 192 and len(list((folder / "rollouts").glob("*.jsonl"))) == 2
    first, second = ((folder / f"weights-{rank}.txt").read_text().split() for rank in (0, 1))
    assert first == second and len(set(first)) >= 3  # equal on both, and other ones after each step


SYNC = """
import ctypes, os, sys, psutil, torch
from recipes.engine.cpu import _GlooBroadcast

rank, world, port = map(int, sys.argv[1:])
group = _GlooBroadcast("127.0.0.1", port, rank, world, "cpu")
resident = []
for sync in range(50):
    for shape in ((4_000_000,), (1000, 3000), (7,)):
        size = torch.Size(shape).numel()
        expected = (torch.arange(size).reshape(shape) % 97 + sync).bfloat16()
        # The sender's tensor is a transposed view where it can be: parameters need not be contiguous.
        sent = expected.t().contiguous().t() if len(shape) == 2 else expected
        tensor = sent if rank == 0 else torch.full(shape, -1.0, dtype=torch.bfloat16)
        group.broadcast(tensor, src=0)
        assert torch.equal(tensor, expected), (sync, shape)
    ctypes.CDLL(None).malloc_trim(0)  # what is free in the heap is not held by a sync
    resident.append(psutil.Process().memory_info().rss / 1e6)
print(max(resident[40:]) - max(resident[5:15]))
"""


@pytest.mark.parametrize("engines", [1, 2])
def test_fifty_syncs_arrive_whole_and_leave_nothing_behind(root, engines):
    """One trainer and several vLLM workers; 14 MB a sync, so a carrier that keeps it grows by 490 MB."""
    world, port = engines + 1, find_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SYNC, str(rank), str(world), str(port)],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert float(output.split()[-1]) < 20, "MB that the last 10 syncs hold more than early ones"


def test_a_nan_stops_the_run_at_once(train, read_metrics):
    """A learning rate that blows the weights up: the run ends with the metric's name, and saves no model."""
    done, folder = train("openrlhf.actor.adam.lr=1e14", "openrlhf.actor.max_norm=0")
    assert done.returncode == 1
    assert "FloatingPointError: step" in done.stderr, done.stderr
    assert len(read_metrics(folder)) < 3 and not (folder / "model").exists()


def test_zero_3_on_two_ranks_is_refused(train):
    done, folder = train("hardware.gpus_per_node=2", "hardware.zero_stage=3")
    assert done.returncode == 2 and "ZeRO-3" in done.stderr and not folder.exists()


@pytest.mark.skipif(not MEDQA.is_dir(), reason=f"real MedQA text is not at {MEDQA}")
def test_real_medqa_questions(train, read_rollouts, root, tmp_path):
    prepare = [
        sys.executable,
        "-m",
        "data_prep.run",
        "data=medqa",
        f"data.source={MEDQA}",
        f"data_dir={tmp_path}",
    ]
    subprocess.run(prepare, cwd=root, check=True, capture_output=True)
    done, folder = train("data=medqa", f"data_dir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    rollouts = read_rollouts(folder)
    assert len(rollouts) == 192 and all(row["id"].startswith("medqa/train/") for row in rollouts)
    assert max(row["prompt_tokens"] for row in rollouts) <= 896


BREAK_GRADIENTS = """

def break_gradients(deepspeed_module):
    strategy = deepspeed_module.DeepspeedStrategy
    backward = strategy.backward
    strategy.backward = lambda self, loss, *args, **kwargs: backward(
        self, loss * float("inf"), *args, **kwargs
    )


wrapt.register_post_import_hook(break_gradients, "openrlhf.utils.deepspeed.deepspeed")
"""


def test_a_run_whose_updates_are_all_skipped_is_stopped(train, read_metrics, project):
    """Losses are logged before the backward pass: DeepSpeed skips the update, and every metric is finite."""
    with (project / "recipes" / "engine" / "cpu.py").open("a") as file:
        file.write(BREAK_GRADIENTS)
    done, folder = train(cwd=project)
    assert done.returncode == 1
    assert "DeepSpeed skipped updates in 3 steps in a row" in done.stderr, done.stderr
    rows = read_metrics(folder)
    assert [row["actor_skipped_steps"] for row in rows] == [1, 1]
    assert [row["critic_skipped_steps"] for row in rows] == [1, 1]
    assert not (folder / "model").exists()
