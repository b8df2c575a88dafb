"""Start, watch and stop the engine's processes, and find out why they failed."""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from data_prep.command import show_text
from data_prep.files import read_mapping
from recipes.model import read_shape
from recipes.plan import size_cpu_cache
from recipes.reward import build_reward_environment
from recipes.rules import count_gpus, count_samples

ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h
# weights from which memory without a GPU counts more than time: to save it costs a step a quarter
LARGE = 25_000_000
# ray::PolicyModelActor, VLLM::EngineCore live as long as the run; ray::IDLE comes and goes
PART = re.compile(r"ray::(?:\w+Actor|PPOTrainer)\b|VLLM::\w+")
PATIENCE = 60.0  # seconds to end by itself, with its own message, after a part has died
STALL_SECONDS = 600.0  # without a step or a rollout; 5 times the longest wait, if that is more

# on CUDA hardware, where the caller set nothing else
CUDA_SETTINGS = {
    # else torch rounds pinned buffers up to a power of two, offloaded ones by up to 8 GiB each
    "PYTORCH_CUDA_ALLOC_CONF": "pinned_max_round_threshold_mb:1024",
    # DeepSpeed refuses nvcc 13.2 next to torch's 13.0 (builder.py:104); preflight asks the major
    "DS_SKIP_CUDA_CHECK": "1",
}

# torch.OutOfMemoryError: …, ray.exceptions.RayTaskError(…)
EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Failure|Exit)\b.*")
WRAPPERS = ("ray.exceptions", "RayTaskError", "SystemExit")  # never the cause itself
# Ray's list of who held the memory: 568<tab>19.48<tab>ray::PolicyModelActor.fit, 1248<tab>…
HELD = re.compile(r"\d+\t([\d.]+)\t(.+?)(?=, \d+\t|, Refer|$)")
USED = re.compile(r"was (\S+) / (\S+) \(")  # 22.57GB / 23.54GB (0.958715)
ADVICE = read_mapping(Path(__file__).with_suffix(".yaml"))  # regex of a cause → what to do
# (PolicyModelActor pid=1234, ip=10.0.0.2), with terminal colours
LOG_PREFIX = re.compile(r"\x1b\[[0-9;]*m|^\s*\((?:\w+ )?pid=\d+[^)]*\)\s?")


def build_command(method: str, argv: list[str], gpus_per_node: int) -> list[str]:
    """Build the command that runs OpenRLHF's own CLI module: PPO under Ray, SFT under torchrun."""
    if method == "ppo":
        return [sys.executable, "-m", "recipes.engine.ppo", *argv]
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus_per_node)]
    return [sys.executable, *run, "-m", "openrlhf.cli.train_sft", *argv]


