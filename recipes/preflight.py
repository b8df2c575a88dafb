"""Everything that would stop or spoil a run, found before it starts and told at once.

Each problem is one line: what is wrong, the value, and the command or key that mends it. Nothing here imports torch.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from recipes import engine_process, engine_rules, reward_service
from recipes.engine import cpu
from recipes.run_folder import read_start_step

LABEL_KEYS = {"id", "answer", "num_options", "split"}
REVISION = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def find_problems(cfg: Any, method: str) -> list[str]:
    """All problems of a composed configuration, an empty list where the run may start. method: ppo or sft."""
    problems = [*check_run_folder(cfg), *check_model(cfg), *check_data(cfg, method)]
    problems += engine_rules.find_broken_rules(cfg, method)
    problems += check_gpus(cfg, method)
    if not cfg.hardware.cuda:
        problems += cpu.find_version_problems()
    problems += check_disk(cfg, method)
    if method == "ppo" and not problems:
        problems += check_reward(cfg)
    return problems


def check_run_folder(cfg: Any) -> Iterator[str]:
    """A run is never overwritten, and a resumed one has a checkpoint."""
    folder = Path(cfg.run_dir)
    if not cfg.resume and folder.exists() and any(folder.iterdir()):
        yield f"{folder} holds a run: choose another name (name=NAME), or continue it (resume=true), or delete it"
    if cfg.resume and read_start_step(folder / "checkpoints") is None:
        yield f"{folder}/checkpoints holds no checkpoint to resume from: start anew with name=NAME"


def check_model(cfg: Any) -> Iterator[str]:
    """The model is a folder with a config, or a hub id with a pinned revision; it brings no code of its own."""
    path = Path(cfg.model.path)
    if not path.is_dir():
        if not HUB_ID.fullmatch(str(cfg.model.path)):
            yield f"model.path={cfg.model.path} is no folder here and no hub id (org/name): give model.path=FOLDER"
        elif not REVISION.fullmatch(str(cfg.model.revision)):
            yield (
                f"model.path={cfg.model.path} is no folder here; as a hub id it needs its commit of 40 hex digits: "
                f"model.revision={cfg.model.revision}"
            )
        return
    if not (path / "config.json").is_file():
        yield f"{path}/config.json not found: model.path must be a Hugging Face model folder"
        return
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    code = sorted(file.name for file in path.glob("*.py"))
    if (code or "auto_map" in config) and not cfg.model.trust_remote_code:
        found = ", ".join(code) or "auto_map in config.json"
        yield f"{path} brings code of its own ({found}), which the engine would run: model.trust_remote_code=true"


def check_data(cfg: Any, method: str) -> Iterator[str]:
    """The prepared files are there, unchanged, tokenised as the model does, short enough, and labelled."""
    folder = Path(cfg.data_dir) / cfg.data.name
    elsewhere = "" if str(cfg.data_dir) == "data" else f" data_dir={cfg.data_dir}"
    prepare = f"make prep data={cfg.data.name}{name_experiment()}{elsewhere}"
    if not (folder / "manifest.json").is_file():
        yield f"{folder}/manifest.json not found: run `{prepare}`"
        return
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for split in ("train", "dev"):
        path, known = folder / f"{split}.jsonl", manifest["files"].get(f"{split}.jsonl")
        if known is None or not path.is_file():
            yield f"{path} not found: run `{prepare}`"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != known["sha256"]:
            yield f"{path} differs from its manifest ({known['rows']} rows): run `{prepare}` again"
        else:
            yield from check_labels(path)
    tokenizer = Path(cfg.model.path) / "tokenizer.json"
    if tokenizer.is_file() and hashlib.sha256(tokenizer.read_bytes()).hexdigest() != manifest["tokenizer"]["sha256"]:
        yield (
            f"{folder} was prepared with the tokenizer of {manifest['tokenizer']['path']}, the model is "
            f"{cfg.model.path}: run `{prepare} model.path={cfg.model.path}`"
        )
    limit, longest = find_prompt_limit(cfg, method), manifest["max_prompt_tokens"]["found"]
    if longest > limit:
        yield (
            f"the longest prompt in {folder} has {longest} tokens, the run has room for {limit} and the engine would "
            f"cut it from the left: raise openrlhf.data.max_len, or run `{prepare} openrlhf.data.max_len=…`"
        )
    rows = manifest["files"].get("train.jsonl", {}).get("rows", 0)
    batch = cfg.openrlhf.rollout.batch_size if method == "ppo" else cfg.openrlhf.train.batch_size
    if rows < batch:
        yield f"{folder}/train.jsonl has {rows} rows, fewer than one batch of {batch}: lower the batch size"


def name_experiment() -> str:
    """` experiment=NAME` where the chosen experiment is not the default one, as `make prep` takes it."""
    choice = HydraConfig.get().runtime.choices["experiment"] if HydraConfig.initialized() else "laptop"
    return "" if choice.endswith("laptop") else f" experiment={choice.removeprefix('sft/')}"


def find_prompt_limit(cfg: Any, method: str) -> int:
    """Tokens that a prompt may have: PPO leaves room for the response, SFT for the letter and EOS."""
    if method == "sft":
        return cfg.openrlhf.data.max_len - 3  # sft_dataset.py:150 drops prompts of max_len - 2 and more
    return cfg.openrlhf.data.max_len - (cfg.openrlhf.rollout.max_new_tokens or 1)


def check_labels(path: Path) -> Iterator[str]:
    """Each row's label is what the reward expects: a JSON object of LABEL_KEYS."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            label = json.loads(json.loads(line)["label"])
            if set(label) != LABEL_KEYS:
                yield f"{path}:{number}: label has the keys {sorted(label)}, not {sorted(LABEL_KEYS)}: prepare it again"
                return


