"""Everything that would stop or spoil a run, found before it starts and told at once.

Each problem is one line: what is wrong, the value, and the command or key that mends it. Nothing here imports torch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from recipes import chat, engine_rules, fit, machine, process, reward_service
from recipes.engine import cpu
from recipes.model import HUB_ID, REVISION, find_folder, read_shape
from recipes.resume import find_changes

LABEL_KEYS = {"id", "answer", "num_options", "split"}


def find_problems(cfg: Any, method: str) -> list[str]:
    """All problems of a composed configuration, an empty list where the run may start. method: ppo or sft."""
    problems = [*check_run_folder(cfg), *check_model(cfg), *check_data(cfg, method)]
    problems += engine_rules.find_broken_rules(cfg, method)
    problems += [*check_gpus(cfg, method), *check_memory(cfg, method), *check_secrets(cfg)]
    if not cfg.hardware.cuda:
        problems += cpu.find_version_problems()
    problems += check_disk(cfg, method)
    if method == "ppo" and not problems:
        problems += check_reward(cfg)
    return problems


def check_run_folder(cfg: Any) -> Iterator[str]:
    """A run is never overwritten, and a resumed one is the same run."""
    folder = Path(cfg.run_dir)
    if not cfg.resume and folder.exists() and any(folder.iterdir()):
        yield f"{folder} holds a run: choose another name (name=NAME), or continue it (resume=true), or delete it"
    if cfg.resume and not (folder / "run.json").is_file():
        yield f"{folder} holds no run to resume: leave resume=true out"
    elif cfg.resume:
        yield from find_changes(cfg, folder)


def check_model(cfg: Any) -> Iterator[str]:
    """The model is a folder with a config, or a hub id with a pinned revision; it brings no code of its own."""
    path = find_folder(cfg)
    if path is None:
        if not HUB_ID.fullmatch(str(cfg.model.path)):
            yield (
                f"model.path={cfg.model.path} is no folder here and no hub id (org/name): give model.path=FOLDER, or "
                "make it as the head of the experiment's YAML says (recipes/configs/experiment/)"
            )
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
    in_chat = " data.chat=true" if cfg.data.chat else ""
    prepare = f"make prep data={cfg.data.name}{name_experiment()}{elsewhere}{in_chat}"
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
    model = find_folder(cfg)
    tokenizer = model / "tokenizer.json" if model else None
    if (
        tokenizer
        and tokenizer.is_file()
        and hashlib.sha256(tokenizer.read_bytes()).hexdigest() != manifest["tokenizer"]["sha256"]
    ):
        yield (
            f"{folder} was prepared with the tokenizer of {manifest['tokenizer']['path']}, the model is "
            f"{cfg.model.path}: run `{prepare} model.path={cfg.model.path}`"
        )
    yield from chat.find_problems(cfg, method, manifest, prepare)
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
    choice = (
        HydraConfig.get().runtime.choices["experiment"] if HydraConfig.initialized() else "laptop"
    )
    return "" if choice.endswith("laptop") else f" experiment={choice.removeprefix('sft/')}"


def find_prompt_limit(cfg: Any, method: str) -> int:
    """Tokens that a prompt may have: PPO leaves room for the response, SFT for the letter and EOS."""
    if method == "sft":
        return (
            cfg.openrlhf.data.max_len - 3
        )  # sft_dataset.py:150 drops prompts of max_len - 2 and more
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
        if demand > cfg.hardware.gpus_per_node:
            yield (
                f"the run asks for {demand} GPUs, there are {cfg.hardware.gpus_per_node} logical GPUs: "
                f"hardware.gpus_per_node={demand}"
            )
        return
    if method == "ppo" and os.environ.get("RAY_ADDRESS"):
        return  # asked of the cluster itself, see recipes/engine/ppo.py
    if cfg.hardware.nodes > 1:  # for SFT see engine_rules.py
        if method == "ppo":
            yield (
                f"hardware.nodes={cfg.hardware.nodes}, but RAY_ADDRESS is not set: start Ray on the nodes first, or "
                "`sbatch recipes/launch/train.sbatch` (docs/hardware.md)"
            )
        return
    gpus = machine.find_gpus()
    if demand > len(gpus):
        yield f"the run asks for {demand} GPUs, there are {len(gpus)} GPUs on this machine: choose another hardware=…"
    smallest = min((gpu.memory_gb for gpu in gpus if gpu.memory_gb), default=None)
    if smallest and smallest < cfg.hardware.gpu_memory_gb:
        yield (
            f"hardware={cfg.hardware.name} counts on {cfg.hardware.gpu_memory_gb:g} GiB a GPU, this machine's have "
            f"{smallest:.0f}: hardware.gpu_memory_gb={smallest:.0f}, then see `make plan`"
        )


def check_memory(cfg: Any, method: str) -> Iterator[str]:
    """What cannot fit, by the numbers of `make plan`."""
    shape = read_shape(cfg)
    if shape is None:
        if find_folder(cfg) is None and HUB_ID.fullmatch(str(cfg.model.path)):
            yield (
                f"the memory that {cfg.model.path} needs is not known before it is here: "
                f"hf download {cfg.model.path} --revision {cfg.model.revision}, or give model.shape"
            )
        return
    here = machine.find_host_memory_gb()
    if not cfg.hardware.cuda:
        # fp32 copies and moments beside bf16 weights and gradients, for actor and critic; nothing shares them out
        needed = 20 * shape.parameters * (2 if method == "ppo" else 1) / fit.GIB
        if needed > here:
            yield (
                f"a model of {shape.parameters / 1e9:.1f} B parameters needs about {needed:.0f} GiB of memory without "
                f"a GPU, this machine has {here:.0f}: experiment=laptop here, or hardware=8x80gb on GPUs"
            )
        return
    yield from fit.check_memory(cfg, method, shape)[0]
    host = (fit.plan_ppo(cfg, shape) if method == "ppo" else fit.plan_sft(cfg, shape))[1] / fit.GIB
    if host > here and not os.environ.get("RAY_ADDRESS"):
        key = "hardware.sleep=false, hardware.ds_sleep=false or hardware.adam_offload=false"
        yield f"the run keeps about {host:.0f} GiB in host memory, this machine has {here:.0f}: {key}"


def check_secrets(cfg: Any) -> Iterator[str]:
    """Keys come from the environment: whatever is configured is written to config.yaml and command.txt."""
    key = cfg.openrlhf.logger.wandb.key
    if key not in (None, "environment"):
        yield (
            "openrlhf.logger.wandb.key would be written to command.txt and shown by ps: export WANDB_API_KEY=…, and "
            "say openrlhf.logger.wandb.key=environment to turn wandb on"
        )
    elif (
        key
        and not os.environ.get("WANDB_API_KEY")
        and os.environ.get("WANDB_MODE") not in ("offline", "disabled")
    ):
        yield "openrlhf.logger.wandb.key=environment, but WANDB_API_KEY is not set: export it, or WANDB_MODE=offline"


def check_disk(cfg: Any, method: str) -> Iterator[str]:
    """Room for the checkpoints, the models and the rollouts that this run will write, beside what it has written."""
    needed = estimate_disk(cfg, method)
    place = Path(cfg.run_dir).resolve()
    if place.exists():
        needed -= sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        yield (
            f"the run will write about {needed / 1e6:,.0f} MB, {place} has {free / 1e6:,.0f} MB free: make room, "
            "or set run_dir=FOLDER elsewhere, or keep less (openrlhf.ckpt.max_num, openrlhf.ckpt.save_hf)"
        )


def estimate_disk(cfg: Any, method: str) -> int:
    """Bytes that the run leaves behind, by recipes/fit.py; 0 where the model's shape is not known."""
    shape = read_shape(cfg)
    return int(sum(fit.plan_disk(cfg, method, shape, fit.count_rows(cfg)).values())) if shape else 0


