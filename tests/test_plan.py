"""Memory and cost by formula: known sizes come out, more GPUs never need more each, and what is advised helps."""

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest

from recipes import cost, disk, memory
from recipes.model import Shape, find_folder, read_shape
from recipes.plan_docs import DOCS, fill_in
from recipes.preflight import check_memory, check_model


@pytest.fixture
def plan(compose_config):
    """plan(experiment, hardware, *overrides) → configuration, shape."""

    def compose_one(experiment: str, hardware: str, *overrides: str):
        cfg = compose_config("rlvr", f"experiment={experiment}", f"hardware={hardware}", *overrides)
        return cfg, read_shape(cfg)

    return compose_one


@pytest.mark.parametrize(
    ("experiment", "parameters", "tensors"),
    [("0.5B", 494_032_768, 290), ("paper", 3_085_938_688, 434), ("7B", 7_615_616_512, 339)],
)
def test_shapes_have_the_published_number_of_weights(plan, experiment, parameters, tensors):
    _, shape = plan(experiment, "8x80gb")
    assert (shape.parameters, shape.tensors) == (parameters, tensors)


def test_the_laptop_models_shape_is_that_of_its_weights(plan, root):
    _, shape = plan("laptop", "cpu")
    content = (root / "recipes" / "laptop_model" / "model.safetensors").read_bytes()
    header = json.loads(
        content[8 : 8 + int.from_bytes(content[:8], "little")]
    )  # the format's own table of tensors
    weights = [
        math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
    ]
    assert shape.parameters == sum(weights) and shape.tensors == len(weights)


def test_lora_weights_are_pefts_own_count(root):
    """PEFT's count for r = 8 on all-linear of the laptop model's shape: A and B of each linear layer."""
    shape = Shape(2, 64, 96, 4, 2, 16, 100, True)
    matrices = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 96), (64, 96), (96, 64)]
    assert shape.count_lora(8) == 2 * sum(8 * (inputs + outputs) for inputs, outputs in matrices)


def test_adam_takes_twelve_bytes_a_weight_and_zero_shares_them(plan):
    cfg, shape = plan("paper", "8x80gb")
    one = memory.plan_model(shape, cfg.openrlhf, 1, trained=True)
    eight = memory.plan_model(shape, cfg.openrlhf, 8, trained=True)
    assert one.states == 12 * shape.parameters == 8 * eight.states
    assert one.weights == eight.weights == 2 * shape.parameters
    cfg.openrlhf.ds.zero_stage = 3
    assert memory.plan_model(shape, cfg.openrlhf, 8, trained=True).weights == one.weights / 8


@pytest.mark.parametrize("experiment", ["paper", "grpo", "7B", "lora"])
def test_more_gpus_never_need_more_each(plan, experiment):
    sizes = []
    for hardware in ("2x80gb", "4x80gb", "8x80gb", "2x8x80gb"):
        needs, _ = memory.plan_ppo(*plan(experiment, hardware))
        assert tuple(need.phase for need in needs) == memory.PHASES
        sizes.append([need.bytes for need in needs])
    assert all(
        later <= before for pair in pairwise(sizes) for before, later in zip(*pair, strict=True)
    )


@pytest.mark.parametrize(
    ("experiment", "hardware", "overrides"),
    [
        ("7B", "2x80gb", []),
        ("7B", "4x80gb", []),
        ("7B", "1x141gb", []),
        ("paper", "8x80gb", ["hardware.vllm_memory=0.8"]),
        ("paper", "8x80gb", ["hardware.sleep=false"]),
        ("paper", "8x80gb", ["openrlhf.train.micro_batch_size=16"]),
    ],
)
def test_what_cannot_fit_is_refused_and_the_first_key_named_helps(
    plan, experiment, hardware, overrides
):
    cfg, shape = plan(experiment, hardware, *overrides)
    problems = memory.find_shortages(cfg, "ppo", shape)
    assert problems
    before = {need.phase: need.bytes for need in memory.plan_ppo(cfg, shape)[0]}
    for problem in problems:
        advice = problem.split(": ", 1)[1].split(" or ")[0]
        advice = advice.replace(
            "a lower openrlhf.vllm.gpu_memory_utilization",
            "openrlhf.vllm.gpu_memory_utilization=0.3",
        )
        after = {
            need.phase: need.bytes
            for need in memory.plan_ppo(*plan(experiment, hardware, *overrides, advice))[0]
        }
        phase = problem.split()[0]
        assert after[phase] < before[phase], problem


def test_a_kv_cache_that_holds_no_sample_is_refused(plan):
    cfg, shape = plan("7B", "8x80gb", "openrlhf.vllm.gpu_memory_utilization=0.2")
    assert any(
        "raise hardware.vllm_memory" in line for line in memory.find_shortages(cfg, "ppo", shape)
    )


def test_a_large_model_without_a_gpu_is_refused_with_the_reason(plan):
    cfg, _ = plan("paper", "cpu")
    (problem,) = check_memory(cfg, "ppo")
    assert "3.1 B parameters" in problem and "experiment=laptop" in problem


def test_a_hub_model_is_taken_from_its_pinned_snapshot(plan, tmp_path, monkeypatch):
    """OpenRLHF knows no revisions, so the folder of the pinned one is handed to it; code in it is refused."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cfg, _ = plan("0.5B", "1x80gb")
    assert find_folder(cfg) is None and list(check_model(cfg)) == []
    folder = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / cfg.model.revision
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"auto_map": {}}')
    (folder / "model.safetensors").touch()
    assert find_folder(cfg) == folder
    assert "trust_remote_code=true" in next(iter(check_model(cfg)))


def test_a_step_is_faster_on_more_gpus_and_the_controller_does_not_scale(plan):
    steps = [
        cost.estimate_step(*plan("paper", hardware)) for hardware in ("2x80gb", "4x80gb", "8x80gb")
    ]
    assert steps[0]["step"] > steps[1]["step"] > steps[2]["step"]
    assert len({step["controller"] for step in steps}) == 1


def test_longer_responses_take_longer_and_prompts_never_less(plan):
    short = cost.estimate_step(*plan("paper", "8x80gb"))
    long = cost.estimate_step(*plan("paper", "8x80gb", "plan.response_tokens=900"))
    assert (
        all(long[phase] >= short[phase] for phase in short)
        and long["training"] > 1.5 * short["training"]
    )


def test_the_disk_counts_what_is_kept(plan):
    cfg, shape = plan("tuned", "8x80gb")
    sizes = disk.plan_disk(cfg, "ppo", shape, {"train": 10178, "dev": 1272})
    assert (
        sizes["to resume from"] == 14 * shape.parameters * 2 * 3
    )  # actor and critic; two regular ones and the best
    assert sizes["copies"] == 2 * shape.parameters * (
        10 + 2
    )  # ten passes; the best, and the one before while it is saved


def test_make_plan_prints_every_phase(root):
    command = [sys.executable, "-m", "recipes.plan", "experiment=paper", "hardware=1x80gb"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(
        phase in done.stdout
        for phase in (*memory.PHASES, "GPU-hours", "disk:", "planned, not measured")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCS)
def test_the_tables_in_the_docs_are_those_that_the_command_writes(root, name):
    path = root / "docs" / name
    assert path.read_text() == fill_in(path.read_text(), name), "run `python -m recipes.plan_docs`"