def check_gpus(cfg: Any, method: str) -> Iterator[str]:
    """A placement group that is short of GPUs waits for ever without a word, so count first."""
    demand = engine_rules.count_gpus(cfg) if method == "ppo" else cfg.hardware.gpus_per_node
    if not cfg.hardware.cuda:
        offered, where = cfg.hardware.gpus_per_node, "logical GPUs (hardware.gpus_per_node)"
    elif method == "ppo" and os.environ.get("RAY_ADDRESS"):
        return  # asked of the cluster itself, see recipes/engine/ppo.py
    else:
        offered, where = count_local_gpus(), "GPUs on this machine"
        if cfg.hardware.nodes > 1:
            yield f"hardware.nodes={cfg.hardware.nodes}, but RAY_ADDRESS is not set: start Ray on the nodes first"
            return
    if demand > offered:
        yield f"the run asks for {demand} GPUs, there are {offered} {where}: choose another hardware=…"


def count_local_gpus() -> int:
    """CUDA devices that this process may use, by CUDA_VISIBLE_DEVICES or the device files."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    return len([device for device in Path("/dev").glob("nvidia[0-9]*")])


def check_disk(cfg: Any, method: str) -> Iterator[str]:
    """Room for the checkpoints, the models and the rollouts that this run will write."""
    if not Path(cfg.model.path).is_dir():
        return  # no weights to count yet
    place = Path(cfg.run_dir).resolve()
    while not place.exists():
        place = place.parent
    needed, free = estimate_disk(cfg, method), shutil.disk_usage(place).free
    if needed > free:
        yield (
            f"the run will write about {needed / 1e6:,.0f} MB, {place} has {free / 1e6:,.0f} MB free: make room, "
            "or set run_dir=FOLDER elsewhere, or keep fewer checkpoints (openrlhf.ckpt.max_num)"
        )


def estimate_disk(cfg: Any, method: str) -> int:
    """Bytes that the run leaves behind: DeepSpeed checkpoints (14 B a parameter: bf16 weights, and fp32 weights with
    two Adam moments), the final model in bf16, and 50 MB for logs and rollouts."""
    weights = sum(file.stat().st_size for file in Path(cfg.model.path).glob("*.safetensors"))
    models = 2 if method == "ppo" and cfg.openrlhf.algo.advantage.estimator == "gae" else 1
    ckpt = cfg.openrlhf.ckpt
    checkpoints = 0 if ckpt.save_steps == -1 or ckpt.disable_ds else ckpt.max_num + 1  # one more while it is written
    return int(weights / 2 * 14 * models * checkpoints + weights * 2 + 50e6)


def check_reward(cfg: Any) -> Iterator[str]:
    """The reward hook, loaded by path as the engine does, gives a right response 1 and a wrong one less."""
    import importlib.util

    problems = list(reward_service.check_hook(cfg))
    if problems:
        yield from problems
        return
    path = Path(cfg.openrlhf.train.agent_func_path or cfg.openrlhf.reward.remote_url)
    os.environ |= engine_process.build_reward_environment(cfg)
    spec = importlib.util.spec_from_file_location("reward_probe", path)
    if spec is None or spec.loader is None or not path.is_file():
        yield f"openrlhf.train.agent_func_path={path} is no Python file"
        return
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with (Path(cfg.data_dir) / cfg.data.name / "train.jsonl").open(encoding="utf-8") as file:
        row = json.loads(file.readline())
    wrong = "B" if row["answer"] == "A" else "A"
    texts = [f"{row['prompt']}<think> x </think>\n<answer> {letter} </answer>" for letter in (row["answer"], wrong)]
    rewards = [module.reward_func([text], [row["prompt"]], [row["label"]]) for text in texts]
    if rewards[0]["rewards"] <= rewards[1]["rewards"]:
        yield f"the reward hook {path} gives {rewards[0]} to a right response and {rewards[1]} to a wrong one"