def check_reward(cfg: Any) -> Iterator[str]:
    """The reward hook, loaded by path as the engine does, gives a right response 1 and a wrong one less."""
    import importlib.util

    problems = list(reward_service.check_hook(cfg))
    if problems:
        yield from problems
        return
    path = Path(cfg.openrlhf.train.agent_func_path or cfg.openrlhf.reward.remote_url)
    os.environ |= process.build_reward_environment(cfg)
    spec = importlib.util.spec_from_file_location("reward_probe", path)
    if spec is None or spec.loader is None or not path.is_file():
        yield f"openrlhf.train.agent_func_path={path} is no Python file"
        return
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with (Path(cfg.data_dir) / cfg.data.name / "train.jsonl").open(encoding="utf-8") as file:
        row = json.loads(file.readline())
    wrong = "B" if row["answer"] == "A" else "A"
    texts = [
        f"{row['prompt']}<think> x </think>\n<answer> {letter} </answer>"
        for letter in (row["answer"], wrong)
    ]
    rewards = [module.reward_func([text], [row["prompt"]], [row["label"]]) for text in texts]
    if rewards[0]["rewards"] <= rewards[1]["rewards"]:
        yield f"the reward hook {path} gives {rewards[0]} to a right response and {rewards[1]} to a wrong one"
