"""Memory and cost by formula: known sizes come out, more GPUs never need more each, and what is advised helps."""

import json
import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.errors import UserError
from recipes import plan
from recipes.model import Shape, find_folder, read_shape
from recipes.preflight import check_memory, check_model, find_doubts, gather_facts


@pytest.fixture
def compose_one(compose_config):
    """compose_one(experiment, hardware, *overrides) → configuration, shape."""

    def compose(experiment: str, hardware: str, *overrides: str):
        cfg = compose_config("rlvr", f"experiment={experiment}", f"hardware={hardware}", *overrides)
        return cfg, read_shape(cfg)

    return compose


def sum_phases(cfg, shape) -> dict[str, float]:
    """Bytes on a GPU of each phase."""
    return {phase: sum(parts.values()) for phase, parts in plan.plan_phases(cfg, shape)[0].items()}


@pytest.mark.parametrize(
    ("experiment", "parameters", "tensors"),
    [("0.5B", 494_032_768, 290), ("paper", 3_085_938_688, 434), ("7B", 7_615_616_512, 339)],
)
def test_shapes_have_the_published_number_of_weights(compose_one, experiment, parameters, tensors):
    _, shape = compose_one(experiment, "8x80gb")
    assert (shape.parameters, shape.tensors) == (parameters, tensors)


def test_the_laptop_models_shape_is_that_of_its_weights(compose_one, root):
    _, shape = compose_one("laptop", "cpu")
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


def test_adam_takes_twelve_bytes_a_weight_and_zero_shares_them(compose_one):
    cfg, shape = compose_one("paper", "8x80gb")
    one, _ = plan.plan_model(shape, cfg.openrlhf, 1)
    eight, _ = plan.plan_model(shape, cfg.openrlhf, 8)
    assert one["optimizer"] == 12 * shape.parameters == 8 * eight["optimizer"]
    assert one["weights"] == eight["weights"] == 2 * shape.parameters
    cfg.openrlhf.ds.zero_stage = 3
    assert plan.plan_model(shape, cfg.openrlhf, 8)[0]["weights"] == one["weights"] / 8


def test_the_logged_entropy_takes_eight_bytes_a_logit_in_training_alone(compose_one):
    """openrlhf/models/utils.py:216 keeps a softmax and its product, both fp32, until the step ends."""
    with_it, without = (
        sum_phases(*compose_one("tuned", "8x80gb", word))
        for word in ("hardware.entropy_coef=0", "hardware.entropy_coef=null")
    )
    _, shape = compose_one("tuned", "8x80gb")
    assert with_it["training"] - without["training"] == 8 * 4 * 2048 * shape.vocab
    assert all(with_it[phase] == without[phase] for phase in with_it if phase != "training")


@pytest.mark.parametrize("experiment", ["paper", "grpo", "7B", "lora"])
def test_more_gpus_never_need_more_each(compose_one, experiment):
    sizes = []
    for hardware in ("2x80gb", "4x80gb", "8x80gb", "2x8x80gb"):
        # a setting of its own on 2 GPUs, where it does not fit
        needs = sum_phases(*compose_one(experiment, hardware, "hardware.entropy_coef=0"))
        assert tuple(needs) == (
            "load",
            "rollout",
            "experience",
            "training",
            "sync",
        )
        sizes.append(list(needs.values()))
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
    compose_one, experiment, hardware, overrides
):
    cfg, shape = compose_one(experiment, hardware, *overrides)
    refused, doubtful = plan.check_memory(cfg, shape)
    problems = refused + doubtful
    assert problems
    before = sum_phases(cfg, shape)
    for problem in problems:
        advice = problem.split(": ", 1)[1].split(" or ")[0]
        advice = advice.replace(
            "a lower openrlhf.vllm.gpu_memory_utilization",
            "openrlhf.vllm.gpu_memory_utilization=0.3",
        )
        after = sum_phases(*compose_one(experiment, hardware, *overrides, advice))
        phase = problem.split()[0]
        assert after[phase] < before[phase], problem


def test_a_kv_cache_that_holds_no_sample_is_refused(compose_one):
    cfg, shape = compose_one("7B", "8x80gb", "openrlhf.vllm.gpu_memory_utilization=0.2")
    assert any("raise hardware.vllm_memory" in line for line in plan.check_memory(cfg, shape)[0])


def test_a_large_model_without_a_gpu_is_refused_with_the_reason(compose_one):
    cfg, _ = compose_one("paper", "cpu")
    (problem,) = check_memory(cfg, gather_facts(cfg, "ppo"))
    assert "3.1 B parameters" in problem and "experiment=laptop" in problem


