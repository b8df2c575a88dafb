"""What we add to OpenRLHF's trainers without forking them, on CPU and GPU alike.

Wrappers, put on after the engine's modules are imported (see startup/sitecustomize.py):
* the prompt order follows `train.seed` (the engine draws it from an unseeded generator, OpenRLHF#1355);
* each prompt's label carries the step and the episode that it is sampled for, so that the reward hook, which runs in
  the vLLM actors and knows neither, can write them into the rollouts;
* each step's metrics go to `metrics.jsonl` in full precision, those of SFT too;
* a NaN or infinity in any of them stops the run before a checkpoint can be written from it;
* checkpoints are marked once they are whole, and the oldest is rotated out (checkpoints.py);
* LoRA's merged weights go to vLLM (lora.py).

The launcher passes what they need by environment: MEDRLVR_RUN (the run folder) and MEDRLVR_START_STEP (the step of the
checkpoint that the run is resumed from, 0 for a new run).
"""

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import wrapt

from recipes.engine import checkpoints, guards, lora
from recipes.engine.guards import SkippedSteps, check_finite

MOST_SEQUENCES = 1024  # that one vLLM engine samples at once
MOST_TOKENS = 8192  # of prompts and samples that it computes in one pass


def install_hooks() -> None:
    """Register the wrappers; they do nothing in a process without MEDRLVR_RUN."""
    if "MEDRLVR_RUN" in os.environ:
        wrapt.register_post_import_hook(seed_prompts, "openrlhf.trainer.ppo_trainer")
        wrapt.register_post_import_hook(hook_trainer, "openrlhf.trainer.ppo_trainer")
        wrapt.register_post_import_hook(hook_async_trainer, "openrlhf.trainer.ppo_trainer_async")
        wrapt.register_post_import_hook(
            stamp_prompts, "openrlhf.trainer.ppo_utils.samples_generator"
        )
        wrapt.register_post_import_hook(hook_sft_trainer, "openrlhf.trainer.sft_trainer")
        wrapt.register_post_import_hook(
            checkpoints.rotate_by_age, "openrlhf.utils.deepspeed.deepspeed"
        )
        wrapt.register_post_import_hook(raise_batch_limits, "vllm.engine.arg_utils")
        wrapt.register_post_import_hook(guards.log_skipped_actor, "openrlhf.trainer.ray.ppo_actor")
        wrapt.register_post_import_hook(
            guards.log_skipped_critic, "openrlhf.trainer.ray.ppo_critic"
        )
        if os.environ.get("MEDRLVR_TRUST_REMOTE_CODE") != "1":
            wrapt.register_post_import_hook(
                guards.refuse_foreign_code, "transformers.dynamic_module_utils"
            )
        wrapt.register_post_import_hook(lora.save_merged, "openrlhf.utils.deepspeed.deepspeed")
        wrapt.register_post_import_hook(lora.sync_merged, "openrlhf.trainer.ray.ppo_actor")


def seed_prompts(ppo_trainer: Any) -> None:
    """Draw the prompt order from `train.seed`. The async trainer imports the same function, after this hook."""
    prepare = ppo_trainer.prepare_datasets

    @functools.wraps(prepare)
    def prepare_datasets(strategy: Any, tokenizer: Any) -> Any:
        import torch

        torch.manual_seed(strategy.args.train.seed)
        return prepare(strategy, tokenizer)

    ppo_trainer.prepare_datasets = prepare_datasets


def hook_trainer(ppo_trainer: Any) -> None:
    """The synchronous trainer."""
    wrap_steps(ppo_trainer.PPOTrainer.__ray_metadata__.modified_class)


def hook_async_trainer(ppo_trainer_async: Any) -> None:
    """The asynchronous trainer; and its generator, which evaluates between batches, says of which step."""
    wrap_steps(ppo_trainer_async.TrainingActor.__ray_metadata__.modified_class)
    generator = ppo_trainer_async.GenerateSamplesActor.__ray_metadata__.modified_class
    run_eval = generator._run_eval

    @functools.wraps(run_eval)
    def run_stamped_eval(self: Any) -> Any:
        self.samples_generator.medrlvr_eval_step = self._last_eval_step
        try:
            return run_eval(self)
        finally:
            self.samples_generator.medrlvr_eval_step = None

    generator._run_eval = run_stamped_eval


def wrap_steps(trainer: Any) -> None:
    """Write metrics, stop at the first value that is not a finite number, and mark whole checkpoints.

    trainer: a Ray actor's class. Ray copies inherited methods onto it when it decorates it, so that BasePPOTrainer
    would be too late; the copy is what the driver pickles for the trainer's process.
    """
    train_step, save_logs, save_best = (
        trainer.train_step,
        trainer.save_logs_and_checkpoints,
        trainer.save_best_checkpoint,
    )

    skipped = SkippedSteps()

    @functools.wraps(train_step)
    def checked_train_step(self: Any, rollout_samples: Any, global_step: int) -> Any:
        status, step = train_step(self, rollout_samples, global_step)
        check_finite(status, step)
        if self.args.ds.param_dtype == "bf16":  # fp16 skips updates to find its loss scale
            skipped.check(status, step)
        return status, step

    @functools.wraps(save_logs)
    def save_logs_and_checkpoints(
        self: Any, global_step: int, logs_dict: Any = None, client_states: Any = None
    ) -> Any:
        write_metrics("train", global_step, logs_dict or {})
        save_logs(self, global_step, logs_dict, client_states)
        if global_step % self.args.ckpt.save_steps == 0:
            mark_whole(self, f"global_step{global_step}", global_step)

    @functools.wraps(save_best)
    def save_best_checkpoint(
        self: Any, eval_metrics: Any, global_step: int, client_states: Any = None
    ) -> Any:
        write_metrics("eval", global_step, eval_metrics or {})
        best = self.best_eval_metric_value
        save_best(self, eval_metrics, global_step, client_states)
        if (
            self.best_eval_metric_value != best
        ):  # async: the state is of a later step than the evaluation (#1341)
            mark_whole(self, f"best_global_step{global_step}", (client_states or {})["global_step"])

    trainer.train_step = checked_train_step
    trainer.save_logs_and_checkpoints = save_logs_and_checkpoints
    trainer.save_best_checkpoint = save_best_checkpoint


