"""From settings to tasks: which model answers which benchmark in which mode.

Every problem of the settings, models, data and endpoint is found before anything is asked. Whatever
reads or checks here raises UserError with all its problems; `make_plan` collects them.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data_prep.errors import UserError
from data_prep.files import hash_file
from data_prep.prompt import PROMPT_VERSION
from eval.endpoint import find_fingerprints
from eval.modes import NEED_OPTIONS, STOP, split_mode
from eval.questions import Benchmark, collect_problems, read_benchmarks, read_examples
from eval.samples import Request, list_requests
from eval.settings import NAME, check_settings

DEFAULT_MODES = {"base": ["direct", "cot", "think"], "sft": ["direct"], "rlvr": ["think"]}
"""The rows of the paper's table, and the base model in the trained format. Other models: think."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")  # Qwen/Qwen2.5-3B@3aab1f19…


@dataclass(frozen=True)
class Task:
    """One model on one benchmark in one mode. settings: everything that its answers depend on."""

    model: str
    benchmark: Benchmark
    mode: str
    requests: list[Request]
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """Name the file of its samples."""
        return f"{self.model}.{self.benchmark.name.replace('/', '-')}.{self.mode}"


@dataclass(frozen=True)
class Plan:
    """Hold what to ask. models: name -> folder, hub id, or the name that an endpoint gives it."""

    models: dict[str, str]
    tasks: list[Task]
    notes: list[str]


def make_plan(cfg: DictConfig) -> Plan:
    """Make the tasks of a configuration. Raises UserError with every problem at once."""
    # each part is read although another one is wrong: the user gets all problems at once
    problems = check_settings(cfg)
    # models and data that are left out, and servers that do not say what they serve
    absent, unread, unknown = list[str](), list[str](), list[str]()
    models: dict[str, str] = {}
    benchmarks: list[Benchmark] = []
    modes: dict[str, list[str]] = {}
    identities: dict[str, dict[str, Any]] = {}
    with collect_problems(problems):
        models, absent = find_models(cfg)
    with collect_problems(problems):
        benchmarks, unread = read_benchmarks(cfg)
    with collect_problems(problems):
        modes = find_modes(cfg, models)
    # the server is asked only where the settings are sound, so that no wrong address is opened
    if not problems:
        with collect_problems(problems):
            identities, unknown = identify_models(cfg, models)
    # the same examples for every model: they depend on benchmark, mode and seed alone
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for benchmark, mode in product(benchmarks, dict.fromkeys(chain(*modes.values()))):
        with collect_problems(problems):
            examples[benchmark.name, mode] = read_examples(benchmark, mode, cfg.seed)
    if problems:
        raise UserError(*problems)
    # model by model, since each is loaded once
    tasks = []
    for model, benchmark in product(models, benchmarks):
        for mode in modes[model]:
            if split_mode(mode)[0] in NEED_OPTIONS and not benchmark.prepared.template.has_options:
                unread.append(f"{model} on {benchmark.name}: mode {mode} needs options, left out")
                continue
            shown = examples[benchmark.name, mode]
            settings = describe_task(cfg, benchmark, mode, shown) | {"model": identities[model]}
            samples = settings["sampling"].get("samples", 1)
            requests = list_requests(benchmark, mode, samples, cfg.seed, shown)
            tasks.append(Task(model, benchmark, mode, requests, settings))
    return Plan(models, tasks, [*absent, *unread, *unknown])


def find_models(cfg: DictConfig) -> tuple[dict[str, str], list[str]]:
    """Find the models by name, and note those that are left out. Raises UserError.

    A model that was named must exist; of the default ones a missing one is left out.
    """
    problems = []
    for name, path in (cfg.models or {}).items():
        if not NAME.fullmatch(name):
            problems.append(f"models: {name!r} names a file: use letters, digits, _ . -")
        # of an endpoint it is a served name, which only the server can judge
        if cfg.endpoint is None and (fault := find_fault(path)):
            fix = "give a model's folder, or a hub id as org/name@commit"
            problems.append(f"models.{name}={path} {fault}: {fix}")
    if not cfg.models and cfg.endpoint is not None:
        problems = ["endpoint needs the names under which it serves: models={NAME:SERVED_NAME}"]
    if problems:
        raise UserError(*problems)
    if cfg.models:
        return dict(cfg.models), []

    # nothing was named: the three models of the experiment, as far as they exist
    revision = f"@{cfg.model.revision}" if cfg.model.get("revision") else ""
    makers = {
        "base": (f"{cfg.model.path}{revision}", "make setup"),
        "sft": (f"runs/sft/{cfg.name}/model", "make sft"),
        "rlvr": (f"runs/rlvr/{cfg.name}/model", "make rlvr"),
    }
    models, missing = {}, []
    for name, (path, command) in makers.items():
        if fault := find_fault(path):
            missing.append(f"{name} is left out: {path} {fault}; `{command}` makes it")
        else:
            models[name] = path
    if not models:
        raise UserError(*missing)
    return models, missing


