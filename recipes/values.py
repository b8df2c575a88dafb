"""Refuse names, paths and values with which no run can start or learn."""

import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"\w[\w.+=@-]{0,99}")  # paper-2, 0.5B; also the name of a folder of results
# Ray writes the interpreter's path, unquoted, into a line of bash; PYTHONPATH is split at colons.
PLAIN_PATH = re.compile(r"[\w./+@%=,-]+")
# plasma_store's socket in Ray's session folder in the run's, and what a Unix socket's path may have
SOCKET = "rl-abcdefgh/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
SOCKET_BYTES = 107

SWITCH = (True, False)
CHOICES = {
    "resume": (True, False, "auto"),
    "dry_run": SWITCH,
    "model.trust_remote_code": SWITCH,
    "data.chat": SWITCH,
    "reward.hook": ("agent", "function", "server"),
    "reward.mode": ("paper", "strict"),
    "reward.control": (None, "coin", "format_only", "shuffled_labels", "wrong_penalty"),
    "hardware.cuda": SWITCH,
}
# key → the least it may be; whole numbers
COUNTS = {"seed": 0, "hardware.nodes": 1, "hardware.gpus_per_node": 1}
TINY = math.ulp(0.0)  # the least positive number, so that one comparison serves all bounds
# keys of openrlhf, of both recipes → the least that each may be
BOUNDS = {
    "rollout.batch_size": 1,
    "rollout.micro_batch_size": 1,
    "rollout.n_samples_per_prompt": 1,
    "rollout.max_new_tokens": 1,
    "rollout.temperature": TINY,
    "rollout.top_p": TINY,
    "train.batch_size": 1,
    "train.micro_batch_size": 1,
    "train.num_episodes": 1,
    "train.max_epochs": 1,
    "data.max_samples": 1,
    "data.max_len": 1,
    "eval.n_samples_per_prompt": 1,
    "eval.temperature": 0,
    "actor.adam.lr": TINY,
    "critic.adam.lr": TINY,
    "adam.lr": TINY,
    "algo.kl.init_coef": 0,
}


def find_wrong_settings(cfg: Any, method: str) -> list[str]:
    """Find all settings of a composed configuration that no run can have. method: ppo or sft."""
    names = list(check_names(cfg))
    places = [] if names else check_places(cfg, method)  # of paths that are paths
    bounds = check_bounds(cfg, method)
    return [*check_values(cfg), *names, *places, *bounds, *check_secrets(cfg)]


def check_values(cfg: Any) -> Iterator[str]:
    """Check that our own keys have one of their values, or a whole number large enough."""
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(cfg, key, default=allowed[0])
        # 1 == True in Python, and dry_run=1 is a slip
        if (type(value), value) not in [(type(known), known) for known in allowed]:
            yield f"{key}={show(value)} is none of {', '.join(map(show, allowed))}"
    for key, least in COUNTS.items():
        value = OmegaConf.select(cfg, key)
        if type(value) is not int or value < least:
            yield f"{key}={show(value)} must be a whole number, {least} or more"


def check_names(cfg: Any) -> Iterator[str]:
    """Check that names lead out of no folder, since they become folders here and in results/."""
    for key in ("name", "data.name"):
        value = str(OmegaConf.select(cfg, key))
        if not NAME.fullmatch(value):
            allowed = "letters and digits, after the first also . _ - + = @, 100 at most"
            yield f"{key}={value[:60]!r} is no name: {allowed}"
    for key in ("run_dir", "data_dir", "model.path"):
        value = str(OmegaConf.select(cfg, key))
        # NUL, line breaks and half characters are not printable
        long = any(len(part.encode("utf-8", "replace")) > 255 for part in value.split("/"))
        if long or not value.isprintable():
            yield f"{key}={value[:60]!r} is no path: printable, each part of 255 bytes at most"


def check_places(cfg: Any, method: str) -> Iterator[str]:
    """Check that Ray can start from here, and that the run's folder can be written."""
    if method == "ppo":
        for path in dict.fromkeys((str(ROOT), sys.executable)):
            if not PLAIN_PATH.fullmatch(path):
                yield (
                    f"Ray cannot start from {path!r} (it has white space or a sign of the shell): "
                    "move the project to another path and run `make setup` there"
                )
        folder = tempfile.gettempdir()
        if len(os.path.join(folder, SOCKET).encode()) > SOCKET_BYTES:
            yield f"TMPDIR={folder} is too long for Ray's sockets: export TMPDIR=/tmp"
    place = find_existing(cfg.run_dir)
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield f"run_dir={cfg.run_dir}: {place} cannot be written; set run_dir=FOLDER elsewhere"


def check_bounds(cfg: Any, method: str) -> Iterator[str]:
    """Refuse numbers with which the engine trains on nothing, or in the wrong direction."""
    flags = cfg.openrlhf
    has_critic = method == "ppo" and flags.algo.advantage.estimator == "gae"
    for key, least in BOUNDS.items():
        if key.startswith("critic.") and not has_critic:
            continue
        value = OmegaConf.select(flags, key)
        # null is the engine's default, and a word is refused by the engine; not `<`, for NaN
        if isinstance(value, (int, float)) and not least <= value < math.inf:
            words = "above 0" if least == TINY else f"{least} or more"
            yield f"openrlhf.{key}={show(value)} must be {words}, and finite"
    if method == "ppo":
        rollout, dev = flags.rollout, flags.eval
        if isinstance(rollout.top_p, (int, float)) and rollout.top_p > 1:
            yield f"openrlhf.rollout.top_p={rollout.top_p} must be 1 at most"
        if dev.temperature == 0 and dev.n_samples_per_prompt > 1:
            yield (
                f"openrlhf.eval.n_samples_per_prompt={dev.n_samples_per_prompt} greedy samples are "
                "all the same: 1, or openrlhf.eval.temperature above 0"
            )
    batch = flags.rollout.batch_size if method == "ppo" else flags.train.batch_size
    most = flags.data.max_samples
    if isinstance(batch, int) and isinstance(most, int) and 0 < most < batch:
        yield f"openrlhf.data.max_samples={most} is less than one batch of {batch}: no step is made"


def check_secrets(cfg: Any) -> Iterator[str]:
    """Refuse keys that do not come from the environment: the configuration is written down."""
    key = cfg.openrlhf.logger.wandb.key
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if key not in (None, "environment"):
        yield (
            "openrlhf.logger.wandb.key would be written to command.txt and shown by ps: export "
            "WANDB_API_KEY=…, and say openrlhf.logger.wandb.key=environment to turn wandb on"
        )
    elif key and not os.environ.get("WANDB_API_KEY") and not offline:
        known = "openrlhf.logger.wandb.key=environment"
        yield f"{known}, but WANDB_API_KEY is not set: export it, or WANDB_MODE=offline"


def find_existing(path: str) -> Path:
    """Find the folder, or the nearest above it, that exists."""
    place = Path(path).resolve()
    return next(folder for folder in (place, *place.parents) if folder.exists())


def show(value: Any) -> str:
    """Write a value as a user types it, on one line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) if str(value).isprintable() else repr(value)
