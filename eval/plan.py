"""From settings to tasks: which model answers which benchmark in which mode. All problems are found before a start."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from data_prep.errors import UserError
from data_prep.prompt import PROMPT_VERSION
from eval.benchmarks import Benchmark, find_file, mark_overlap, read_benchmark
from eval.endpoint import find_endpoint_problems
from eval.modes import MODES, STOP
from eval.samples import Request, list_requests

DEFAULT_MODES = {"base": ["direct", "cot", "think"], "sft": ["direct"], "rlvr": ["think"]}
"""The rows of the paper's table (Direct, CoT, SFT, Med-RLVR) and the base model in the trained format. Other: think."""

OUT_OF_DISTRIBUTION = {"bank": "bank/ood", "medqa": "mmlu_pro_health/test"}
"""What is evaluated beside a data set's own test split where no benchmark is named."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class Task:
    """One model on one benchmark in one mode. `settings`: all that its answers depend on."""

    model: str
    benchmark: Benchmark
    mode: str
    requests: list[Request]
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """Names the file of its samples."""
        return f"{self.model}.{self.benchmark.name.replace('/', '-')}.{self.mode}"


@dataclass(frozen=True)
class Plan:
    """models: name -> folder, hub id, or the endpoint's name. notes: default models that do not exist yet."""

    models: dict[str, str]
    tasks: list[Task]
    notes: list[str]


def make_plan(cfg: DictConfig) -> Plan:
    """Raises UserError with every problem at once."""
    problems = check_numbers(cfg)
    models, notes = find_models(cfg, problems)
    benchmarks = find_benchmarks(cfg, problems, notes)
    modes = find_modes(cfg, list(models), problems)
    if cfg.endpoint is not None and cfg.endpoint_options.api == "chat" and cfg.data.chat:
        problems.append(
            "endpoint_options.api=chat lets the server put its chat template around prompts that stand in one "
            "(data.chat=true): endpoint_options.api=completions"
        )
    if cfg.endpoint is not None and not problems:
        problems.extend(find_endpoint_problems(cfg, list(models.values())))
    if problems:
        raise UserError(*problems)
    tasks = []
    for model, path in models.items():
        identity = identify_model(path, cfg.endpoint)
        for benchmark in benchmarks:
            for mode in modes[model]:
                samples = 1 if mode == "loglikelihood" else cfg.samples
                requests = list_requests(benchmark, mode, samples, cfg.seed)
                settings = {
                    "model": identity,
                    "benchmark": {
                        "name": benchmark.name,
                        "sha256": benchmark.sha256,
                        "limit": cfg.limit,
                    },
                    "mode": mode,
                    "prompt_version": PROMPT_VERSION,
                    "chat": benchmark.frame._asdict() if benchmark.frame else None,
                    "seed": cfg.seed,
                    "sampling": get_sampling(cfg, mode),
                    "engine": get_engine(cfg) if cfg.endpoint is None else get_api(cfg),
                }
                tasks.append(Task(model, benchmark, mode, requests, settings))
    return Plan(models, tasks, notes)


def check_numbers(cfg: DictConfig) -> list[str]:
    """Problems of the plain settings."""
    problems = []
    for key in ("samples", "max_new_tokens", "direct_max_new_tokens", "chunk", "limit", "max_len"):
        value = cfg[key]
        if not (
            (isinstance(value, int) and value >= 1)
            or (value is None and key in ("limit", "max_len"))
        ):
            problems.append(f"{key}={value} is no whole number from 1")
    if cfg.temperature < 0 or not 0 < cfg.top_p <= 1:
        problems.append(
            f"temperature={cfg.temperature} must be at least 0, top_p={cfg.top_p} within (0, 1]"
        )
    if cfg.samples > 1 and cfg.temperature == 0:
        problems.append(
            f"samples={cfg.samples} with temperature=0 would be the same answer each time: temperature=1"
        )
    if not NAME.fullmatch(str(cfg.name)):
        problems.append(f"name={cfg.name!r} becomes a folder's name: use letters, digits, _ . -")
    return problems


def find_models(cfg: DictConfig, problems: list[str]) -> tuple[dict[str, str], list[str]]:
    """The models by name. One that was named must exist; of the default ones a missing one is noted and left out."""
    if cfg.models:
        models = {str(name): str(path) for name, path in cfg.models.items()}
        for name, path in models.items():
            if not NAME.fullmatch(name):
                problems.append(
                    f"models: {name!r} becomes part of a file's name: use letters, digits, _ . -"
                )
            if (
                cfg.endpoint is None
                and not HUB_ID.fullmatch(path)
                and (fault := find_fault(Path(path)))
            ):
                problems.append(
                    f"models.{name}={path} {fault}: give a model's folder, or a hub id as org/name@commit"
                )
        return models, []
    if cfg.endpoint is not None:
        problems.append("endpoint needs the names under which it serves: models={NAME:SERVED_NAME}")
        return {}, []
    base = (
        f"{cfg.model.path}@{cfg.model.revision}"
        if cfg.model.get("revision")
        else str(cfg.model.path)
    )
    makers = {
        "base": (base, "make setup"),
        "sft": (f"runs/sft/{cfg.name}/model", "make sft"),
        "rlvr": (f"runs/rlvr/{cfg.name}/model", "make rlvr"),
    }
    models, notes = {}, []
    for name, (path, command) in makers.items():
        if not HUB_ID.fullmatch(path) and (fault := find_fault(Path(path))):
            notes.append(f"{name} is left out: {path} {fault}; `{command}` makes it")
        else:
            models[name] = path
    if not models:
        problems.extend(notes)
    return models, notes


