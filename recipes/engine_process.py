"""The engine as a child process: its command, its environment, its end, and the cause where it failed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
STARTUP = ROOT / "recipes" / "engine" / "startup"
STOP_SECONDS = 10

EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Failure|Exit)\b.*")
LOG_PREFIX = re.compile(r"\x1b\[[0-9;]*m|^\s*\((?:\w+ )?pid=\d+[^)]*\)\s?")


def build_command(method: str, argv: list[str], cfg: Any) -> list[str]:
    """The command line that runs OpenRLHF's own CLI module: PPO under Ray, SFT under torchrun."""
    if method == "ppo":
        return [sys.executable, "-m", "recipes.engine.ppo", *argv]
    processes = str(cfg.hardware.gpus_per_node)
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return [sys.executable, *run, "-m", "openrlhf.cli.train_sft", *argv]


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
        "WANDB_MODE": os.environ.get("WANDB_MODE", "offline"),
    }
    if "reward" in cfg:
        environment |= build_reward_environment(cfg)
    if not cfg.hardware.cuda:
        environment |= {
            "MEDRLVR_CPU_ENGINE": "1",
            "MEDRLVR_LOGICAL_GPUS": str(cfg.hardware.gpus_per_node),
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB for each vLLM engine
        }
    return environment


def build_reward_environment(cfg: Any) -> dict[str, str]:
    """How reward_server/openrlhf_hook.py is told `reward.mode`, `reward.options` and `reward.patience`."""
    options = OmegaConf.to_container(cfg.reward.options, resolve=True)
    return {
        "MEDRLVR_REWARD_MODE": cfg.reward.mode,
        "MEDRLVR_REWARD_OPTIONS": json.dumps(options),
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


def start_engine(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen:
    """Start the engine in a session of its own, so that Ctrl-C reaches the launcher alone; output goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=ROOT,
            start_new_session=True,
        )


def find_family(process: subprocess.Popen) -> list[psutil.Process]:
    """The engine's process and all that descend from it: Ray's daemons, workers, vLLM's children."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def stop_engine(process: subprocess.Popen, family: list[psutil.Process]) -> None:
    """End the engine and every process it started: SIGTERM, then SIGKILL to what is left after 10 seconds.

    family: what find_family saw before, since the orphans of a dead parent are no longer its children.
    """
    everyone = {member.pid: member for member in [*family, *find_family(process)]}
    running = [member for member in everyone.values() if member.is_running()]
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


def find_cause(log: Path, tail_bytes: int = 2_000_000) -> str:
    """The line of engine.log that says why the engine failed.

    Ray repeats an exception in each process that waits for it; the cause is the exception of the first traceback
    whose line is not Ray's own wrapping.
    """
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - tail_bytes))
        text = file.read().decode(errors="replace")
    lines = [LOG_PREFIX.sub("", LOG_PREFIX.sub("", line)).strip() for line in text.replace("\r", "\n").splitlines()]
    found = [line for line in lines if EXCEPTION.match(line)]
    own = [line for line in found if not line.startswith(("ray.exceptions", "RayTaskError", "SystemExit"))]
    candidates = own or found
    return candidates[0] if candidates else (lines[-1] if lines else "the engine wrote nothing")
