"""Refuse what the configuration alone shows: settings no run can have, and the engine's own rules.

OpenRLHF 0.11.2 finds most of its rules broken late, or not at all: each check names the rule's
place there. docs/engine.md has the failures themselves.
"""

import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data_prep.files import read_mapping
from recipes.flags import build_parser, flatten, group_actions

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"\w[\w.+=@-]{0,99}")  # paper-2, 0.5B; also the name of a folder of results
# Ray writes the interpreter's path, unquoted, into a line of bash; PYTHONPATH is split at colons.
PLAIN_PATH = re.compile(r"[\w./+@%=,-]+")
# plasma_store's socket in Ray's session folder in the run's, and what a Unix socket's path may have
SOCKET = "rl-abcdefgh/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
SOCKET_BYTES = 107

TABLES = read_mapping(Path(__file__).with_suffix(".yaml"))
TINY = math.ulp(0.0)  # the least positive number, so that one comparison serves all bounds
MOST = 1e15
BOUNDS = {key: (*bound, MOST)[:2] for key, bound in TABLES["bounds"].items()}
BOUNDS |= {key: (TINY, most or MOST) for key, most in TABLES["positive"].items()}
REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # ${hardware.nodes}: the value is that key's
MOST_COUNT = 2**31 - 1  # of a seed too: numpy's are 32 bits, and the engine adds ranks to it
KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    None: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str, int, float)),
}
GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")


def find_wrong_settings(cfg: Any, method: str) -> list[str]:
    """Find all settings of a composed configuration that no run can have. method: ppo or sft."""
    places = [] if list(check_names(cfg)) else check_places(cfg, method)  # of paths that are paths
    return [*find_wrong_values(cfg, method), *places, *check_secrets(cfg)]


def find_wrong_values(cfg: Any, method: str) -> list[str]:
    """Find all values that neither a run nor a plan can have, each by the key that was given."""
    given, lines = list_values(cfg, resolve=False), dict[str, str]()
    found = [*check_names(cfg), *check_values(cfg), *check_kinds(cfg, method)]
    for key, words in [*found, *check_bounds(cfg, method)]:
        while reference := REFERENCE.fullmatch(str(given.get(key))):
            key = reference[1]
        lines.setdefault(key, f"{key}={show(OmegaConf.select(cfg, key)):.60} {words}")
    return list(lines.values())


def find_broken_rules(cfg: Any, method: str) -> list[str]:
    """Find all rules of the engine that this configuration breaks."""
    rules: list[Any] = [check_batches, check_checkpoints]
    rules += [check_placement, check_traps] if method == "ppo" else []
    rules += [] if cfg.hardware.cuda else [check_cpu]
    return [problem for rule in rules for problem in rule(cfg)]


def check_values(cfg: Any) -> Iterator[tuple[str, str]]:
    """Check that our own keys have one of their values, or a whole number large enough."""
    for key, allowed in TABLES["choices"].items():
        value = OmegaConf.select(cfg, key, default=allowed[0])
        # 1 == True in Python, and dry_run=1 is a slip
        if (type(value), value) not in [(type(known), known) for known in allowed]:
            yield key, f"is none of {', '.join(map(show, allowed))}"
    for key, least in TABLES["counts"].items():
        value = OmegaConf.select(cfg, key)
        if type(value) is not int or not least <= value <= MOST_COUNT:
            most = f", {MOST_COUNT} at most" if type(value) is int and value > least else ""
            yield key, f"must be a whole number, {least} or more{most}"
    if cfg.hardware.cuda is True and not isinstance(cfg.hardware.gpu_memory_gb, (int, float)):
        yield "hardware.gpu_memory_gb", "must be the GiB of a GPU: choose hardware=8x80gb"


def check_kinds(cfg: Any, method: str) -> Iterator[tuple[str, str]]:
    """Check that each flag of the engine has a value of its own kind.

    In argv all is text: `[3]`, "nan" and true would become numbers there, null the default.
    """
    given = list_values(cfg.openrlhf)
    for key, (action, *_) in group_actions(build_parser(method)).items():
        value, (words, kinds) = given.get(key), KINDS[action.type]
        several = value if isinstance(value, list) and action.nargs else [value]
        if value is not action.default and any(type(one) not in kinds for one in several):
            yield f"openrlhf.{key}", f"must be {words}"


