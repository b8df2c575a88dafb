"""Hooks around OpenRLHF's loops as they are installed, on CPU and GPU alike: docs/engine.md.

Environment: MEDRLVR_RUN, the run folder; MEDRLVR_START_STEP, the checkpoint's step or 0; perhaps
MEDRLVR_VLLM_SEQUENCES, samples of a rollout an engine, and MEDRLVR_TRUST_REMOTE_CODE=1.
"""

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import wrapt

from recipes.engine import checkpoints, guards, lora
from recipes.engine.guards import SkippedSteps, check_finite, wrap

MOST_SEQUENCES = 1024  # that one vLLM engine samples at once
MOST_TOKENS = 8192  # of prompts and samples that it computes in one pass


def install_hooks() -> None:
    """Register each hook for the module it concerns; nothing in a process without MEDRLVR_RUN."""
    if "MEDRLVR_RUN" not in os.environ:
        return
    hooks = [
        ("openrlhf.trainer.ppo_trainer", seed_prompts),
        ("openrlhf.trainer.ppo_trainer", lambda module: wrap_steps(module.PPOTrainer)),
        ("openrlhf.trainer.ppo_trainer_async", hook_async_trainer),
        ("openrlhf.trainer.ppo_utils.samples_generator", stamp_prompts),
        ("openrlhf.trainer.ppo_utils.samples_generator", name_tokenizer),
        ("openrlhf.trainer.sft_trainer", hook_sft_trainer),
        ("openrlhf.trainer.ray.ppo_actor", guards.log_skipped),
        ("openrlhf.trainer.ray.ppo_actor", lora.sync_merged),
        ("openrlhf.trainer.ray.ppo_critic", guards.log_skipped),
        ("openrlhf.utils.deepspeed.deepspeed", checkpoints.rotate_by_age),
        ("openrlhf.utils.deepspeed.deepspeed", lora.save_merged),
        ("vllm.engine.arg_utils", raise_batch_limits),
    ]
    if os.environ.get("MEDRLVR_TRUST_REMOTE_CODE") != "1":
        hooks.append(("transformers.dynamic_module_utils", guards.refuse_foreign_code))
    for module, hook in hooks:
        wrapt.register_post_import_hook(hook, module)


def seed_prompts(ppo_trainer: Any) -> None:
    """Draw the prompt order from `train.seed`; the async trainer imports this function later."""

    @wrap(ppo_trainer, "prepare_datasets")
    def prepare_datasets(prepare: Any, strategy: Any, tokenizer: Any) -> Any:
        import torch

        torch.manual_seed(strategy.args.train.seed)
        return prepare(strategy, tokenizer)


def hook_async_trainer(ppo_trainer_async: Any) -> None:
    """Wrap the asynchronous trainer, and its generator, which evaluates between batches."""
    wrap_steps(ppo_trainer_async.TrainingActor)

    @wrap(ppo_trainer_async.GenerateSamplesActor.__ray_metadata__.modified_class, "_run_eval")
    def run_stamped_eval(run_eval: Any, self: Any) -> Any:
        self.samples_generator.medrlvr_eval_step = self._last_eval_step
        try:
            return run_eval(self)
        finally:
            self.samples_generator.medrlvr_eval_step = None


def wrap_steps(actor: Any) -> None:
    """Write metrics, stop a broken run, and mark whole checkpoints.

    actor: a trainer, decorated by Ray, which copied inherited methods onto its class then, so that
    BasePPOTrainer would be too late; the driver pickles the copy for the trainer's process.
    """
    trainer, skipped = actor.__ray_metadata__.modified_class, SkippedSteps()

    @wrap(trainer, "train_step")
    def checked_train_step(
        train_step: Any, self: Any, rollout_samples: Any, global_step: int
    ) -> Any:
        status, step = train_step(self, rollout_samples, global_step)
        check_finite(status, step)
        if self.args.ds.param_dtype == "bf16":  # fp16 skips updates to find its loss scale
            skipped.check(status, step)
        return status, step

    @wrap(trainer, "save_logs_and_checkpoints")
    def save_logs_and_checkpoints(
        save_logs: Any, self: Any, global_step: int, logs_dict: Any, *states: Any
    ) -> Any:
        write_metrics("train", global_step, logs_dict or {})
        save_logs(self, global_step, logs_dict, *states)
        if global_step % self.args.ckpt.save_steps == 0:
            mark_whole(self, f"global_step{global_step}", global_step)

    @wrap(trainer, "save_best_checkpoint")
    def save_best_checkpoint(
        save_best: Any, self: Any, eval_metrics: Any, global_step: int, client_states: Any = None
    ) -> Any:
        write_metrics("eval", global_step, eval_metrics or {})
        best = self.best_eval_metric_value
        save_best(self, eval_metrics, global_step, client_states)
        if self.best_eval_metric_value != best:
            # async: the state is of a later step than the evaluation (OpenRLHF#1341)
            step = (client_states or {})["global_step"]
            mark_whole(self, f"best_global_step{global_step}", step)


