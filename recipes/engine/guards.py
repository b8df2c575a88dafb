"""Refuse and report what OpenRLHF 0.11.2 accepts silently, in each of its processes.

A model folder's own code, metrics that are NaN or infinite, updates that DeepSpeed skips. `wrap`,
by which the hooks of this folder put a function around one of the engine's, is here too.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

SKIPPED_STEPS = 3  # in a row; a run recovers from a single one


def wrap(owner: Any, name: str) -> Callable[[Callable], Callable]:
    """Replace `owner.name` by the decorated function; its first argument is the original.

    A closure, no object of wrapt's: Ray pickles the classes that are changed so.
    """

    def replace(function: Callable) -> Callable:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        setattr(owner, name, wrapped)
        return function

    return replace


def refuse_foreign_code(dynamic_modules: Any) -> None:
    """Run no code of a model folder, whatever the caller asks: transformers and vLLM load it here.

    An architecture that transformers knows gets transformers' own class; any other is an error.
    """

    @wrap(dynamic_modules, "resolve_trust_remote_code")
    def resolve_trust_remote_code(resolve: Any, _trust: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve(False, *args, **kwargs)

    def get_class_in_module(class_name: str, module_path: Any, **_kwargs: Any) -> None:
        # every load of a model's code passes here, also the loads that skip the function above
        raise PermissionError(
            f"{class_name} is Python code of the model ({module_path}), which is not run: "
            "model.trust_remote_code=true allows it"
        )

    dynamic_modules.get_class_in_module = get_class_in_module


def check_finite(metrics: dict[str, Any], step: int) -> None:
    """Raise FloatingPointError that names each metric which is NaN or infinite.

    With offloading, a negative gradient norm is DeepSpeed's sign for one that is not finite.
    """
    broken = []
    for key, value in metrics.items():
        if isinstance(value, float):
            negative_norm = key.endswith("grad_norm") and value < 0
            if negative_norm or not math.isfinite(value):
                broken.append(f"{key}={value}")
    if broken:
        raise FloatingPointError(
            f"step {step}: {', '.join(broken)}. No checkpoint was written from this step."
        )


def log_skipped(ppo_role: Any) -> None:
    """Log how many of a step's updates were skipped; ppo_role: module ppo_actor or ppo_critic."""
    role = "actor" if hasattr(ppo_role, "ActorPPOTrainer") else "critic"

    @wrap(getattr(ppo_role, f"{role.capitalize()}PPOTrainer"), "ppo_train")
    def ppo_train(train: Any, self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        engine = self.actor.model if role == "actor" else self.critic
        before = engine.skipped_steps
        status = train(self, *args, **kwargs)
        return status | {f"{role}_skipped_steps": engine.skipped_steps - before}


class SkippedSteps:
    """Stop a run whose updates are skipped step after step."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.last_norms: dict[str, float] = {}

    def check(self, metrics: dict[str, Any], step: int) -> None:
        """Raise FloatingPointError at the third step in a row with a skipped update.

        A norm that repeats to the last bit is one too: nothing new was computed.
        """
        signs = [key for key in metrics if key.endswith("skipped_steps") and metrics[key]]
        norms = {key: value for key, value in metrics.items() if key.endswith("grad_norm")}
        signs += [key for key, norm in norms.items() if norm and norm == self.last_norms.get(key)]
        self.last_norms = norms
        self.in_a_row = self.in_a_row + 1 if signs else 0
        if self.in_a_row >= SKIPPED_STEPS:
            raise FloatingPointError(
                f"step {step}: DeepSpeed skipped updates in {self.in_a_row} steps in a row "
                f"({', '.join(signs)}): gradients are not finite"
            )
