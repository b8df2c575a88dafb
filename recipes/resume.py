"""Whether a run that is to be resumed is still the same run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

# What decides which rows a step takes, what a checkpoint holds, or how many ranks it was written by.
FIXED = (
    *(
        "seed",
        "model.path",
        "model.revision",
        "data.name",
        "hardware.nodes",
        "hardware.training_gpus_per_node",
    ),
    *(
        "openrlhf.rollout.batch_size",
        "openrlhf.rollout.n_samples_per_prompt",
        "openrlhf.train.batch_size",
    ),
    *("openrlhf.data.max_samples", "openrlhf.algo.advantage.estimator", "openrlhf.ds.zero_stage"),
    *("openrlhf.ds.lora.rank", "openrlhf.train.async_enable"),
)


def find_changes(cfg: Any, folder: Path) -> Iterator[str]:
    """One line for each setting of FIXED that differs from the run folder's config.yaml."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    before = OmegaConf.load(path)
    for key in FIXED:
        was, now = (OmegaConf.select(config, key, default=None) for config in (before, cfg))
        if key == "model.path" and str(was).endswith(f"snapshots/{cfg.model.revision}"):
            continue  # a hub id's snapshot, at the same revision
        if was != now:
            yield f"{key} was {was} in {folder} and is {now} now: resume with {key}={was}, or start anew with name=NAME"