def check_names(cfg: Any) -> Iterator[tuple[str, str]]:
    """Check that names lead out of no folder, since they become folders here and in results/."""
    for key in ("name", "data.name", "hardware.name"):
        value = OmegaConf.select(cfg, key)
        if type(value) not in (str, int, float) or not NAME.fullmatch(str(value)):
            yield (
                key,
                "is no name: letters and digits, after the first also . _ - + = @, 100 at most",
            )
    for key in ("run_dir", "data_dir", "model.path"):
        value = OmegaConf.select(cfg, key)
        # NUL, line breaks and half characters are not printable
        is_path = type(value) is str and value.isprintable() and not value.startswith("~")
        if not is_path or any(len(part.encode()) > 255 for part in value.split("/")):
            yield key, "is no path: printable text, each part of 255 bytes at most, no ~ for $HOME"


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
    try:
        place = find_existing(cfg.run_dir)
    except (OSError, RuntimeError) as error:  # a loop of links
        yield f"run_dir={cfg.run_dir:.200} cannot be followed ({error!s:.80}): set run_dir=FOLDER"
        return
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield f"run_dir={cfg.run_dir}: {place} cannot be written; set run_dir=FOLDER elsewhere"


def check_bounds(cfg: Any, method: str) -> Iterator[tuple[str, str]]:
    """Refuse numbers with which the engine trains on nothing, or in the wrong direction."""
    flags = cfg.openrlhf
    has_critic = method == "ppo" and flags.algo.advantage.estimator == "gae"
    for key, value in list_values(cfg).items():
        least, most = BOUNDS.get(key, (-MOST, MOST))
        for number in value if isinstance(value, list) else [value]:
            # null is the engine's default, and a word is refused above; not `<`, for NaN
            if not isinstance(number, (int, float)) or least <= number <= most:
                continue
            if key.startswith("openrlhf.critic") and not has_critic:
                continue
            words = "above 0, and " if least == TINY else f"{least:g} or more, and "
            words = f"{words if key in BOUNDS else ''}finite (below {MOST:g})"
            is_high = key in BOUNDS and most < number < math.inf
            yield key, f"must be {f'{most:g} at most' if is_high else words}"
    for key in ("eval.steps", "ckpt.save_steps"):
        if OmegaConf.select(flags, key) == 0:
            yield f"openrlhf.{key}", "divides by zero at the first step: -1 for never"
    samples = OmegaConf.select(flags, "eval.n_samples_per_prompt")
    if method == "ppo" and flags.eval.temperature == 0 and samples != 1:
        words = "greedy samples are all the same: 1, or openrlhf.eval.temperature above 0"
        yield "openrlhf.eval.n_samples_per_prompt", words
    if method == "ppo" and not (flags.train.agent_func_path or flags.reward.remote_url):
        yield "openrlhf.train.agent_func_path", "gives no reward: reward_server/openrlhf_hook.py"
    longest, response = flags.data.max_len, OmegaConf.select(flags, "rollout.max_new_tokens")
    if isinstance(longest, int) and isinstance(response, int) and longest <= response:
        words = f"leaves no room for a prompt in openrlhf.data.max_len={longest}"
        yield "openrlhf.rollout.max_new_tokens", words
    batch = flags.rollout.batch_size if method == "ppo" else flags.train.batch_size
    most = flags.data.max_samples
    if isinstance(batch, int) and isinstance(most, int) and most < batch:
        yield "openrlhf.data.max_samples", f"is less than one batch of {batch}: no step is made"


def check_secrets(cfg: Any) -> Iterator[str]:
    """Refuse keys that do not come from the environment: the configuration is written down."""
    for key in ("reward.url", "openrlhf.reward.remote_url"):
        if re.search("[?@#]", str(OmegaConf.select(cfg, key))):  # ?token=…, user:password@host
            yield (
                f"{key}: leave token, user and password out, they would be written to config.yaml "
                "and shown by ps; export MEDRLVR_REWARD_TOKEN=…"
            )
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


def list_values(config: Any, resolve: bool = True) -> dict[str, Any]:
    """List all values of a configuration by their keys, nested ones with dots."""
    plain: Any = OmegaConf.to_container(config, resolve=resolve)
    return flatten(plain)


def find_existing(path: str) -> Path:
    """Find the folder, or the nearest above it, that exists."""
    place = Path(path).resolve()
    return next(folder for folder in (place, *place.parents) if folder.exists())


