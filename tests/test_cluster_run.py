"""Runs on clusters that are there already: two Ray nodes, `ray job submit`, and a real Slurm. All on this machine.

Each takes 2 to 4 minutes on 2 idle cores. The run is the laptop's, its trainer and its vLLM engine on a node each.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.waiting import wait_until

pytestmark = pytest.mark.slow
LAYOUT = [
    "hardware.gpus_per_node=2",
    "hardware.training_gpus_per_node=1",
    "hardware.vllm_engines=1",
]
LAYOUT += ["hardware.async=true", "openrlhf.train.colocate_all=true"]  # two GPUs, not four
LAYOUT += ["openrlhf.data.max_samples=192", "openrlhf.train.num_episodes=1"]
LAYOUT += ["openrlhf.eval.steps=-1", "openrlhf.ckpt.save_steps=-1"]
SLURM = [
    program
    for program in ("munged", "slurmctld", "slurmd", "sbatch")
    if shutil.which(program) is None
]


class Cluster(NamedTuple):
    """Addresses of a Ray cluster's GCS and dashboard, and its folder of temporary files."""

    gcs: str
    dashboard: str
    folder: str


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run_daemon(
    command: list[str], log: Path, root: Path, **environment: str
) -> Iterator[subprocess.Popen]:
    """A process that stays in the foreground, and is ended with all that it started."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=root, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        family = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for member in alive:
            member.kill()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def cluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two raylets, one logical GPU each, started as docs/hardware.md says."""
    folder = tmp_path_factory.mktemp("ray")
    # As docs/engine.md says: every process of the cluster and of its guests inherits both.
    token = pytest.MonkeyPatch()
    token.setenv("RAY_AUTH_MODE", "token")
    token.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--num-gpus=1",
        "--num-cpus=16",
        "--block",
    ]
    ray += ["--object-store-memory=300000000", "--disable-usage-stats"]
    gcs, dashboard = find_port(), find_port()
    path = f"{root / 'recipes' / 'engine' / 'startup'}{os.pathsep}{root}"
    with ExitStack() as daemons:
        daemons.callback(token.undo)
        # Ports of their own, since both nodes are this machine.
        head = [
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={gcs}",
            f"--dashboard-agent-listen-port={find_port()}",
        ]
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        # A short path, for sockets; /tmp/ray would tell later drivers on this machine of this cluster.
        temporary = daemons.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
        head += [f"--temp-dir={temporary}"]
        daemons.enter_context(run_daemon([*ray, *head], folder / "head.log", root, PYTHONPATH=path))
        wait_until(lambda: count_nodes(f"127.0.0.1:{gcs}") == 1, 90, "the head's start")
        join = [*ray, f"--address=127.0.0.1:{gcs}", f"--dashboard-agent-listen-port={find_port()}"]
        daemons.enter_context(run_daemon(join, folder / "worker.log", root, PYTHONPATH=path))
        wait_until(lambda: count_nodes(f"127.0.0.1:{gcs}") == 2, 90, "the second node")
        yield Cluster(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", temporary)


def ask_cluster(address: str, expression: str) -> str:
    """An expression, in a process of its own, since a driver here would hold on to the cluster; "" where it fails."""
    connect = f"ray.init('{address}', logging_level='ERROR', log_to_driver=False)"
    code = f"import ray; from ray.util.state import list_actors; {connect}; print({expression})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip().split("\n")[-1] if done.returncode == 0 else ""


def count_nodes(address: str) -> int:
    return int(ask_cluster(address, "sum(node['Alive'] for node in ray.nodes())") or 0)


def check_run(folder: Path, read_metrics: Callable, read_rollouts: Callable) -> None:
    assert [row["step"] for row in read_metrics(folder) if row["kind"] == "train"] == [1, 2, 3]
    rollouts = [row for row in read_rollouts(folder) if row["split"] == "train"]
    assert len(rollouts) == len({row["id"] for row in rollouts}) == 192
    assert json.loads((folder / "run.json").read_text())["exit"] == 0
    assert (folder / "model" / "model.safetensors").is_file()


def check_left_alone(cluster: Cluster) -> None:
    """Both nodes are up, and all their GPUs are free again."""
    assert count_nodes(cluster.gcs) == 2
    wait_until(
        lambda: ask_cluster(cluster.gcs, "ray.available_resources().get('GPU')") == "2.0",
        30,
        "free GPUs",
    )


def test_a_run_over_two_nodes_leaves_the_cluster_alone(
    cluster, root, bank, tmp_path, read_metrics, read_rollouts
):
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "recipes.rlvr",
        f"data_dir={bank}",
        f"run_dir={folder}",
        *LAYOUT,
    ]
    environment = os.environ | {"RAY_ADDRESS": cluster.gcs}
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    places = set()
    while process.poll() is None:
        alive = (
            f"list_actors('{cluster.dashboard}', filters=[('state', '=', 'ALIVE')], detail=True)"
        )
        places.add(ask_cluster(cluster.gcs, f"len({{actor.node_id for actor in {alive}}})"))
        time.sleep(5)
    assert process.returncode == 0, process.stdout.read()
    assert "2" in places, "the run's actors were never on both nodes"
    check_run(folder, read_metrics, read_rollouts)
    check_left_alone(cluster)