def find_fault(path: str) -> str | None:
    """Say what keeps a path from being a model, None for a model's folder or a pinned hub id."""
    folder = Path(path)
    if HUB_ID.fullmatch(path):
        return None
    if not os.path.isdir(path):  # False also for a name that no folder can have
        return "is no folder"
    if not (folder / "config.json").is_file():
        return "has no config.json"
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return None if has_weights else "has no weights"


def find_modes(cfg: DictConfig, models: dict[str, str]) -> dict[str, list[str]]:
    """Find the modes of each model. Raises UserError.

    A list applies to all models, a mapping names models, null means DEFAULT_MODES.
    """
    given: Any = OmegaConf.to_container(cfg.modes) if OmegaConf.is_config(cfg.modes) else cfg.modes
    by_model, problems = given or DEFAULT_MODES, list[str]()
    if not isinstance(by_model, dict):
        by_model = dict.fromkeys(models or ["any"], by_model)  # checked without a model too
    # DEFAULT_MODES may name models that are not there, the user may not
    elif given and models:
        known = f"no such model, there is {', '.join(models)}"
        problems = [f"modes.{name}: {known}" for name in given if name not in models]
    modes = {}
    for model in models or by_model:
        chosen = by_model.get(model, "think")
        modes[model] = list(dict.fromkeys([chosen] if isinstance(chosen, str) else chosen))
        for mode in modes[model]:
            with collect_problems(problems):
                if split_mode(mode)[0] == "loglikelihood" and cfg.endpoint is not None:
                    problems.append("mode loglikelihood needs the model itself, not an endpoint")
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return modes


def describe_task(
    cfg: DictConfig, benchmark: Benchmark, mode: str, examples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Describe everything but the model that a task's answers depend on."""
    frame, manifest = benchmark.prepared.frame, benchmark.prepared.manifest
    name = split_mode(mode)[0]
    # loglikelihood generates nothing: only the limit of the prompt counts
    sampling: dict[str, Any] = {"max_len": cfg.max_len}
    if mode != "loglikelihood":
        sampling |= {
            "samples": cfg.samples,
            "temperature": float(cfg.temperature),
            "top_p": float(cfg.top_p),
            "max_new_tokens": cfg.direct_max_new_tokens if name == "direct" else cfg.max_new_tokens,
            "stop": STOP[name],
        }
    shown = None
    if examples:
        sha256 = manifest["files"]["dev.jsonl"]["sha256"]
        shown = {"ids": [row["id"] for row in examples], "sha256": sha256}
    return {
        "benchmark": {
            "name": benchmark.name,
            "sha256": benchmark.sha256,
            "limit": cfg.limit,
            "state": manifest.get("state"),
            "prompt": manifest.get("prompt") or {"name": "plain", "file": None, "sha256": None},
        },
        "mode": mode,
        "examples": shown,
        "prompt_version": PROMPT_VERSION,
        "chat": frame._asdict() if frame else None,
        "seed": cfg.seed,
        "sampling": sampling,
        "engine": describe_engine(cfg),
    }


def describe_engine(cfg: DictConfig) -> dict[str, Any]:
    """List the arguments for vLLM's LLM that are not null; of an endpoint what changes answers."""
    given = cfg.vllm if cfg.endpoint is None else cfg.endpoint_options
    options: Any = OmegaConf.to_container(given, resolve=True) if given else {}
    extra = options.pop("extra", None) or {}
    if cfg.endpoint is not None:  # not the number of requests at a time
        return {"api": options["api"], "extra": extra}
    return {key: value for key, value in options.items() if value is not None} | extra


def identify_models(
    cfg: DictConfig, models: dict[str, str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Identify each model by the content of its files, its hub commit, or where it is served.

    Also returns notes on servers that do not say which weights they serve.
    """
    if cfg.endpoint is None:
        return {name: identify_model(path) for name, path in models.items()}, []
    found = find_fingerprints(cfg, list(models.values()))
    identities = {
        name: {"endpoint": cfg.endpoint, "served_name": served, "fingerprint": found[served]}
        for name, served in models.items()
    }
    notes = [
        f"the endpoint does not say which weights it serves as {served!r}: answers on disk are "
        "identified by that name alone; use a new name=NAME after a change"
        for served, fingerprint in found.items()
        if fingerprint is None
    ]
    return identities, notes


def identify_model(path: str) -> dict[str, Any]:
    """Identify a model by its hub commit, or by a hash over its files' names and hashes."""
    if HUB_ID.fullmatch(path):
        return {"hub": path}
    # weights, tokenizer and configuration; a README or a log changes no answer
    kinds = (".json", ".safetensors", ".bin", ".model")
    files = sorted(file for file in Path(path).iterdir() if file.suffix in kinds and file.is_file())
    listed = "".join(f"{file.name} {hash_file(file)}\n" for file in files)
    return {"sha256": hashlib.sha256(listed.encode()).hexdigest()}