def show(value: Any) -> str:
    """Write a value as a user types it, on one line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) if str(value).isprintable() else repr(value)


def count_ranks(cfg: Any, role: str) -> int:
    """Count the processes of a role (actor, critic, ref)."""
    return cfg.openrlhf[role].num_nodes * cfg.openrlhf[role].num_gpus_per_node


def count_gpus(cfg: Any) -> int:
    """Count the GPUs that the placement groups will ask for (cli/train_ppo_ray.py:38-128)."""
    flags = cfg.openrlhf
    engines = (flags.vllm.num_engines or 0) * flags.vllm.tensor_parallel_size
    if flags.train.colocate_all:
        return count_ranks(cfg, "actor") + (engines if flags.train.async_enable else 0)
    own_ref = flags.algo.kl.init_coef > 0 and not flags.train.colocate_actor_ref
    ref = count_ranks(cfg, "ref") if own_ref else 0
    critic = count_ranks(cfg, "critic") if flags.algo.advantage.estimator == "gae" else 0
    return count_ranks(cfg, "actor") + ref + critic + engines


def count_samples(cfg: Any) -> int:
    """Count the samples of a rollout that one vLLM engine makes."""
    flags = cfg.openrlhf
    samples = flags.rollout.batch_size * flags.rollout.n_samples_per_prompt
    return int(-(-samples // (flags.vllm.num_engines or 1)))


def check_batches(cfg: Any) -> Iterator[str]:
    """Check that batches divide: else DeepSpeed fails, gradients leak, or ranks hang."""
    flags, train, rollout = cfg.openrlhf, cfg.openrlhf.train, cfg.openrlhf.get("rollout")
    # key, its number, the key of which it must be a multiple, that number
    rules: list[tuple[str, int, str, int]] = []
    if rollout:
        estimator, each = flags.algo.advantage.estimator, rollout.n_samples_per_prompt
        key, samples = "rollout.batch_size × n_samples_per_prompt", rollout.batch_size * each
        used = {"actor": True, "critic": estimator == "gae", "ref": flags.algo.kl.init_coef > 0}
        split = flags.ds.ring_attn_size * flags.ds.tensor_parallel_size
        ranks = {role: count_ranks(cfg, role) // split for role in used if used[role]}
        # ppo_actor.py:163: leftover micro-batches go into the next rollout's update
        rules.append((key, samples, f"train.batch_size={train.batch_size}", train.batch_size))
        # launcher.py:354: uneven shards give ranks different numbers of forward passes
        size = rollout.micro_batch_size
        for role, count in ranks.items():
            of = f"rollout.micro_batch_size={size} × {count} {role} ranks"
            rules.append((key, samples, of, size * count))
        # cli:656: with one sample a group every advantage is 0
        if estimator in GROUP_ESTIMATORS and each < 2:
            yield (
                f"openrlhf.algo.advantage.estimator={estimator} compares samples of one prompt: "
                "set openrlhf.rollout.n_samples_per_prompt to 4 or more"
            )
    else:
        nodes, ranks = cfg.hardware.nodes, {"SFT": cfg.hardware.nodes * cfg.hardware.gpus_per_node}
        if nodes > 1:  # torchrun runs on this machine alone
            yield f"SFT runs on one machine, not on hardware.nodes={nodes}: choose hardware=8x80gb"
    # deepspeed.py:455: train_batch_size = micro × accumulation × ranks, exactly
    size = train.micro_batch_size
    for role, count in ({} if train.get("dynamic_batch_enable") else ranks).items():
        of = f"train.micro_batch_size={size} × {count} {role} ranks"
        rules.append(("train.batch_size", train.batch_size, of, size * count))
    for key, number, of, divisor in rules:
        if divisor < 1 or number % divisor:
            yield f"openrlhf.{key} = {number} is not a multiple of openrlhf.{of}"


def check_placement(cfg: Any) -> Iterator[str]:
    """Check the colocation rules of cli/train_ppo_ray.py:42-64 and :109-127."""
    flags = cfg.openrlhf
    # cli:231: the default None ends in a TypeError, 0 in an empty generator
    if not flags.vllm.num_engines:
        yield "openrlhf.vllm.num_engines must be at least 1"
        return
    is_async = flags.train.async_enable
    actors, ref, critic = (count_ranks(cfg, role) for role in ("actor", "ref", "critic"))
    engines = flags.vllm.num_engines * flags.vllm.tensor_parallel_size
    if flags.train.colocate_all:
        if not is_async and actors != engines:
            yield (
                f"with openrlhf.train.colocate_all there must be as many actor GPUs ({actors}) as "
                f"vLLM GPUs (num_engines × tensor_parallel_size = {engines})"
            )
        if flags.algo.kl.init_coef > 0 and ref != actors:
            yield f"colocated, the reference model needs the actor's {actors} GPUs, not {ref}"
        if flags.algo.advantage.estimator == "gae" and critic > actors:
            yield f"colocated, the critic can have at most the actor's {actors} GPUs, not {critic}"
    if is_async and flags.vllm.enable_sleep:
        yield "openrlhf.train.async_enable excludes openrlhf.vllm.enable_sleep"


def check_traps(cfg: Any) -> list[str]:
    """Refuse flags that 0.11.2 accepts and that spoil the run."""
    flags, stage = cfg.openrlhf, cfg.openrlhf.ds.zero_stage
    generated = flags.rollout.vllm_generate_batch_size or 0
    # recipes/engine/lora.py merges whole bf16 matrices
    split = stage == 3 or flags.ds.tensor_parallel_size > 1 or flags.ds.load_in_4bit
    templated = flags.data.input_template is not None or flags.data.apply_chat_template
    traps = {
        "reward.normalize_enable divides values by uninitialised memory (OpenRLHF#1343): leave it "
        "false": flags.reward.normalize_enable,
        "critic.freezing_steps trains on stale rollouts afterwards (OpenRLHF#1356): leave it at "
        "-1": flags.critic.freezing_steps != -1,
        "algo.kl.target is marked incompatible in the engine (ppo_trainer.py:252): leave it "
        "null": flags.algo.kl.target is not None,
        "train.dynamic_batch_enable crashes below ZeRO-3 (OpenRLHF#1131): "
        "openrlhf.ds.zero_stage=3": flags.train.dynamic_batch_enable and stage != 3,
        # runtime/zero/config.py: offload_param, valid only with stage 3
        "ref.offload does nothing below ZeRO-3: hardware.zero_stage=3, or "
        "hardware.ref_offload=false": flags.ref.offload and stage != 3,
        "rollout.vllm_generate_batch_size above rollout.batch_size loses samples on resume "
        "(OpenRLHF#1322): leave it null": generated > flags.rollout.batch_size
        and flags.ckpt.save_steps > 0,
        "ds.lora.rank: merged weights go to vLLM, for which each rank must hold whole bf16 "
        "matrices: openrlhf.ds.zero_stage=2, tensor_parallel_size=1, load_in_4bit=false": split
        and flags.ds.lora.rank,
        "data.input_template or apply_chat_template, but rows hold the whole prompt: leave "
        "openrlhf.data.input_template null and apply_chat_template false": templated,
    }
    return [f"openrlhf.{trap}" for trap, is_set in traps.items() if is_set]


def check_checkpoints(cfg: Any) -> Iterator[str]:
    """Keep a checkpoint while the next is saved: deepspeed.py:724 deletes to max_num - 1."""
    ckpt = cfg.openrlhf.ckpt
    if ckpt.save_steps > 0 and not ckpt.disable_ds and ckpt.max_num < 2:
        yield (
            f"openrlhf.ckpt.max_num={ckpt.max_num} deletes the last checkpoint before the next is "
            "whole: 2 or more"
        )


def check_cpu(cfg: Any) -> Iterator[str]:
    """Refuse what the CPU engine has no GPU for."""
    flags, nodes = cfg.openrlhf, cfg.hardware.nodes
    for key, reason in TABLES["no_gpu"].items():
        if OmegaConf.select(flags, key):
            yield f"openrlhf.{key}=true cannot run on hardware=cpu: {reason}"
    if "flash" in (attention := flags.ds.attn_implementation):
        yield f"openrlhf.ds.attn_implementation={attention} is CUDA only: sdpa on hardware=cpu"
    if "vllm" in flags and (backend := flags.vllm.sync_backend) != "gloo":
        yield f"openrlhf.vllm.sync_backend={backend} needs CUDA: gloo on hardware=cpu"
    if "vllm" in flags and flags.ds.zero_stage == 3 and nodes * cfg.hardware.gpus_per_node > 1:
        # SFT is right: docs/LOG.md
        yield "PPO with ZeRO-3 on several ranks gives NaN gradients on CPU: hardware.zero_stage=2"
    if nodes > 1:
        yield f"hardware=cpu is one machine, not hardware.nodes={nodes}"