def test_without_an_address_a_run_starts_a_ray_of_its_own(cluster, root):
    """`ray.init()` alone would join the cluster that the folder of temporary files tells of."""
    code = "import ray; from recipes.engine import ppo; ppo.init_ray(); print(ray.get_runtime_context().gcs_address)"
    environment = {
        "RAY_TMPDIR": cluster.folder,
        "MEDRLVR_CPU_ENGINE": "1",
        "MEDRLVR_GPUS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split("\n")[-1] != cluster.gcs
    check_left_alone(cluster)


def test_ctrl_c_ends_the_run_and_not_the_cluster(cluster, root, bank, tmp_path, list_processes):
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "recipes.rlvr",
        f"data_dir={bank}",
        f"run_dir={folder}",
        *LAYOUT,
    ]
    process = subprocess.Popen(
        [*command, "openrlhf.data.max_samples=1280"],
        cwd=root,
        env=os.environ | {"RAY_ADDRESS": cluster.gcs},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # which a shell's `&` would have switched off
    )
    metrics = folder / "metrics.jsonl"
    wait_until(
        lambda: metrics.exists() and metrics.read_text().count("\n") > 0, 300, "the first step"
    )
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    wait_until(lambda: not list_processes(folder), 15, "the end of the run's processes")
    assert time.monotonic() - started < 15
    check_left_alone(cluster)


def test_ray_job_submit(cluster, root, bank, tmp_path, read_metrics, read_rollouts):
    folder = tmp_path / "run"
    words = " ".join([f"data_dir={bank}", f"run_dir={folder}", *LAYOUT])
    inner = f"cd {root} && {sys.executable} -m recipes.rlvr {words}"
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--address", cluster.dashboard, "--", "bash", "-c", inner]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    check_run(folder, read_metrics, read_rollouts)
    check_left_alone(cluster)


NO_SLURM = pytest.mark.skipif(
    bool(SLURM) or os.geteuid() != 0, reason=f"no Slurm to start as root, missing: {SLURM}"
)


class Slurm(NamedTuple):
    """A Slurm of one node with two GPUs. environment: what its commands need."""

    environment: dict[str, str]
    root: Path
    log: Path

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, *words: str, options: tuple[str, ...] = ()) -> str:
        """Submit the recipe for both GPUs of the node; returns the job's number."""
        ports = {"RAY_CPUS": "24", "RAY_PORT": str(find_port())}  # Ray's CPUs are logical too
        command = ["sbatch", "--parsable", f"--output={self.log}", "--gpus-per-node=2", *options]
        slurm = self._replace(environment=self.environment | ports)
        return slurm.call(*command, "recipes/launch/train.sbatch", *words)

    def read_state(self, job: str) -> str:
        """RUNNING, COMPLETED, FAILED, TIMEOUT …"""
        shown = self.call("scontrol", "show", "job", "-o", job)
        return shown.split("JobState=")[1].split()[0]


def wait_for_steps(slurm: Slurm, folder: Path, job: str, steps: int) -> None:
    """Wait until a running job has written so many steps, and the last one's checkpoint."""
    mark = folder / "checkpoints" / "complete" / f"global_step{steps}.json"

    def is_there() -> bool:
        assert slurm.read_state(job) in ("PENDING", "RUNNING", "CONFIGURING"), slurm.log.read_text()
        return mark.is_file()

    wait_until(is_there, 400, f"step {steps}")