def mark_whole(trainer: Any, tag: str, step: int) -> None:
    """Mark a checkpoint that actor and critic have both finished."""
    roles = ["_actor", "_critic"] if trainer.critic_model_group is not None else ["_actor"]
    if not trainer.args.ckpt.disable_ds:
        checkpoints.mark_complete(Path(trainer.args.ckpt.path), tag, step, roles)


def hook_sft_trainer(sft_trainer: Any) -> None:
    """Write each update's metrics from rank 0; stop every rank at the first value that is not a finite number."""
    trainer = sft_trainer.SFTTrainer
    save_logs = trainer.save_logs_and_checkpoints

    @functools.wraps(save_logs)
    def save_logs_and_checkpoints(
        self: Any,
        args: Any,
        global_step: int,
        step_bar: Any,
        logs_dict: Any = None,
        client_states: Any = None,
    ) -> Any:
        # DeepSpeed's counter, and so the sum over the run, unlike PPO's: SFT has no hook per update.
        metrics = (logs_dict or {}) | {"skipped_steps": self.model.model.skipped_steps}
        check_finite(metrics, global_step)
        if self.strategy.is_rank_0():
            write_metrics("train", global_step, metrics)
        save_logs(self, args, global_step, step_bar, logs_dict, client_states)
        if global_step % args.ckpt.save_steps == 0 and not args.ckpt.disable_ds:
            import torch

            torch.distributed.barrier()  # every rank writes its own part
            if self.strategy.is_rank_0():
                checkpoints.mark_sft(Path(args.ckpt.path), f"global_step{global_step}", global_step)

    trainer.save_logs_and_checkpoints = save_logs_and_checkpoints


def write_metrics(kind: str, step: int, metrics: dict[str, Any]) -> None:
    """Append one row to metrics.jsonl: kind (train or eval), step, unix time in seconds, then the engine's own keys."""
    values = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
    row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
    with Path(os.environ["MEDRLVR_RUN"], "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def raise_batch_limits(arg_utils: Any) -> None:
    """Let a vLLM engine sample its whole part of a rollout at once.

    OpenRLHF names no limits (vllm_engine.py:66) and vLLM has defaults for its own entry points only,
    so that 128 sequences and 2,048 tokens would be all, on every GPU.
    """
    engine_args = arg_utils.EngineArgs
    get_defaults = engine_args.get_batch_defaults.__func__

    def get_batch_defaults(cls: Any, world_size: int) -> Any:
        from vllm.usage.usage_lib import UsageContext

        tokens, sequences = get_defaults(cls, world_size)
        samples = int(os.environ.get("MEDRLVR_VLLM_SEQUENCES", MOST_SEQUENCES))
        # 128 is what vLLM would take: evaluation may ask for more than a rollout.
        sequences[UsageContext.ENGINE_CONTEXT] = max(128, min(samples, MOST_SEQUENCES))
        tokens[UsageContext.ENGINE_CONTEXT] = MOST_TOKENS
        return tokens, sequences

    engine_args.get_batch_defaults = classmethod(get_batch_defaults)


def stamp_prompts(samples_generator: Any) -> None:
    """Add `step` and `episode` (both from 1) to the label of every prompt that is sent to a vLLM engine.

    Evaluation prompts carry the step after whose update they are sampled.
    """
    generator = samples_generator.SamplesGenerator
    generate, dispatch = generator.generate_samples, generator._dispatch_prompts_to_vllm

    @functools.wraps(generate)
    def generate_samples(self: Any, **kwargs: Any) -> Any:
        self.medrlvr_new_batch = True
        return generate(self, **kwargs)

    @functools.wraps(dispatch)
    def dispatch_prompts(self: Any, prompts: list[str], labels: list[str], **kwargs: Any) -> Any:
        step = getattr(self, "medrlvr_step", int(os.environ["MEDRLVR_START_STEP"]))
        if getattr(
            self, "medrlvr_new_batch", False
        ):  # not for evaluation, nor for what replaces a filtered prompt
            step += 1
            self.medrlvr_new_batch = False
        self.medrlvr_step = step
        step = getattr(self, "medrlvr_eval_step", None) or step
        steps_per_episode = max(1, len(self.prompts_dataloader) // self.args.rollout.batch_size)
        episode = 1 + max(0, step - 1) // steps_per_episode
        stamped = [
            json.dumps({**json.loads(label), "step": step, "episode": episode}) for label in labels
        ]
        return dispatch(self, prompts, stamped, **kwargs)

    generator.generate_samples = generate_samples
    generator._dispatch_prompts_to_vllm = dispatch_prompts
