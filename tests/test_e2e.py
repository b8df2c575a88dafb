"""One run from end to end on the real engine: OpenRLHF, Ray, vLLM and DeepSpeed, no GPU. About 5 minutes on 2 cores."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e
STEPS, BATCH = (
    3,
    64,
)  # the experiment's: with fewer samples, and the rounding of bf16 logits alone can take vllm_kl to 1e-3


CANARIES = {
    "HF_TOKEN": "canary-hub",
    "WANDB_API_KEY": "canary-wandb",
    "OPENAI_API_KEY": "canary-openai",
    "MY_DATABASE_PASSWORD": "canary-own",
}
LEAKS: set[str] = set()
"""Places where a canary, or the token of the run's Ray, was seen: a file, or the argv of a process."""


def find_leaks(
    secrets: Iterable[bytes], folders: Iterable[Path], process: psutil.Process | None
) -> set[str]:
    """Look for secrets in files and in the argv of a process and all its descendants."""
    found = set()
    for path in [path for folder in folders for path in folder.rglob("*")]:
        with suppress(OSError):  # Ray's files come and go
            if path.is_file() and path.stat().st_size < 1 << 26:
                content = path.read_bytes()
                found |= {str(path) for secret in secrets if secret in content}
    for one in [process, *process.children(recursive=True)] if process else []:
        with suppress(psutil.Error):
            argv = " ".join(one.cmdline()).encode()
            found |= {f"argv of {one.pid}" for secret in secrets if secret in argv}
    return found


def read_ray_token(process: psutil.Process) -> set[bytes]:
    """Read the token of the run's Ray from the environment of one of its processes."""
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            if token := child.environ().get("RAY_AUTH_TOKEN"):
                return {token.encode()}
    return set()


@pytest.fixture(scope="module")
def run(root: Path, bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short laptop run: 3 steps, evaluation on dev and a checkpoint after the second."""
    folder = tmp_path_factory.mktemp("run") / "rlvr"
    overrides = [
        f"data_dir={bank}",
        f"run_dir={folder}",
        f"openrlhf.data.max_samples={STEPS * BATCH + 5}",
        "openrlhf.train.num_episodes=1",
        "openrlhf.eval.steps=2",
        "openrlhf.ckpt.save_steps=2",
    ]
    out = folder.parent / "out.txt"
    secrets = {secret.encode() for secret in CANARIES.values()}
    with out.open("w") as output:
        launcher = psutil.Popen(
            [sys.executable, "-m", "recipes.rlvr", *overrides],
            cwd=root,
            stdout=output,
            stderr=output,
            env=os.environ | CANARIES,
        )
    while launcher.poll() is None:
        time.sleep(5)
        with suppress(psutil.Error, OSError):
            secrets |= read_ray_token(launcher)
            scratch = Path(tempfile.gettempdir(), (folder / ".scratch").read_text())
            LEAKS.update(find_leaks(secrets, [scratch], launcher))
    LEAKS.update(find_leaks(secrets, [folder.parent], None))
    assert len(secrets) == len(CANARIES) + 1, "the token of Ray was never seen"
    log = folder / "engine.log"
    said = out.read_text()
    assert launcher.returncode == 0, said + (log.read_text()[-5000:] if log.exists() else "")
    assert "finished 3 steps" in said
    return folder


def test_no_secret_of_the_environment_is_in_a_file_or_in_argv(run, tmp_path):
    """While it ran, too: in Ray's session, which is removed at the end."""
    assert set() == LEAKS
    (tmp_path / "a.log").write_text("token=canary-hub")
    child = psutil.Popen(
        [sys.executable, "-c", "print(flush=True); input()", "canary-own"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        child.stdout.readline()  # Popen returns before the kernel has set the new argv
        found = find_leaks([b"canary-hub", b"canary-own"], [tmp_path], child)
    finally:
        child.kill()
        child.wait()
    assert found == {str(tmp_path / "a.log"), f"argv of {child.pid}"}


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_step_is_logged_and_the_rollout_policy_is_the_trained_one(run):
    train = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3]
    assert all(abs(row["vllm_kl"]) < 1e-3 for row in train)
    assert all(row["actor_grad_norm"] > 0 for row in train)
    assert all(-1 <= row["rollout/reward_mean"] <= 1 for row in train)


def test_dev_accuracy_is_logged(run):
    (evaluation,) = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "eval"]
    assert evaluation["step"] == 2 and 0 <= evaluation["eval_bank_pass1"] <= 1
    assert evaluation["eval_num_samples"] == 200


def test_every_rollout_is_on_disk_with_its_row_and_step(run, bank):
    rows = [row for path in (run / "rollouts").glob("*.jsonl") for row in read_rows(path)]
    train = [row for row in rows if row["split"] == "train"]
    assert len(train) == STEPS * BATCH
    assert sorted({row["step"] for row in train}) == [1, 2, 3] and {
        row["episode"] for row in train
    } == {1}
    assert len({row["id"] for row in train}) == STEPS * BATCH  # one episode: no row twice
    known = {row["id"]: row for row in read_rows(bank / "bank" / "train.jsonl")}
    assert all(row["id"] in known and 0 < row["prompt_tokens"] <= 896 for row in train)
    assert sum(row["split"] == "dev" for row in rows) == 200


def test_the_logged_reward_is_that_of_the_rollouts(run):
    rows = [row for path in (run / "rollouts").glob("*.jsonl") for row in read_rows(path)]
    for metrics in read_rows(run / "metrics.jsonl"):
        if metrics["kind"] == "train":
            rewards = [
                r["reward"] for r in rows if r["split"] == "train" and r["step"] == metrics["step"]
            ]
            assert sum(rewards) / len(rewards) == pytest.approx(
                metrics["rollout/reward_mean"], abs=1e-6
            )


def test_the_run_says_what_it_was(run):
    record = json.loads((run / "run.json").read_text())
    assert record["exit"] == 0 and record["total_steps"] == STEPS
    assert record["data"]["train_rows"] == STEPS * BATCH
    assert record["versions"]["openrlhf"] == "0.11.2"
    assert (run / "checkpoints" / "_actor" / "latest").exists() and (run / "config.yaml").exists()


def test_vllm_has_the_planned_kv_cache(run):
    assert "Explicitly set (0.25/" in (run / "engine.log").read_text(errors="replace")


def test_the_model_has_learned_something(run, root):
    from safetensors.torch import load_file

    base = load_file(root / "recipes" / "laptop_model" / "model.safetensors")
    trained = load_file(run / "model" / "model.safetensors")
    changed = [name for name in base if not (base[name].float() == trained[name].float()).all()]
    assert len(changed) > len(base) / 2
    assert all(weight.float().isfinite().all() for weight in trained.values())
