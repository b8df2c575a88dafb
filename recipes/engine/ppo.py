"""Run OpenRLHF's own PPO command in this process: `python -m recipes.engine.ppo [OpenRLHF flags]`.

The launcher starts this as a child process. Ray is initialised here, since OpenRLHF keeps a Ray that already runs:
on the CPU engine with logical GPUs, and everywhere with the environment that our hooks need in every worker.
"""

import os
import runpy
import sys

# Handed to Ray's workers where set. Secrets are read from the environment by wandb and the hub client themselves.
FORWARDED = ("MEDRLVR_", "HF_", "WANDB_", "VLLM_", "NCCL_", "OMP_NUM_THREADS", "PYTHONPATH", "TOKENIZERS_PARALLELISM")
DEFAULTS = {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}


def init_ray() -> None:
    """Join the cluster of RAY_ADDRESS, or start a Ray of our own on this machine."""
    import ray

    env = {key: value for key, value in os.environ.items() if key.startswith(FORWARDED)}
    runtime_env = {"env_vars": DEFAULTS | env}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime_env)
    elif os.environ.get("MEDRLVR_CPU_ENGINE") == "1":
        gpus = int(os.environ["MEDRLVR_LOGICAL_GPUS"])
        # Logical, both: bundles reserve a CPU and a GPU each, and the trainer needs one CPU more.
        ray.init(
            num_gpus=gpus,
            num_cpus=8 * gpus + 8,
            object_store_memory=512 * 1024**2,
            include_dashboard=False,
            runtime_env=runtime_env,
        )
    else:
        ray.init(dashboard_host="127.0.0.1", runtime_env=runtime_env)


if __name__ == "__main__":
    init_ray()
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)
    sys.stdout.flush()