@pytest.mark.parametrize(
    ("words", "measured"),
    [
        (["experiment=laptop"], 5.34),
        (["experiment=laptop", "hardware.gpus_per_node=2"], 8.2),
        (["experiment=grpo", "model=laptop"], 4.54),
        (["experiment=laptop", "openrlhf.ds.lora.rank=8"], 5.2),
        (["experiment=smollm2"], 11.7),
    ],
)
def test_memory_without_a_gpu_is_what_was_measured(compose_config, words, measured):
    """GB of all processes, of `make smoke` (private pages) and of SmolLM2 (docs/LOG.md, 2026-11-26)."""
    cfg = compose_config("rlvr", "hardware=cpu", *words)
    planned = sum(plan.plan_cpu(cfg, read_shape(cfg)).values()) / 1e9
    assert planned == pytest.approx(measured, rel=0.1)


def test_the_kv_cache_without_a_gpu_holds_a_rollout_within_bounds(compose_config):
    def size(*words):
        cfg = compose_config("rlvr", "experiment=laptop", "hardware=cpu", *words)
        return plan.size_cpu_cache(cfg, read_shape(cfg)) / plan.GIB

    assert size() == 0.25
    wide = "openrlhf.rollout.batch_size=640"  # 640 samples of 1,024 tokens of 768 bytes
    assert size(wide) == pytest.approx(640 * 1024 * 768 / plan.GIB)
    assert size(wide, "openrlhf.vllm.num_engines=2") == 0.25
    assert size(wide, "openrlhf.rollout.n_samples_per_prompt=8") == 1.0
    cfg = compose_config("rlvr", "experiment=laptop", "hardware=cpu")
    assert plan.size_cpu_cache(cfg, None) == plan.GIB


def test_a_run_that_does_not_fit_the_free_memory_is_a_doubt(compose_config, monkeypatch):
    cfg = compose_config("rlvr", "experiment=laptop", "hardware=cpu")
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(total=24 << 30, available=4 << 30)
    )
    (doubt,) = find_doubts(cfg, "ppo")
    assert (
        "needs about 4.8 GiB" in doubt and "4.0 are free" in doubt and "micro_batch_size" in doubt
    )