@NO_SLURM
def test_a_requeued_slurm_job_continues_by_itself(
    root, bank, tmp_path, read_metrics, read_rollouts, list_processes
):
    """The job has its GPUs, all memory and an address; the second life begins where the first saved."""
    folder = tmp_path / "run"
    with start_slurm(tmp_path, root) as slurm:
        words = ["hardware=cpu", f"data_dir={bank}", f"run_dir={folder}", *LAYOUT]
        words += ["openrlhf.ckpt.save_steps=1"]
        job = slurm.submit(*words)
        wait_for_steps(slurm, folder, job, 1)
        shown = slurm.call("scontrol", "show", "job", "-o", job)
        assert "TresPerNode=gres:gpu:2" in shown
        total = slurm.call("scontrol", "show", "node", "-o").split("RealMemory=")[1].split()[0]
        assert f"mem={total}M" in shown
        slurm.call("scontrol", "requeue", job)
        wait_until(lambda: slurm.read_state(job) == "PENDING", 60, "the requeued job")
        # Slurm lets two minutes pass before it starts a requeued job again
        slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_until(
            lambda: slurm.read_state(job) not in ("PENDING", "RUNNING", "COMPLETING"),
            500,
            "the end of the second life",
        )
        log = slurm.log.read_text()
        assert slurm.read_state(job) == "COMPLETED", log
        assert "2 GPUs a node, start 0" in log and "2 GPUs a node, start 1" in log
        assert "Ray at " in log and "Ray at 127." not in log
        assert "continuing after step" in log
        check_run(folder, read_metrics, read_rollouts)
        wait_until(lambda: not list_processes(folder), 15, "the end of the run's processes")


@NO_SLURM
def test_a_slurm_time_limit_ends_a_run_cleanly(root, bank, tmp_path, list_processes):
    """Slurm signals the batch shell a minute before its limit; nothing is left for SIGKILL."""
    folder = tmp_path / "run"
    with start_slurm(tmp_path, root) as slurm:
        words = ["hardware=cpu", f"data_dir={bank}", f"run_dir={folder}", *LAYOUT]
        words += ["openrlhf.train.num_episodes=300"]  # 900 steps: no machine is through before it
        job = slurm.submit(*words, options=("--time=5", "--signal=B:TERM@60"))
        wait_until(lambda: (folder / "metrics.jsonl").exists(), 240, "the first step")
        wait_until(lambda: slurm.read_state(job) != "RUNNING", 300, "the time limit")
        wait_until(lambda: slurm.read_state(job) != "COMPLETING", 60, "the end of the job")
        log = slurm.log.read_text()
        assert slurm.read_state(job) == "FAILED", log  # of its own, with an exit code; not TIMEOUT
        assert "ExitCode=130:0" in slurm.call("scontrol", "show", "job", "-o", job)
        assert "stopped; every process of the run is ended" in log
        assert json.loads((folder / "run.json").read_text())["exit"] == 130
        wait_until(lambda: not list_processes(folder), 15, "the end of the run's processes")


@contextmanager
def start_slurm(folder: Path, root: Path) -> Iterator[Slurm]:
    """A Slurm of one node with `Gres=gpu:2`, which needs no device."""
    host = socket.gethostname()
    described = subprocess.run(
        ["slurmd", "-C"], capture_output=True, text=True, check=True
    ).stdout.split("\n")[0]
    node = " ".join(
        word for word in described.split() if word.split("=")[0] in ("CPUs", "RealMemory")
    )
    config = folder / "slurm.conf"
    for index in range(2):  # of /dev/null's kind, since Slurm takes a count alone for 0 GPUs
        os.mknod(folder / f"gpu{index}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-1]\n")
    config.write_text(f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={find_port()}
SlurmdPort={find_port()}
AuthType=auth/munge
SlurmUser=root
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
KillWait=30
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 {node} Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
    environment = {"SLURM_CONF": str(config)}
    with ExitStack() as daemons:
        if subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            munged = ["runuser", "-u", "munge", "--", "munged", "--foreground"]
            daemons.enter_context(run_daemon(munged, folder / "munged.log", root))
        for command in (["slurmctld", "-D"], ["slurmd", "-D"]):
            daemons.enter_context(
                run_daemon(command, folder / f"{command[0]}.out", root, **environment)
            )
        ask = {"env": os.environ | environment, "capture_output": True, "text": True}
        wait_until(
            lambda: "idle" in subprocess.run(["sinfo"], **ask).stdout, 60, "an idle Slurm node"
        )
        yield Slurm(environment, root, folder / "job.log")