def find_fault(folder: Path) -> str | None:
    """What keeps a folder from being a model, or None."""
    if not folder.is_dir():
        return "is no folder"
    if not (folder / "config.json").is_file():
        return "has no config.json"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return "has no weights"
    return None


def find_benchmarks(cfg: DictConfig, problems: list[str], notes: list[str]) -> list[Benchmark]:
    """The benchmarks named, or the default ones; of these one that is not prepared is noted and left out."""
    data_dir, words = Path(cfg.data_dir), name_settings(cfg)
    names = list(cfg.benchmarks or [f"{cfg.data.name}/test"])
    beside = OUT_OF_DISTRIBUTION.get(cfg.data.name) if cfg.benchmarks is None else None
    if beside and find_file(beside, data_dir).is_file():
        names.append(beside)
    elif beside:
        notes.append(
            f"{beside} is left out: `make prep data={beside.partition('/')[0]}{words}` prepares it"
        )
    files = dict.fromkeys(find_file(name, data_dir) for name in names)
    read = [read_benchmark(file, cfg.limit, cfg.seed, words, problems) for file in files]
    benchmarks = [benchmark for benchmark in read if benchmark is not None]
    for benchmark in benchmarks:
        if (benchmark.frame is not None) != cfg.data.chat:
            prepare = f"make prep data={benchmark.path.parent.name}{words}{'' if cfg.data.chat else ' data.chat=false'}"
            problems.append(
                f"{benchmark.path} holds {'plain' if benchmark.frame is None else 'chat'} prompts, but data.chat="
                f"{str(cfg.data.chat).lower()}: run `{prepare}`, or ask with data.chat={str(not cfg.data.chat).lower()}"
            )
    for name in mark_overlap(benchmarks, data_dir / cfg.data.name):
        notes.append(
            f"{name} was not compared with the training rows of {cfg.data.name}, so its clean subset is all of it: "
            f"`make prep data={cfg.data.name}{words}` compares them"
        )
    return benchmarks


def name_settings(cfg: DictConfig) -> str:
    """What `make prep` has to be told beside the data set, so that it prepares what this evaluation reads."""
    choice = (
        HydraConfig.get().runtime.choices["experiment"] if HydraConfig.initialized() else "laptop"
    )
    words = [f"experiment={choice}"] if choice != "laptop" else []
    words += [f"data_dir={cfg.data_dir}"] if str(cfg.data_dir) != "data" else []
    words += ["data.chat=true"] if cfg.data.chat else []
    return "".join(f" {word}" for word in words)


def find_modes(cfg: DictConfig, models: list[str], problems: list[str]) -> dict[str, list[str]]:
    """The modes of each model: a list applies to all, an object names models, null means DEFAULT_MODES."""
    given: Any = OmegaConf.to_container(cfg.modes) if OmegaConf.is_config(cfg.modes) else cfg.modes
    if isinstance(given, dict):
        known = ", ".join(models) or "none"
        problems.extend(
            f"modes.{name}: no such model, there is {known}" for name in given if name not in models
        )
    modes = {}
    for model in models:
        chosen = (
            given if isinstance(given, list) else (given or DEFAULT_MODES).get(model, ["think"])
        )
        modes[model] = list(dict.fromkeys(chosen if isinstance(chosen, list) else [chosen]))
        unknown = [mode for mode in modes[model] if mode not in MODES]
        problems.extend(f"modes: {mode!r} is not one of {', '.join(MODES)}" for mode in unknown)
    if cfg.endpoint is not None and any("loglikelihood" in chosen for chosen in modes.values()):
        problems.append(
            "mode loglikelihood needs the model itself: an endpoint does not give each letter's probability"
        )
    return modes


def get_sampling(cfg: DictConfig, mode: str) -> dict[str, Any]:
    """How answers are sampled in this mode."""
    if mode == "loglikelihood":
        return {"max_len": cfg.max_len}
    short = mode == "direct"
    return {
        "samples": cfg.samples,
        "temperature": float(cfg.temperature),
        "top_p": float(cfg.top_p),
        "max_new_tokens": cfg.direct_max_new_tokens if short else cfg.max_new_tokens,
        "max_len": cfg.max_len,
        "stop": STOP[mode],
    }


def get_engine(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments of vLLM's LLM that are set; null leaves one to vLLM."""
    return {str(key): value for key, value in cfg.vllm.items() if value is not None}


def get_api(cfg: DictConfig) -> dict[str, Any]:
    """What an answer of an endpoint depends on besides its sampling."""
    options: Any = OmegaConf.to_container(cfg.endpoint_options, resolve=True)
    return {"api": options["api"], "extra": options["extra"] or {}}


def identify_model(path: str, endpoint: str | None) -> dict[str, Any]:
    """What tells one model from another: a hash of its files' content, or where it is served."""
    if endpoint is not None:
        return {"endpoint": endpoint, "served_name": path}
    if HUB_ID.fullmatch(path):
        return {"hub": path}
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".bin", ".model"):
            digest.update(f"{file.name} {os.path.getsize(file)}\n".encode())
            with file.open("rb") as content:
                while block := content.read(1 << 22):
                    digest.update(block)
    return {"sha256": digest.hexdigest()}