def test_a_hub_model_is_taken_from_its_pinned_snapshot(compose_one, tmp_path, monkeypatch):
    """OpenRLHF knows no revisions, so the folder of the pinned one is handed to it; code in it is refused."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cfg, _ = compose_one("0.5B", "1x80gb")
    assert find_folder(cfg) is None and list(check_model(cfg, gather_facts(cfg, "ppo"))) == []
    folder = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / cfg.model.revision
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"auto_map": {}}')
    (folder / "model.safetensors").touch()
    assert find_folder(cfg) == folder
    assert "trust_remote_code=true" in next(iter(check_model(cfg, gather_facts(cfg, "ppo"))))


def test_a_step_is_faster_on_more_gpus_and_the_controller_does_not_scale(compose_one):
    machine = plan.build_machine()
    steps = [
        plan.estimate_step(*compose_one("paper", hardware), machine)
        for hardware in ("2x80gb", "4x80gb", "8x80gb")
    ]
    assert steps[0]["step"] > steps[1]["step"] > steps[2]["step"]
    assert len({step["controller"] for step in steps}) == 1


def test_longer_responses_take_longer_and_prompts_never_less(compose_one):
    machine = plan.build_machine()
    short = plan.estimate_step(*compose_one("paper", "8x80gb"), machine)
    long = plan.estimate_step(*compose_one("paper", "8x80gb", "plan.response_tokens=900"), machine)
    assert all(long[phase] >= short[phase] for phase in short)
    assert long["training"] > 1.5 * short["training"]


GROUPS = ["openrlhf.algo.advantage.estimator=group_norm", "openrlhf.algo.kl.init_coef=0.001"]
A800 = {"flops": 312e12, "memory": 2.0e12, "link": 133e9, "network": 20e9, "host": 20e9}


def describe(prompts, samples, batch, new_tokens, max_len, *more):
    """Overrides of a public run; lengths that its source does not give are assumed."""
    return [
        f"openrlhf.rollout.batch_size={prompts}",
        f"openrlhf.rollout.n_samples_per_prompt={samples}",
        f"openrlhf.train.batch_size={batch}",
        f"openrlhf.rollout.max_new_tokens={new_tokens}",
        f"openrlhf.data.max_len={max_len}",
        *more,
    ]


SEARCH = describe(512, 1, 256, 500, 4096, "plan.prompt_tokens=1500", "plan.response_tokens=500")
EASY = describe(512, 5, 640, 2048, 4096, "plan.response_tokens=370", *GROUPS)
ZOO = describe(1024, 8, 1024, 8192, 9216, "plan.response_tokens=300", *GROUPS)
ORLHF = describe(1024, 1, 128, 1024, 2048, "plan.response_tokens=540")


@pytest.mark.parametrize(
    ("experiment", "hardware", "overrides", "machine", "reported"),
    [
        ("paper", "8x80gb", SEARCH, {}, (36, 126)),  # Search-R1, Qwen2.5-3B PPO: issue 1
        ("paper", "8x80gb", EASY, {}, (180, 180)),  # EasyR1, 3B GRPO: assets/baselines.md
        ("7B", "8x80gb", EASY, {}, (170, 190)),  # EasyR1, 7B GRPO
        ("7B", "2x8x80gb", ZOO, {}, (540, 540)),  # SimpleRL-Zoo, 7B GRPO: 15 h for 100 steps
        ("7B", "2x8x80gb", ORLHF, A800, (471, 471)),  # OpenRLHF's README, 7B PPO on A800
    ],
    ids=["search-r1", "easyr1-3b", "easyr1-7b", "simplerl-zoo", "openrlhf"],
)
def test_public_runs_took_what_the_range_says(
    compose_one, experiment, hardware, overrides, machine, reported
):
    cfg, shape = compose_one(experiment, hardware, *overrides)
    step = plan.estimate_step(cfg, shape, plan.build_machine(**machine))["step"]
    low, high = (factor * step for factor in plan.RANGE)
    assert low <= reported[0] and reported[1] <= high, step


def test_offloaded_sft_and_a_sync_of_8b_took_what_the_range_says(compose_config, compose_one):
    """DeepSpeed's PR 7474: SFT of 3B on 2 A100 with ZeRO-Offload, 3.08 s a step (2.38 with cores bound).

    marin's issue 8955: about 15 s to broadcast an 8B model tensor by tensor.
    """
    cfg = compose_config(
        "sft",
        "experiment=sft/paper",
        "hardware=2x80gb",
        "hardware.sft_adam_offload=true",
        "openrlhf.train.batch_size=8",
        "openrlhf.train.micro_batch_size=4",
        "plan.prompt_tokens=400",
    )
    shape = read_shape(cfg)
    machine = plan.build_machine(flops=312e12, memory=2.0e12, host=20e9)
    step = plan.estimate_update(cfg, shape, 8 * 400, 1, machine)
    assert plan.RANGE[0] * step <= 2.38 and plan.RANGE[1] * step >= 3.08, step
    cfg, shape = compose_one("7B", "2x8x80gb")
    sync = plan.estimate_step(cfg, shape, plan.build_machine())["sync"]
    assert plan.RANGE[0] * sync <= 15 <= plan.RANGE[1] * sync, sync


def test_an_offloaded_optimizer_takes_its_pinned_buffers_of_host_memory(compose_one):
    """Flat buffers of 3.09e9 weights are rounded up to powers of two: 16, 16 and 8 GiB, then 12 B a weight."""
    _, shape = compose_one("paper", "1x80gb")
    count = shape.parameters
    assert plan.plan_offload(count) == (16 + 16 + 8) * plan.GIB + count * (8 / 3 + 8)
    assert 65 < plan.plan_offload(count) / plan.GIB < 80


def test_an_evaluation_waits_once_for_each_batch(compose_one):
    """samples_generator.py:73 asks rollout.batch_size prompts at a time."""
    whole, parts = (
        plan.estimate_run(
            *reversed_arguments(
                compose_one("paper", "8x80gb", f"openrlhf.rollout.batch_size={size}")
            )
        )["evaluation"]
        for size in (1280, 256)
    )
    assert 3.5 * whole < parts < 5.5 * whole


def reversed_arguments(composed):
    """Arguments of estimate_run for a composed recipe."""
    cfg, shape = composed
    return cfg, shape, plan.build_machine()


def test_saving_and_a_slow_adam_are_in_the_hours(compose_one):
    cfg, shape = compose_one("paper", "1x80gb")
    run = plan.estimate_run(cfg, shape, plan.build_machine())
    fast = plan.estimate_run(cfg, shape, plan.build_machine(disk=1e15))
    saved = plan.plan_checkpoint(cfg.openrlhf, shape)
    assert run["run"] - fast["run"] > 10 * saved / 1.5e9
    one_thread = plan.build_machine(adam_threads=1)
    assert (
        plan.estimate_step(cfg, shape, one_thread)["training"]
        > 1.1 * (plan.estimate_step(cfg, shape, plan.build_machine())["training"])
    )


def test_measured_constants_replace_the_assumed_ones(compose_one, tmp_path):
    path = tmp_path / "smoke.json"
    path.write_text('{"constants": {"tensor_call": 0.04}}')
    cfg, _ = compose_one("paper", "8x80gb", f"plan.measured={path}")
    assert plan.read_machine(cfg) == plan.build_machine(tensor_call=0.04)
    for wrong in ('{"no_such": 1}', '{"tensor_call": NaN}', '{"disk": -1}', '{"disk": "1"', "[]"):
        path.write_text(f'{{"constants": {wrong}}}')
        with pytest.raises(UserError, match="make smoke"):
            plan.read_machine(cfg)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("plan.prompt_tokens=nan", "plan.prompt_tokens=nan must be above 0"),
        ("openrlhf.rollout.batch_size=0", "batch_size=0 must be 1 or more"),
        ("openrlhf.vllm.tensor_parallel_size=0", "tensor_parallel_size=0 must be 1 or more"),
        ("hardware.gpu_memory_gb=null", "hardware.gpu_memory_gb=null must be the GiB"),
        ("hardware.gpu_tflops=0", "hardware.gpu_tflops=0 must be above 0"),
    ],
)
def test_a_plan_is_of_values_that_a_run_may_have(compose_config, capsys, word, part):
    with pytest.raises(UserError, match=re.escape(part)):
        plan.print_plan(compose_config("rlvr", "experiment=paper", "hardware=8x80gb", word))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("size", ["x", -1, 0, 1.5, 2**40, None, [3], True])
def test_the_sizes_of_a_model_are_sizes(compose_config, tmp_path, size):
    cfg = compose_config("rlvr", f"model.path={tmp_path}")
    known = json.loads(Path("recipes/laptop_model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | {"num_hidden_layers": size}))
    with pytest.raises(UserError, match="has no sizes of a model that we know"):
        read_shape(cfg)
    cfg.model.path = "org/name"
    cfg.model.shape = Shape(1, 1, 1, 1, 1, 1, 1, True)._asdict() | {"layers": size}
    with pytest.raises(UserError, match=r"model\.shape has no sizes of a model"):
        read_shape(cfg)
    cfg.model.shape = {"layers": 1}
    with pytest.raises(UserError, match=r"model\.shape has no sizes of a model"):
        read_shape(cfg)


def test_the_disk_counts_what_is_kept(compose_one):
    cfg, shape = compose_one("tuned", "8x80gb")
    sizes = plan.plan_disk(cfg, shape, {"train": 10178, "eval": 1272})
    assert (
        sizes["to resume from"] == 14 * shape.parameters * 2 * 3
    )  # actor and critic; two regular ones and the best
    assert sizes["copies"] == 2 * shape.parameters * (
        10 + 2
    )  # ten passes; the best, and the one before while it is saved


def test_the_file_that_is_evaluated_on_is_counted(compose_one, bank, tmp_path):
    """Official numbers of MedQA's dev and test, the bank's prepared ones, and a user's own file."""
    assert plan.count_rows(compose_one("tuned", "8x80gb")[0]) == {"train": 10178, "eval": 1272}
    assert plan.count_rows(compose_one("paper", "8x80gb")[0]) == {"train": 10178, "eval": 1273}
    words = ["laptop", "cpu", f"data_dir={bank}"]
    assert plan.count_rows(compose_one(*words)[0]) == {"train": 2000, "eval": 200}
    on_test = f"openrlhf.eval.dataset={bank}/bank/test.jsonl"
    assert plan.count_rows(compose_one(*words, on_test)[0])["eval"] == 500
    (tmp_path / "own.jsonl").write_text("{}\n" * 7)
    own = f"openrlhf.eval.dataset={tmp_path}/own.jsonl"
    assert plan.count_rows(compose_one(*words, own)[0])["eval"] == 7
    unknown = "openrlhf.eval.dataset=data/medqa_5/none.jsonl"
    assert plan.count_rows(compose_one("tuned", "8x80gb", unknown)[0])["eval"] == 200


@pytest.mark.process
def test_make_plan_prints_every_phase(root):
    command = [sys.executable, "-m", "recipes.plan", "experiment=paper", "hardware=1x80gb"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(
        phase in done.stdout
        for phase in (
            *("load", "rollout", "experience", "training", "sync"),
            "GPU-hours",
            "disk:",
            "range",
            "planned, not measured",
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(512, 6, 8000), (640, 8, 6000), (448, 10, 16000)])
def test_host_memory_is_what_deepspeed_allocates(root, shape):
    """Within 10 % of the buffers of a real offloaded optimizer, pinned ones as torch rounds them."""
    command = [sys.executable, "tests/offload.py", *map(str, shape)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    held = json.loads(done.stdout.splitlines()[-1])
    rounded = sum(2 ** (size - 1).bit_length() for size in held["pinned"])
    assert plan.plan_offload(held["weights"]) == pytest.approx(rounded + held["states"], rel=0.1)