def build_environment(cfg: Any, start_step: int, wandb_id: str) -> dict[str, str]:
    """Build what the engine needs besides the caller's environment. It is printed: no secret."""
    run_dir, hardware, flags = Path(cfg.run_dir).resolve(), cfg.hardware, cfg.openrlhf
    given = os.environ
    python_path = [f"{ROOT}/recipes/engine/startup", str(ROOT), given.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
        "MEDRLVR_RUN": str(run_dir),
        "MEDRLVR_START_STEP": str(start_step),
        "MEDRLVR_ROLLOUTS": str(run_dir / "rollouts"),
        "RAY_USAGE_STATS_ENABLED": "0",  # else Ray sends usage data to its developers
        "WANDB_MODE": "online" if given.get("WANDB_API_KEY") else "offline",
        "WANDB_DIR": str(run_dir),
        "WANDB_RUN_ID": wandb_id,
        "WANDB_RESUME": "allow",  # a resumed run continues the same wandb run
    }
    # read by recipes/engine/trainer.py; without it no code of a model folder is run
    if cfg.model.trust_remote_code:
        environment["MEDRLVR_TRUST_REMOTE_CODE"] = "1"
    shape = read_shape(cfg)
    if not hardware.cuda and (shape is None or shape.parameters >= LARGE):
        environment["MEDRLVR_SAVE_MEMORY"] = "1"  # see recipes/engine/cpu.py
    # PPO only: SFT has neither a reward nor vLLM
    if "reward" in cfg:
        environment |= build_reward_environment(cfg.reward, cfg.seed)
        environment["MEDRLVR_GPUS"] = str(count_gpus(cfg))
        # vLLM's own limit is 128 at a time, whatever fits (openrlhf/trainer/ray/vllm_engine.py)
        environment["MEDRLVR_VLLM_SEQUENCES"] = str(min(1024, count_samples(cfg)))
        if not hardware.cuda:
            environment["MEDRLVR_KV_CACHE"] = str(size_cpu_cache(cfg, shape))
            # vLLM computes in its engine's process, not in one more next to it
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if hardware.cuda:
        # ninja and nvcc's helpers are next to the interpreter, which need not be on PATH
        here = os.path.dirname(sys.executable)
        environment["PATH"] = os.pathsep.join([here, given.get("PATH", "")])
        if flags.ds.adam_offload and "OMP_NUM_THREADS" not in given:
            cores = len(os.sched_getaffinity(0))  # Ray says 1, which leaves the CPU's Adam one core
            environment["OMP_NUM_THREADS"] = str(max(1, cores // hardware.training_gpus_per_node))
        environment |= CUDA_SETTINGS
    else:
        environment["MEDRLVR_CPU_ENGINE"] = "1"
    own = {"WANDB_MODE", "WANDB_DIR", *CUDA_SETTINGS} & set(given)  # what the caller set stays
    return environment | {name: given[name] for name in own & set(environment)}


def format_command(command: list[str], environment: dict[str, str]) -> str:
    """Write the command as a shell would take it, a flag a line."""
    variables = [f"{key}={shlex.quote(value)} \\\n " for key, value in environment.items()]
    words = map(shlex.quote, command)
    lines = [f"\\\n  {word}" if word.startswith("--") else word for word in words]
    return " ".join([*variables, *lines])


def start_engine(
    command: list[str], environment: dict[str, str], log: Path, lock: int
) -> subprocess.Popen:
    """Start the engine in its own session, so that Ctrl-C reaches the launcher alone.

    lock: descriptor of the run folder's lock, which the engine holds as long as it lives.
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
            # the engine's process asks the kernel for SIGTERM when the launcher is gone
            preexec_fn=partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM),
        )


def find_family(
    process: subprocess.Popen, known: Iterable[psutil.Process] = ()
) -> list[psutil.Process]:
    """Find the engine's process and all that descend from it: Ray's daemons, workers, vLLM's.

    known: those found before, since a process whose parent was killed is no longer found below it.
    """
    # is_running compares start times too, so a process id that is used again is not ours
    members = {member for member in known if member.is_running()}
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        members |= {parent, *parent.children(recursive=True)}
    return list(members)


def stop_engine(process: subprocess.Popen, family: list[psutil.Process]) -> None:
    """End the engine and its family (find_family): SIGTERM, then SIGKILL after STOP_SECONDS."""
    # looked for again: a process may have started since
    running = find_family(process, family)
    for member in running:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(running, timeout=STOP_SECONDS)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=5)
    process.wait(timeout=5)


def advise(cause: str) -> str:
    """Find what to do about a cause; empty where nothing general is known."""
    return next((advice for regex, advice in ADVICE.items() if re.search(regex, cause)), "")


def name_memory_holders(cause: str) -> str:
    """Shorten Ray's report that memory ran out to who held it; another cause stays as it is."""
    used, held = USED.search(cause), HELD.findall(cause)
    if not used or not held:
        return cause
    listed = ", ".join(f"{command[:60]} {size} GB" for size, command in held[:6])
    return f"the machine's memory ran out, {used[1]} of {used[2]} were used: {listed}"


def find_cause(log: Path, begin: int = 0) -> str:
    """Find the line of engine.log, from byte `begin`, that says why the engine failed.

    Ray repeats an exception in each process that waits for it: the first that Ray did not wrap.
    """
    # tracebacks of many workers: the first may be far from the end
    lines = read_tail(log, begin, 2_000_000)
    found = [line for line in lines if EXCEPTION.match(line)]
    own = [line for line in found if not line.startswith(WRAPPERS)]
    return [*own[:1], *found[:1], *lines[-1:], "the engine wrote nothing"][0]


def read_tail(log: Path, begin: int = 0, tail_bytes: int = 20_000) -> list[str]:
    """Read the last lines of engine.log from byte `begin`, without Ray's prefixes and colours."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - tail_bytes))
        text = file.read().decode(errors="replace")
    lines = text.replace("\r", "\n").splitlines()
    # twice: colours first, then the prefix that was between them
    return [show_text(LOG_PREFIX.sub("", LOG_PREFIX.sub("", line)).strip()) for line in lines]


class EngineWatch:
    """Watch an engine that runs: its processes, a part that died, and no progress."""

    def __init__(self, engine: subprocess.Popen, run_dir: Path) -> None:
        self.engine, self.run_dir = engine, run_dir
        self.family: list[psutil.Process] = []
        self.dead: str | None = None  # the part whose death made us stop
        self.names: dict[int, str] = {}  # of all parts seen, by process id
        self.seen: dict[int, float] = {}  # when each process was last alive
        self.size, self.changed = -1, time.monotonic()  # of what the run writes
        self.longest, self.is_reported = 0.0, False  # seconds between two changes so far

    def is_running(self) -> bool:
        """Look once; returns if the engine goes on. Reports a dead part, or a run that hangs."""
        self.family = find_family(self.engine, self.family)
        if self.engine.poll() is None and (dead := self.find_dead(self.family)):
            self.dead = dead
            waited = "died, killed or out of memory, and the engine waited for it: it is stopped"
            print(f"\n{dead} {waited}", file=sys.stderr)
        if seconds := self.measure_stall():
            dump_stacks(self.family)
            time.sleep(2)  # until the stacks are written
            waited = f"no step and no rollout for {seconds / 60:.0f} minutes"
            print(f"\n{waited}; the end of engine.log:")
            print(*read_tail(self.run_dir / "engine.log")[-40:], sep="\n")
        return self.engine.poll() is None and not self.dead

    def find_dead(self, family: Iterable[psutil.Process]) -> str | None:
        """Name a part on this machine that has been gone for PATIENCE, while the rest waits for it.

        OpenRLHF's weight sync is collective: where the other side is gone, a call waits half an
        hour or more, and nothing shows the exception that says so.
        """
        now = time.monotonic()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                # dead, although its parent has not asked for its exit code
                if member.status() == psutil.STATUS_ZOMBIE:
                    continue
                if (name := read_part(member)) and name != read_part(member.parent()):
                    self.names.setdefault(member.pid, name)
                self.seen[member.pid] = now
        # a normal end is no alarm: the engine itself has then ended before PATIENCE is over
        gone = [pid for pid in self.names if now - self.seen[pid] > PATIENCE]
        return f"{self.names[gone[0]]} (process {gone[0]})" if gone else None

    def measure_stall(self) -> float:
        """Measure the seconds without a step or a rollout; 0 where few, or reported already."""
        files = [self.run_dir / "metrics.jsonl", *(self.run_dir / "rollouts").glob("*.jsonl")]
        size = sum(file.stat().st_size for file in files if file.exists())
        waited = time.monotonic() - self.changed
        if size != self.size:
            self.size, self.longest = size, max(self.longest, waited)
            self.changed, self.is_reported = self.changed + waited, False
        # a slow model is not stuck: its own longest wait sets the limit
        elif not self.is_reported and waited >= max(STALL_SECONDS, 5 * self.longest):
            self.is_reported = True
            return waited
        return 0.0


def read_part(process: psutil.Process | None) -> str | None:
    """Read which part of the engine a process is. A fork has its parent's name until it execs."""
    found = PART.match(" ".join(process.cmdline())) if process else None
    return found[0] if found else None


def dump_stacks(family: Iterable[psutil.Process]) -> None:
    """Ask the processes that catch SIGUSR1 (Ray's C++ daemons would die) for their stacks."""
    for member in family:
        with suppress(OSError, psutil.NoSuchProcess):
            status = Path(f"/proc/{member.pid}/status").read_text()
            # SigCgt: 0000000180004a03
            caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
            if caught and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1:
                member.send_signal(signal.SIGUSR1)
