"""Run OpenRLHF's own PPO command in this process: `python -m recipes.engine.ppo [OpenRLHF flags]`.

The launcher starts this as a child process. Ray is initialised here, since OpenRLHF keeps a Ray
that runs already: with logical GPUs on the CPU engine, with our hooks' environment everywhere.
"""

import os
import re
import runpy
import secrets

# Given to Ray's workers where set.
FORWARDED = (
    "MEDRLVR_",
    "HF_",
    "WANDB_",
    "VLLM_",
    "NCCL_",
    "DS_SKIP_CUDA_CHECK",
    "PYTORCH_CUDA_ALLOC_CONF",
    "OMP_NUM_THREADS",
    "PYTHONPATH",
    "TOKENIZERS_PARALLELISM",
)
# Not given, like MY_API_KEY: Ray writes its runtime environment into logs and dashboard.
# Workers of a Ray that starts here inherit them; for a cluster, export them before `ray start`.
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
PLAIN = ("TOKENIZERS_PARALLELISM",)
DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "true",
    "NCCL_DEBUG": "WARN",
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
}


def init_ray() -> None:
    """Join the cluster of RAY_ADDRESS, or start our own Ray; check that it is large enough."""
    address, gpus = os.environ.get("RAY_ADDRESS"), int(os.environ.get("MEDRLVR_GPUS", "0"))
    if not address:
        close_doors()  # before ray is imported, which reads the environment then
    import ray

    runtime_env = {"env_vars": DEFAULTS | choose_forwarded(dict(os.environ))}
    if address:
        ray.init(runtime_env=runtime_env)
    # "local": without it Ray joins whatever Ray was last started on this machine, running or not.
    elif os.environ.get("MEDRLVR_CPU_ENGINE") == "1":
        # Logical, both: bundles reserve a CPU and a GPU each, and the trainer needs one CPU more.
        ray.init(
            address="local",
            num_gpus=gpus,
            num_cpus=8 * gpus + 8,
            object_store_memory=512 * 1024**2,
            include_dashboard=False,
            runtime_env=runtime_env,
        )
    else:
        ray.init(address="local", dashboard_host="127.0.0.1", runtime_env=runtime_env)
    # Of a local Ray too: a container may give it fewer CPUs than its GPUs need. All of it is free.
    offered = ray.cluster_resources()
    check_cluster(offered, ray.available_resources() if address else offered, gpus)


def close_doors() -> None:
    """Keep others out of a Ray that starts here: without a token, anyone who reaches it runs code.

    The token is in the environment of this run's own processes alone. A cluster that was there
    before has its own: RAY_AUTH_MODE and RAY_AUTH_TOKEN as it was started with (docs/engine.md).
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Listen on 127.0.0.1: the variable works on Linux too, _node_ip_address does not.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def check_cluster(offered: dict[str, float], free: dict[str, float], gpus: int) -> None:
    """Raise RuntimeError where Ray cannot place the run: a placement group would wait without end.

    Each GPU's bundle takes a CPU, and the trainer, its generator and their queues a few more.
    """
    for resource, needed in (("GPU", gpus), ("CPU", gpus + 4)):
        if offered.get(resource, 0) < needed or free.get(resource, 0) < needed:
            raise RuntimeError(
                f"the run asks for {needed} {resource}s, the Ray cluster has "
                f"{offered.get(resource, 0):.0f}, of which {free.get(resource, 0):.0f} are free "
                "(`ray status`): choose another hardware=…, or wait"
            )


def choose_forwarded(environment: dict[str, str]) -> dict[str, str]:
    """Choose what Ray gives to its workers: names that begin as FORWARDED says, no secrets."""
    names = [name for name in environment if name.startswith(FORWARDED)]
    return {name: environment[name] for name in names if name in PLAIN or not SECRET.search(name)}


if __name__ == "__main__":
    init_ray()
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)
