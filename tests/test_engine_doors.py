"""Nobody gets into a run: not by Ray's ports, not by Python code that a model folder brings.

On the real Ray, transformers, OpenRLHF and vLLM, in processes that start as the engine's do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

HOST = """
import os, sys, time
from pathlib import Path
import psutil
from recipes.engine import ppo

os.environ.update(MEDRLVR_CPU_ENGINE="1", MEDRLVR_GPUS="1")
ppo.init_ray()
import ray

@ray.remote
def own_task():
    return os.environ.get("HF_TOKEN")

assert ray.get([own_task.remote() for _ in range(3)]) == ["canary-hub"] * 3
token, context = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context()
session = Path(context.get_session_dir() if hasattr(context, "get_session_dir") else
               ray._private.worker._global_node.get_session_dir_path())
family = psutil.Process().children(recursive=True)
assert len(family) > 3
for process in family:
    assert token not in " ".join(process.cmdline())
    for listener in process.net_connections(kind="inet"):
        if listener.status == "LISTEN":
            assert "127.0.0.1" in listener.laddr.ip, (process.name(), listener.laddr)
for path in session.rglob("*"):
    if path.is_file():
        assert token.encode() not in path.read_bytes(), path
print("ADDRESS", context.gcs_address, flush=True)
sys.stdin.read()
"""
GUEST = """
import os, sys
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote
def steal():
    return os.environ.get("HF_TOKEN")

print("STOLEN", ray.get(steal.remote(), timeout=30))
"""


def test_who_knows_only_the_address_runs_nothing_in_a_runs_ray(root):
    """The guest is a process of the same user on the same machine; the host's own tasks run."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST],
        cwd=root,
        env=os.environ | {"HF_TOKEN": "canary-hub"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = iter(host.stdout.readline, "")
        address = next((line.split()[1] for line in lines if line.startswith("ADDRESS")), None)
        assert address, host.stderr.read()[-3000:]
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        # Without it the guest would ask at the machine's own address, where nobody listens.
        clean["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        guest = subprocess.run(
            [sys.executable, "-c", GUEST, address],
            env=clean,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert guest.returncode != 0 and "canary-hub" not in guest.stdout + guest.stderr
        assert "token" in guest.stderr.lower()
    finally:
        host.communicate(timeout=60)


EVIL = """
from pathlib import Path
Path(__file__).with_name("PWNED").touch()
Path("{mark}").touch()
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast
class EvilTok(Qwen2TokenizerFast): pass
class EvilConfig(Qwen2Config): pass
class EvilModel(Qwen2ForCausalLM): pass
"""
LOADERS = {
    "tokenizer": """
from openrlhf.utils import get_tokenizer
from types import SimpleNamespace
get_tokenizer(model, None, "left", SimpleNamespace())
""",
    "actor": "from openrlhf.models import Actor\nActor(model, attn_implementation='eager')",
    "critic": """
from openrlhf.models import get_llm_for_sequence_regression
get_llm_for_sequence_regression(model, "critic", attn_implementation="eager", init_value_head=True)
""",
    "vllm": """
import asyncio
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
made = RolloutRayActor.__ray_metadata__.modified_class
engine = made.__new__(made)
engine._configure_device_env = engine._configure_vllm_env = lambda *_, **__: None
settings = dict(
    model=model, dtype="bfloat16", trust_remote_code=True, enforce_eager=True, max_model_len=512,
    gpu_memory_utilization=0.1, distributed_executor_backend="uni", num_gpus=1,
)
async def start():
    await engine.__init__(remote_rm_url=[""], **settings)
    scheduler = engine.llm.vllm_config.scheduler_config
    print("BATCH", scheduler.max_num_seqs, scheduler.max_num_batched_tokens, flush=True)
    engine.llm.shutdown()
if __name__ == "__main__":
    asyncio.run(start())
""",
}


@pytest.fixture
def evil_model(root: Path, tmp_path: Path) -> Path:
    """A copy of the laptop's model whose JSON files name Python code next to them."""
    folder = tmp_path / "evil" / "model"
    shutil.copytree(root / "recipes" / "laptop_model", folder)
    (folder / "tok.py").write_text(EVIL.replace("{mark}", str(tmp_path / "PWNED")))
    named = {
        "tokenizer_config.json": {
            "auto_map": {"AutoTokenizer": [None, f"{folder}--tok.EvilTok"]},
            "tokenizer_class": "EvilTok",
        },
        "config.json": {
            "auto_map": {
                "AutoConfig": "tok.EvilConfig",
                "AutoModel": "tok.EvilModel",
                "AutoModelForCausalLM": "tok.EvilModel",
            }
        },
    }
    for name, change in named.items():
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))
    return folder


def load_in_engine(
    root: Path, folder: Path, loader: str, **environment: str
) -> subprocess.CompletedProcess:
    """Load a model as OpenRLHF does, in a process that starts as the engine's do."""
    script = folder.parents[1] / "load.py"
    script.write_text(f"model = {str(folder)!r}\n{LOADERS[loader]}")
    engine = {
        "PYTHONPATH": f"{root / 'recipes' / 'engine' / 'startup'}{os.pathsep}{root}",
        "MEDRLVR_RUN": str(folder.parent),
        "MEDRLVR_CPU_ENGINE": "1",
        "MEDRLVR_START_STEP": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HOME": str(folder.parents[1] / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(script)]
    return subprocess.run(
        command,
        cwd=root,
        env=os.environ | engine | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("loader", ["tokenizer", "actor", "critic"])
def test_code_of_a_model_folder_is_not_run(root, evil_model, tmp_path, loader):
    done = load_in_engine(root, evil_model, loader)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.rglob("PWNED"))


def test_vllm_runs_no_code_of_a_model_and_takes_a_whole_rollout(root, evil_model, tmp_path):
    """The limits are read from the engine's own configuration; vLLM's own would be 128 and 2048."""
    done = load_in_engine(root, evil_model, "vllm", MEDRLVR_VLLM_SEQUENCES="600")
    assert "BATCH 600 8192" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]
    assert not list(tmp_path.rglob("PWNED"))


def test_the_same_folder_runs_its_code_where_the_recipe_trusts_it(root, evil_model, tmp_path):
    """The proof that the tests above can fail."""
    load_in_engine(root, evil_model, "tokenizer", MEDRLVR_TRUST_REMOTE_CODE="1")
    assert list(tmp_path.rglob("PWNED"))