def mark_whole(trainer: Any, tag: str, step: int) -> None:
    """Mark a checkpoint that actor and critic have both finished."""
    roles = ["_actor", "_critic"] if trainer.critic_model_group is not None else ["_actor"]
    if not trainer.args.ckpt.disable_ds:
        checkpoints.mark_complete(Path(trainer.args.ckpt.path), tag, step, roles)


def hook_sft_trainer(sft_trainer: Any) -> None:
    """Write each update's metrics from rank 0; stop every rank at one that is not finite."""

    @wrap(sft_trainer.SFTTrainer, "save_logs_and_checkpoints")
    def save_logs_and_checkpoints(
        save_logs: Any, self: Any, args: Any, global_step: int, bar: Any, logs: Any, *states: Any
    ) -> Any:
        # DeepSpeed's counter, the sum over the run: PPO's is per step.
        metrics = (logs or {}) | {"skipped_steps": self.model.model.skipped_steps}
        check_finite(metrics, global_step)
        if self.strategy.is_rank_0():
            write_metrics("train", global_step, metrics)
        save_logs(self, args, global_step, bar, logs, *states)
        if global_step % args.ckpt.save_steps == 0 and not args.ckpt.disable_ds:
            import torch

            torch.distributed.barrier()  # every rank writes its own part
            if self.strategy.is_rank_0():
                checkpoints.mark_sft(Path(args.ckpt.path), f"global_step{global_step}", global_step)


def write_metrics(kind: str, step: int, metrics: dict[str, Any]) -> None:
    """Append one row to metrics.jsonl: kind (train or eval), step, unix time, the engine's keys."""
    values = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
    row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
    with Path(os.environ["MEDRLVR_RUN"], "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def raise_batch_limits(arg_utils: Any) -> None:
    """Let a vLLM engine sample its whole part of a rollout at once.

    OpenRLHF names no limits (vllm_engine.py:66), and vLLM has defaults only for its own two entry
    points: an engine would take 128 sequences and 2,048 tokens at a time, on every GPU.
    """

    @wrap(arg_utils.EngineArgs, "get_batch_defaults")  # a class's method, called by an instance
    def get_batch_defaults(get_defaults: Any, _self: Any, world_size: int) -> Any:
        from vllm.usage.usage_lib import UsageContext

        tokens, sequences = get_defaults(world_size)
        samples = int(os.environ.get("MEDRLVR_VLLM_SEQUENCES", MOST_SEQUENCES))
        # Never below vLLM's 128: an evaluation may ask for more than a rollout.
        sequences[UsageContext.ENGINE_CONTEXT] = max(128, min(samples, MOST_SEQUENCES))
        tokens[UsageContext.ENGINE_CONTEXT] = MOST_TOKENS
        return tokens, sequences


@functools.cache
def load_tokenizer(path: str, use_fast: bool) -> Any:
    """Load a tokenizer as the engine does, once a process."""
    from openrlhf.utils import get_tokenizer

    return get_tokenizer(path, None, "left", use_fast=use_fast)


class TokenizerName:
    """Travel to a vLLM engine in the tokenizer's place, and become the tokenizer there."""

    def __init__(self, path: str, use_fast: bool) -> None:
        self.source = path, use_fast

    def __reduce__(self) -> Any:
        return load_tokenizer, self.source


def name_tokenizer(samples_generator: Any) -> None:
    """Send the tokenizer's name with each prompt, not all of it: 0.1 s for 49,152 tokens.

    The generator keeps it for nothing else (samples_generator.py:235).
    """

    @wrap(samples_generator.SamplesGenerator, "__init__")
    def start_with_name(start: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        use_fast = not self.args.data.disable_fast_tokenizer
        self.tokenizer = TokenizerName(self.args.actor.model_name_or_path, use_fast)


def stamp_prompts(samples_generator: Any) -> None:
    """Add `step` and `episode` (both from 1) to the label of every prompt sent to a vLLM engine.

    Evaluation prompts carry the step after whose update they are sampled.
    """
    generator = samples_generator.SamplesGenerator

    @wrap(generator, "generate_samples")
    def generate_samples(generate: Any, self: Any, **kwargs: Any) -> Any:
        self.medrlvr_new_batch = True
        return generate(self, **kwargs)

    @wrap(generator, "_dispatch_prompts_to_vllm")
    def dispatch_prompts(
        dispatch: Any, self: Any, prompts: list[str], labels: list[str], **kwargs: Any
    ) -> Any:
        step = getattr(self, "medrlvr_step", int(os.environ["MEDRLVR_START_STEP"]))
        # A batch's first prompts; not those of an evaluation, nor what replaces a filtered one.
        if getattr(self, "medrlvr_new_batch", False):
            step += 1
            self.medrlvr_new_batch = False
        self.medrlvr_step = step
        step = getattr(self, "medrlvr_eval_step", None) or step
        steps_per_episode = max(1, len(self.prompts_dataloader) // self.args.rollout.batch_size)
        place = {"step": step, "episode": 1 + max(0, step - 1) // steps_per_episode}
        stamped = [json.dumps(json.loads(label) | place) for label in labels]
        return dispatch(self, prompts, stamped, **kwargs)
