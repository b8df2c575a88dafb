"""The engine as a child process: its command, its environment, its end, and the cause where it failed."""

import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

from recipes.engine_rules import count_gpus

ROOT = Path(__file__).resolve().parents[1]
STARTUP = ROOT / "recipes" / "engine" / "startup"
STOP_SECONDS = 10

EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Failure|Exit)\b.*")
# cause → next step; the first that matches
ADVICE = [
    (
        re.compile(r"CUDA out of memory|OutOfMemoryError: CUDA"),
        "the GPU's memory ran out: `make plan` with the same words shows the phase; lower "
        "openrlhf.train.micro_batch_size or hardware.vllm_memory",
    ),
    (
        re.compile(
            r"ray\.exceptions\.OutOfMemoryError|killed due to the node running low on memory|^Killed"
        ),
        "the machine's memory ran out: hardware.adam_offload=false if it fits, or fewer ranks or vLLM engines",
    ),
    (re.compile(r"No space left on device|Disk quota"), "make room on that disk, then resume"),
    (
        re.compile(r"RewardFailure|row \S+: |reward server|ConnectionError"),
        "the reward: docs/reward.md",
    ),
    (re.compile(r"No available memory for the cache blocks"), "raise hardware.vllm_memory"),
    (
        re.compile(r"Free memory on device"),
        "lower hardware.vllm_memory, or end what else is on the GPU",
    ),
    (re.compile(r"FloatingPointError"), "a lower learning rate, or an earlier checkpoint"),
    (
        re.compile(r"node timed out during startup"),
        "the machine was too busy to start Ray in 30 seconds: start again",
    ),
]
LOG_PREFIX = re.compile(r"\x1b\[[0-9;]*m|^\s*\((?:\w+ )?pid=\d+[^)]*\)\s?")


def build_command(method: str, argv: list[str], cfg: Any) -> list[str]:
    """The command line that runs OpenRLHF's own CLI module: PPO under Ray, SFT under torchrun."""
    if method == "ppo":
        return [sys.executable, "-m", "recipes.engine.ppo", *argv]
    processes = str(cfg.hardware.gpus_per_node)
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return [sys.executable, *run, "-m", "openrlhf.cli.train_sft", *argv]


def name_wandb_run(run_dir: Path) -> str:
    """The id of this run folder's wandb run, the same after every resume."""
    return uuid.uuid5(uuid.NAMESPACE_URL, str(run_dir)).hex[:16]


def build_environment(cfg: Any, start_step: int) -> dict[str, str]:
    """What the engine's processes need from their environment, beside what the caller's holds."""
    run_dir = Path(cfg.run_dir).resolve()
    python_path = [str(STARTUP), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
        "MEDRLVR_RUN": str(run_dir),
        "MEDRLVR_START_STEP": str(start_step),
        "MEDRLVR_ROLLOUTS": str(run_dir / "rollouts"),
        "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report to its makers
        "WANDB_MODE": os.environ.get(
            "WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline"
        ),
        "WANDB_DIR": os.environ.get("WANDB_DIR", str(run_dir)),
        "WANDB_RUN_ID": name_wandb_run(run_dir),
        "WANDB_RESUME": "allow",  # a resumed run goes on in the same wandb run
    }
    if "reward" in cfg:
        environment |= build_reward_environment(cfg)
        environment["MEDRLVR_GPUS"] = str(count_gpus(cfg))
    if not cfg.hardware.cuda:
        environment |= {
            "MEDRLVR_CPU_ENGINE": "1",
            "MEDRLVR_LOGICAL_GPUS": str(cfg.hardware.gpus_per_node),
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB for each vLLM engine
        }
    return environment


def build_reward_environment(cfg: Any) -> dict[str, str]:
    """Build the variables that reward_server/openrlhf_hook.py reads."""
    reward = {
        "mode": cfg.reward.mode,
        "options": OmegaConf.to_container(cfg.reward.options, resolve=True),
        "control": cfg.reward.control,
        "seed": cfg.seed,
    }
    return {
        "MEDRLVR_REWARD": json.dumps(reward),
        "MEDRLVR_REWARD_PATIENCE": str(cfg.reward.patience),
    }


def format_command(command: list[str], environment: dict[str, str]) -> str:
    """The command as a shell would take it, a flag a line."""
    variables = [f"{key}={shlex.quote(value)}" for key, value in environment.items()]
    lines: list[str] = []
    for word in command:
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += " " + shlex.quote(word)
    return " \\\n  ".join([*variables, *lines])


def die_with_launcher() -> None:
    """In the engine's process, before it becomes the engine: SIGTERM when the launcher is gone, however it went."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, Linux


def start_engine(
    command: list[str], environment: dict[str, str], log: Path, lock: int
) -> subprocess.Popen:
    """Start the engine in a session of its own, so that Ctrl-C reaches the launcher alone; output goes to `log`.

    lock: file descriptor of the run folder's lock, which the engine holds as long as it lives.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=ROOT,
            start_new_session=True,
            pass_fds=(lock,),
            preexec_fn=die_with_launcher,
        )


def find_family(
    process: subprocess.Popen, known: Iterable[psutil.Process] = ()
) -> list[psutil.Process]:
    """The engine's process and all that descend from it: Ray's daemons, workers, vLLM's children.

    known: what was found before. Those that still run are in the answer too, since the orphans of a parent that was
    killed are no longer anybody's children.
    """
    members = {member for member in known if member.is_running()}
    try:
        parent = psutil.Process(process.pid)
        members |= {parent, *parent.children(recursive=True)}
    except psutil.NoSuchProcess:
        pass
    return list(members)


def stop_engine(process: subprocess.Popen, family: list[psutil.Process]) -> None:
    """End the engine and every process it started: SIGTERM, then SIGKILL to what is left after 10 seconds.

    family: what find_family found before.
    """
    running = find_family(process, family)
    for member in running:
        _signal(member, "terminate")
    _, alive = psutil.wait_procs(running, timeout=STOP_SECONDS)
    for member in alive:
        _signal(member, "kill")
    psutil.wait_procs(alive, timeout=5)
    process.wait(timeout=5)


def _signal(process: psutil.Process, method: str) -> None:
    """Signal a process that may be gone already, which is what is wanted."""
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return


def advise(cause: str) -> str:
    """What to do about a cause; empty where nothing general can be said."""
    for pattern, advice in ADVICE:
        if pattern.search(cause):
            return advice
    return ""


def find_cause(log: Path, begin: int = 0, tail_bytes: int = 2_000_000) -> str:
    """The line of engine.log, from byte `begin`, that says why the engine failed.

    Ray repeats an exception in each process that waits for it; the cause is the exception of the first traceback
    whose line is not Ray's own wrapping.
    """
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - tail_bytes))
        text = file.read().decode(errors="replace")
    lines = [
        LOG_PREFIX.sub("", LOG_PREFIX.sub("", line)).strip()
        for line in text.replace("\r", "\n").splitlines()
    ]
    found = [line for line in lines if EXCEPTION.match(line)]
    own = [
        line
        for line in found
        if not line.startswith(("ray.exceptions", "RayTaskError", "SystemExit"))
    ]
    candidates = own or found
    return candidates[0] if candidates else (lines[-1] if lines else "the engine wrote nothing")
