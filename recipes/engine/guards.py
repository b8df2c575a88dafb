"""Refuse and report what OpenRLHF 0.11.2 accepts in silence, in each of its processes.

* a model folder's own Python code: OpenRLHF asks for it everywhere (trust_remote_code=True);
* a metric that is NaN or infinite;
* updates that DeepSpeed skips, since a gradient was not finite: every other metric looks healthy.
"""

import functools
import math
from typing import Any

SKIPPED_STEPS = 3  # in a row; a single update may be skipped in a run that recovers


def refuse_foreign_code(dynamic_modules: Any) -> None:
    """Run no code of a model folder, whatever the caller asks for: transformers and vLLM load it here.

    A model or tokenizer that transformers knows is loaded with transformers' own class; another is
    an error that names trust_remote_code.
    """
    resolve = dynamic_modules.resolve_trust_remote_code

    @functools.wraps(resolve)
    def resolve_trust_remote_code(_trust: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve(False, *args, **kwargs)

    def get_class_in_module(class_name: str, module_path: Any, **_kwargs: Any) -> None:
        # Every way to a model's code ends here, those that do not ask resolve_trust_remote_code too.
        raise PermissionError(
            f"{class_name} is Python code of the model ({module_path}), which is not run: "
            "model.trust_remote_code=true allows it"
        )

    dynamic_modules.resolve_trust_remote_code = resolve_trust_remote_code
    dynamic_modules.get_class_in_module = get_class_in_module


def check_finite(metrics: dict[str, Any], step: int) -> None:
    """Raise FloatingPointError that names each metric of this step which is NaN or infinite.

    A negative gradient norm is DeepSpeed's sign for one that is not finite, with offloading.
    """
    broken = {
        key: value
        for key, value in metrics.items()
        if isinstance(value, float)
        and (not math.isfinite(value) or (key.endswith("grad_norm") and value < 0))
    }
    if broken:
        listed = ", ".join(f"{key}={value}" for key, value in broken.items())
        raise FloatingPointError(
            f"step {step}: {listed}. No checkpoint was written from this step."
        )


def log_skipped_actor(ppo_actor: Any) -> None:
    """Add `actor_skipped_steps` to the actor's metrics."""
    log_skipped(ppo_actor.ActorPPOTrainer, "actor")


def log_skipped_critic(ppo_critic: Any) -> None:
    """Add `critic_skipped_steps` to the critic's metrics."""
    log_skipped(ppo_critic.CriticPPOTrainer, "critic")


def log_skipped(trainer: Any, role: str) -> None:
    """Add the number of updates that DeepSpeed skipped in this step; the engine logs the last good norm."""
    train = trainer.ppo_train

    @functools.wraps(train)
    def ppo_train(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        engine = find_engine(getattr(self, role))
        before = engine.skipped_steps
        status = train(self, *args, **kwargs)
        return status | {f"{role}_skipped_steps": engine.skipped_steps - before}

    trainer.ppo_train = ppo_train


def find_engine(model: Any) -> Any:
    """Return DeepSpeed's engine: the model itself (critic), or what OpenRLHF's Actor holds."""
    return model if hasattr(model, "skipped_steps") else model.model


class SkippedSteps:
    """Stop a run whose updates are skipped step after step."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.last_norms: dict[str, float] = {}

    def check(self, metrics: dict[str, Any], step: int) -> None:
        """Raise FloatingPointError at the third step in a row with a skipped update.

        A norm that repeats to the last bit is a skipped update too: nothing new was computed.
        """
        norms = {key: value for key, value in metrics.items() if key.endswith("grad_norm")}
        signs = [key for key in metrics if key.endswith("skipped_steps") and metrics[key]]
        signs += [key for key, norm in norms.items() if norm and norm == self.last_norms.get(key)]
        self.last_norms = norms
        self.in_a_row = self.in_a_row + 1 if signs else 0
        if self.in_a_row >= SKIPPED_STEPS:
            raise FloatingPointError(
                f"step {step}: DeepSpeed skipped updates in {self.in_a_row} steps in a row "
                f"({', '.join(signs)}): gradients are not finite"
            )
