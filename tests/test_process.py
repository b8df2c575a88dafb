"""The engine's process: nothing of it outlives a run, and its log gives up the cause."""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from recipes.engine import cpu, trainer
from recipes.engine.ppo import choose_forwarded
from recipes.engine.trainer import check_finite
from recipes.process import (
    advise,
    build_environment,
    find_cause,
    find_family,
    format_command,
    name_memory_holders,
    read_tail,
    stop_engine,
)
from recipes.terminal import summarise_run

RAY_LOG = """\
\x1b[36m(PPOTrainer pid=4711)\x1b[0m INFO 11-21 ppo_trainer.py:551] step 3
\x1b[36m(RolloutRayActor pid=4712)\x1b[0m Traceback (most recent call last):
\x1b[36m(RolloutRayActor pid=4712)\x1b[0m   File "hook.py", line 9, in execute
\x1b[36m(RolloutRayActor pid=4712)\x1b[0m ValueError: row bank/train/7: label has no answer
Traceback (most recent call last):
  File "train_ppo_ray.py", line 190, in train
ray.exceptions.RayTaskError(ValueError): ray::PPOTrainer.fit() (pid=4711)
ValueError: row bank/train/7: label has no answer
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (RAY_LOG, "ValueError: row bank/train/7: label has no answer"),
        (
            "x\ntorch.OutOfMemoryError: CUDA out of memory\nray.exceptions.RayTaskError: y",
            "CUDA out of memory",
        ),
        (
            "FloatingPointError: step 4: vllm_kl=nan. No checkpoint was written",
            "step 4: vllm_kl=nan",
        ),
        ("OSError: [Errno 28] No space left on device\n", "No space left on device"),
        ("Killed\n", "Killed"),
        ("", "the engine wrote nothing"),
    ],
)
def test_the_cause_is_found_in_the_log(tmp_path, log, cause):
    (tmp_path / "engine.log").write_text(log)
    assert cause in find_cause(tmp_path / "engine.log")


def test_the_cause_is_of_this_life_of_the_run(tmp_path):
    log = tmp_path / "engine.log"
    log.write_text("EngineDeadError: the first life\n")
    begin = log.stat().st_size
    log.write_text(log.read_text() + "OSError: No space left on device\n")
    assert find_cause(log, begin).startswith("OSError") and find_cause(log).startswith(
        "EngineDeadError"
    )


@pytest.mark.process
def test_a_whole_family_is_stopped_even_what_ignores_sigterm(monkeypatch):
    monkeypatch.setattr("recipes.process.STOP_SECONDS", 0.5)
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"up\n"
    family = find_family(process)
    assert len(family) == 2
    stop_engine(process, family)
    assert not any(
        member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family
    )


@pytest.mark.process
def test_the_orphans_of_a_killed_parent_are_stopped_too():
    """A vLLM whose actor was killed -9 would go on holding its memory."""
    middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).wait()"
    top = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {middle!r}]).wait(); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", top], start_new_session=True)
    while len(family := find_family(process)) < 3:
        time.sleep(0.05)
    orphan = psutil.Process(process.pid).children()[0].children()[0]
    orphan.parent().kill()
    while orphan.ppid() != 1:
        time.sleep(0.05)
    family = find_family(process, family)
    assert orphan in family
    stop_engine(process, family)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_the_command_reads_as_a_shell_takes_it():
    shown = format_command(["python", "-m", "x", "--a", "1", "--b", "two words"], {"KEY": "a b"})
    assert shown == "KEY='a b' \\\n  python -m x \\\n  --a 1 \\\n  --b 'two words'"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_finite_number_stops_the_run(value):
    with pytest.raises(FloatingPointError, match="step 4: vllm_kl="):
        check_finite({"reward": 0.5, "vllm_kl": value, "generated_samples": ["text", 1.0]}, 4)
    check_finite({"reward": 0.5, "vllm_kl": 0.0}, 4)


def test_a_gpu_run_gets_its_allocator_its_threads_and_ninja(compose_config, tmp_path, monkeypatch):
    """What the caller set stays; without a GPU nothing of it is set."""
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "DS_SKIP_CUDA_CHECK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    words = (f"run_dir={tmp_path}", "experiment=tuned")
    cfg = compose_config("rlvr", *words, "hardware=1x80gb")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(48)), raising=False)
    found = build_environment(cfg, 0, "id")
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == "pinned_max_round_threshold_mb:1024"
    assert found["DS_SKIP_CUDA_CHECK"] == "1" and found["OMP_NUM_THREADS"] == "48"
    assert found["PATH"].startswith(str(Path(sys.executable).parent))
    chosen = choose_forwarded(found)  # to Ray's workers on other nodes too
    assert {"PYTORCH_CUDA_ALLOC_CONF", "DS_SKIP_CUDA_CHECK", "OMP_NUM_THREADS"} <= set(chosen)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    found = build_environment(cfg, 0, "id")
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:512"
    assert "OMP_NUM_THREADS" not in found
    without = build_environment(compose_config("rlvr", f"run_dir={tmp_path}"), 0, "id")
    assert "PATH" not in without and "DS_SKIP_CUDA_CHECK" not in without


@pytest.mark.parametrize(
    ("recipe", "words", "saves"),
    [
        ("rlvr", [], False),
        ("rlvr", ["experiment=smollm2"], True),
        ("sft", ["model=smollm2-instruct"], True),
        ("rlvr", ["experiment=tuned", "hardware=8x80gb"], False),
    ],
)
def test_only_a_large_model_without_a_gpu_pays_time_for_memory(
    compose_config, tmp_path, recipe, words, saves
):
    cfg = compose_config(recipe, f"run_dir={tmp_path}", *words)
    assert ("MEDRLVR_SAVE_MEMORY" in build_environment(cfg, 0, "id")) is saves


@pytest.mark.parametrize(("ranks", "gpus"), [(1, 4), (2, 8)])
def test_without_a_gpu_all_models_compute_at_once(compose_config, tmp_path, ranks, gpus):
    """Each has a logical GPU (actor, critic, reference, vLLM); on a real one they take turns."""
    cfg = compose_config("rlvr", f"run_dir={tmp_path}", f"hardware.gpus_per_node={ranks}")
    found = build_environment(cfg, 0, "id")
    assert cfg.openrlhf.train.colocate_all is False
    assert found["MEDRLVR_GPUS"] == str(gpus)
    assert found["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    words = ("experiment=tuned", "hardware=8x80gb", f"run_dir={tmp_path}")
    cfg = compose_config("rlvr", *words)
    found = build_environment(cfg, 0, "id")
    assert cfg.openrlhf.train.colocate_all is True
    assert found["MEDRLVR_GPUS"] == "8" and "VLLM_ENABLE_V1_MULTIPROCESSING" not in found


def test_prompts_are_stamped_and_the_tokenizer_goes_by_name(monkeypatch):
    """Not with every prompt as a whole: that takes 0.1 s for each where it has 49,152 tokens."""
    sent = []

    class SamplesGenerator:
        prompts_dataloader = range(8)

        def __init__(self, args, tokenizer):
            self.args, self.tokenizer = args, tokenizer

        def generate_samples(self):
            return self._dispatch_prompts_to_vllm(["p"], ['{"id": "x"}'])

        def _dispatch_prompts_to_vllm(self, prompts, labels):
            sent.append((self.tokenizer.__reduce__(), json.loads(labels[0])))

    monkeypatch.setenv("MEDRLVR_START_STEP", "2")
    module = SimpleNamespace(SamplesGenerator=SamplesGenerator)
    trainer.stamp_prompts(module)
    trainer.name_tokenizer(module)
    args = SimpleNamespace(
        rollout=SimpleNamespace(batch_size=4),
        data=SimpleNamespace(disable_fast_tokenizer=False),
        actor=SimpleNamespace(model_name_or_path="models/some"),
    )
    SamplesGenerator(args, tokenizer=object()).generate_samples()
    assert sent == [
        ((trainer.load_tokenizer, ("models/some", True)), {"id": "x", "step": 3, "episode": 2})
    ]


def test_control_characters_of_the_engine_are_shown(tmp_path):
    """Whatever a model or a library printed: in the end of the log, and in the cause of a failure."""
    log = tmp_path / "engine.log"
    log.write_text("\x1b[36m(A pid=1)\x1b[0m ValueError: \x1b[2J\x07\u202e\x00 odd\n")
    shown = "ValueError: \\x1b[2J\\x07\\u202e\\x00 odd"
    assert read_tail(log) == [shown] and find_cause(log) == shown


def test_brackets_in_a_path_are_no_markup(tmp_path, capsys):
    run = tmp_path / "a[" / "x]"
    run.mkdir(parents=True)
    (run / "engine.log").touch()
    summarise_run([{"kind": "train", "step": 1}], "ppo", run, 60.0)
    assert f"{run}/engine.log" in capsys.readouterr().out.replace("\n", "")


def test_a_lack_of_memory_names_who_held_it():
    """The line is as Ray writes it, with other processes."""
    line = (
        "ray.exceptions.OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. Memory on the "
        "node (IP: 127.0.0.1, ID: 91e6) was 22.57GB / 23.54GB (0.958715), which exceeds the memory usage threshold of "
        "0.950000; To see more information use `ray logs raylet.out -ip 127.0.0.1`; Top 10 memory users: PID\tMEM(GB)\t"
        "COMMAND, 568\t19.48\tray::PolicyModelActor.fit, 1248\t0.74\tpython -m recipes.engine.ppo --ref.num_nodes 1, "
        "1395\t0.19\tray::IDLE, Refer to the documentation on how to address the out of memory issue"
    )
    found = name_memory_holders(line)
    assert found == (
        "the machine's memory ran out, 22.57GB of 23.54GB were used: ray::PolicyModelActor.fit 19.48 GB, "
        "python -m recipes.engine.ppo --ref.num_nodes 1 0.74 GB, ray::IDLE 0.19 GB"
    )
    assert "micro_batch_size" in advise(line)
    assert name_memory_holders("ValueError: no") == "ValueError: no"


@pytest.mark.parametrize(
    ("ranks", "first", "second", "at_once"),
    [
        (1, "optimizer_step", "optimizer_step", 1),
        (1, "optimizer_step", "backward", 1),
        (1, "backward", "backward", 2),
        (2, "optimizer_step", "optimizer_step", 2),
    ],
)
def test_an_optimizer_step_waits_for_the_other_model_where_there_is_one_rank(
    tmp_path, monkeypatch, ranks, first, second, at_once
):
    """With two ranks a step waits for that of another process, which must not wait for its turn."""
    both, inside, most = threading.Barrier(2), [], []

    class DeepspeedStrategy:
        world_size = ranks

        def optimizer_step(self) -> None:
            inside.append(self)
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=0.3)
            most.append(len(inside))
            inside.remove(self)

        backward = optimizer_step

    monkeypatch.setenv("MEDRLVR_RUN", str(tmp_path))
    cpu.step_in_turn(SimpleNamespace(DeepspeedStrategy=DeepspeedStrategy))
    steps = [
        threading.Thread(target=getattr(DeepspeedStrategy(), name)) for name in (first, second)
    ]
    for step in steps:
        step.start()
    for step in steps:
        step.join()
    assert max(most) == at_once
