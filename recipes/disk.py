"""The disk that a run will take, computed beforehand."""

import math
from typing import Any

from recipes.cost import count_evaluations, count_steps
from recipes.model import Shape

LOGS = 50e6  # bytes: engine.log, metrics, tensorboard
STATES = (
    14  # bytes a parameter of a DeepSpeed checkpoint: bf16 weights, fp32 weights, two Adam moments
)
ROLLOUT_BYTES = 5  # a token of a response as JSON, and its share of the row's other fields


def plan_disk(cfg: Any, method: str, shape: Shape, rows: dict[str, int]) -> dict[str, float]:
    """Bytes by what they are: checkpoints to resume from, Hugging Face copies kept, the final model, rollouts and logs.

    The engine rotates to ckpt.max_num before it saves, and keeps the best by dev accuracy beside them.
    """
    flags, ckpt = cfg.openrlhf, cfg.openrlhf.ckpt
    count = shape.parameters
    trained = shape.count_lora(flags.ds.lora.rank) if flags.ds.lora.rank else count
    one = STATES * count if trained == count else 2 * count + STATES * trained
    sizes = {"model": 2.0 * count + (2 * trained if trained != count else 0), "logs": LOGS}
    saves = ckpt.save_steps > 0
    steps = count_steps(flags, method, rows["train"])
    if method == "sft":
        models, best, responses = 1, 0, 0.0
    else:
        models = 2 if flags.algo.advantage.estimator == "gae" else 1
        best = int(flags.eval.steps > 0 and ckpt.best_metric_key != "none")
        per_step = flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
        samples = (
            steps * per_step
            + count_evaluations(flags, steps) * rows["dev"] * flags.eval.n_samples_per_prompt
        )
        responses = float(
            samples * min(cfg.plan.response_tokens, flags.rollout.max_new_tokens or math.inf)
        )
    if not ckpt.disable_ds:
        regular = min(ckpt.max_num, steps // ckpt.save_steps) if saves else 0
        sizes["to resume from"] = float(one * models * (regular + best))
    if ckpt.save_hf:
        kept = steps // ckpt.save_steps if saves else 0
        sizes["copies"] = (
            2.0 * count * (kept + 2 * best)
        )  # the old best goes after the new one came
    if responses:
        sizes["rollouts"] = responses * ROLLOUT_BYTES
    return sizes
