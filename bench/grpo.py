"""Samples a second of a laptop GRPO step, against TRL's GRPO trainer without vLLM, in alternation.

    .venv/bin/python -m pip install --no-deps --target /tmp/peers trl accelerate
    PYTHONPATH=/tmp/peers python bench/grpo.py [rounds]

Both start from the laptop's base model on the bank's training questions: 12 steps of 16 questions with 4
samples each, at most 128 new tokens, temperature 1, one update a step in micro-batches of 16, KL 0.001, our
reward. A figure is 64 over the median seconds of a step, the first left out; start-up is not in it. TRL's PPO
trainer is gone since version 1. Without TRL ours alone is timed.
"""

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

from step import BATCH, ROOT, STEPS, time_run

GROUP = 4
OURS = [
    "openrlhf.algo.advantage.estimator=group_norm",
    "openrlhf.algo.kl.use_loss=true",
    "openrlhf.algo.kl.estimator=k3",
    f"openrlhf.rollout.n_samples_per_prompt={GROUP}",
    f"openrlhf.rollout.batch_size={BATCH // GROUP}",
    f"openrlhf.data.max_samples={STEPS * BATCH // GROUP}",
]


def time_ours() -> tuple[float, float]:
    """Run ours once: seconds of a step, and the mean tokens of a response after the first step."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = time_run(ROOT, Path(folder) / "run", OURS)["step_total"]
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return seconds, mean(json.loads(line)["response_length"] for line in lines[1:])


def time_trl() -> tuple[float, float]:
    """Run TRL in a process of its own; the same two figures."""
    command = [sys.executable, __file__, "--trl"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds, tokens = json.loads(done.stdout.splitlines()[-1])
    return seconds, tokens


def run_trl() -> None:
    """Train with TRL; print the median seconds of a step and the mean tokens of a response."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from reward_server.openrlhf_hook import reward_func

    def reward(prompts: list[str], completions: list[str], label: list[str], **_: Any) -> list:
        rows = zip(prompts, completions, label, strict=True)
        return [reward_func([p + said], [p], [row])["rewards"] for p, said, row in rows]

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    model = str(ROOT / "recipes" / "laptop_model")
    files = str(ROOT / "data" / "bank" / "train.jsonl")
    rows = load_dataset("json", data_files=files, split="train").select_columns(["prompt", "label"])
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=True,
            max_steps=STEPS,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=BATCH // 16,
            num_generations=GROUP,
            max_completion_length=128,
            beta=0.001,
            learning_rate=3e-4,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
        )
        clock = Clock()
        trainer = GRPOTrainer(
            model,
            reward,
            settings,
            rows,
            processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
            callbacks=[clock],
        )
        trainer.train()
    log = [row for row in trainer.state.log_history if "completions/mean_length" in row]
    print(
        json.dumps([median(clock.seconds[1:]), mean(r["completions/mean_length"] for r in log[1:])])
    )


def main() -> None:
    """Time both in turn and print the medians."""
    timers = {"ours": time_ours} | ({"TRL": time_trl} if find_spec("trl") else {})
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        # the other way round in every second round
        for name in list(timers) if number % 2 == 0 else reversed(timers):
            seconds, tokens = timers[name]()
            rounds[name].append(BATCH / seconds)
            print(
                f"{name:5} {BATCH / seconds:6.1f} samples/s, {seconds:.2f} s a step, {tokens:.0f} tokens a response",
                flush=True,
            )
    for name, figures in rounds.items():
        print(
            f"median of {len(figures)}: {name:5} {median(figures):6.1f} samples/s ({min(figures):.1f} to {max(figures):.1f})"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    run_trl() if sys.argv[1:] == ["--trl"] else main()
