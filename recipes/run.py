"""Compose → preflight → run OpenRLHF → summary: what `python -m recipes.rlvr` and `python -m recipes.sft` share."""

import json
import os
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes import engine_process, hub_model, reward_service, run_folder, terminal
from recipes.flags import FlagError, build_parser, to_argv
from recipes.live import LiveView, count_question_words
from recipes.preflight import find_problems

PATH_FLAGS = {
    "ppo": ["data.prompt_dataset", "eval.dataset", "train.agent_func_path", "actor.model_name_or_path"],
    "sft": ["data.dataset", "eval.dataset", "model.model_name_or_path"],
}
OUTPUT_FLAGS = ["ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir"]


def add_environment_choices(argv: list[str], prefix: str = "") -> None:
    """Let EXPERIMENT and HARDWARE (set by the Makefile, or by you) stand for `experiment=` and `hardware=`.

    As command-line overrides, since Hydra forbids an experiment chosen by ${oc.env:…} to choose the data set.
    """
    for group, value in (("experiment", os.environ.get("EXPERIMENT")), ("hardware", os.environ.get("HARDWARE"))):
        if value and not any(word.startswith(f"{group}=") for word in argv):
            argv.append(f"{group}={prefix}{value}" if group == "experiment" else f"{group}={value}")


def run_recipe(cfg: DictConfig, method: str) -> None:
    """Run one recipe from its composed configuration; method: ppo or sft.

    Exits with 2 where something must be mended first (nothing was written), 1 where the engine failed, 130 on Ctrl-C.
    """
    argv, problems = check(cfg, method)
    if not problems and not cfg.dry_run and hub_model.is_hub_id(cfg):
        print(f"model: {cfg.model.path} at {cfg.model.revision}, from the hub or its cache")
        try:
            cfg.model.path = str(hub_model.fetch_model(cfg))
        except hub_model.ModelFetchError as error:
            sys.exit(str(error))
        argv, problems = check(cfg, method)  # again, now that there are files to look at
    if argv and cfg.dry_run:
        environment = engine_process.build_environment(cfg, 0)
        print(engine_process.format_command(engine_process.build_command(method, argv, cfg), environment))
    if problems:
        print(
            f"{len(problems)} to mend before this can run:",
            *(f"  {line}" for line in problems),
            sep="\n",
            file=sys.stderr,
        )
    if cfg.dry_run and argv:
        return
    if problems:
        sys.exit(2)
    print_banner(cfg, method)
    try:
        sys.exit(run_engine(cfg, method, argv))
    except reward_service.RewardServerError as error:
        sys.exit(str(error))


def check(cfg: DictConfig, method: str) -> tuple[list[str], list[str]]:
    """The engine's argv (empty where a flag is wrong), and everything to mend before it may run."""
    try:
        return build_argv(cfg, method), find_problems(cfg, method)
    except FlagError as error:
        return [], [str(error)]


def build_argv(cfg: DictConfig, method: str) -> list[str]:
    """The engine's argv, its paths absolute, since Ray's workers may run elsewhere. Raises FlagError."""
    if cfg.resume:
        cfg.openrlhf.ckpt.load_enable = True
    if method == "ppo":
        reward_service.choose_hook(cfg)
    for key in [*PATH_FLAGS[method], *OUTPUT_FLAGS]:
        value = OmegaConf.select(cfg.openrlhf, key)
        if value is not None and (key in OUTPUT_FLAGS or key.endswith("dataset") or Path(value).exists()):
            OmegaConf.update(cfg.openrlhf, key, str(Path(value).resolve()))
    flags: Any = OmegaConf.to_container(cfg.openrlhf, resolve=True)
    parser = build_parser(method)
    if method == "ppo":  # train.jsonl is trimmed already, and the engine would cut the evaluation set too
        flags["data"]["max_samples"] = parser.get_default("data.max_samples")
    return to_argv(flags, parser)


def print_banner(cfg: DictConfig, method: str) -> None:
    """What is about to run, on what; and on a machine without a GPU, how the paper's run is started elsewhere."""
    title = "RLVR (PPO)" if method == "ppo" else "SFT"
    print(f"{title}: {cfg.name} on {cfg.data.name}, hardware={cfg.hardware.name} → {cfg.run_dir}")
    if not cfg.hardware.cuda:
        target = "make rlvr experiment=paper" if method == "ppo" else "make sft experiment=sft/paper"
        print(
            f"No CUDA GPU: the real OpenRLHF runs on CPU, with a tiny model. The paper's run: {target} hardware=8x80gb"
        )


def run_engine(cfg: DictConfig, method: str, argv: list[str]) -> int:
    """Make the run folder, run the engine to its end, report; returns the exit code."""
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    start_step = run_folder.read_start_step(run_dir / "checkpoints") or 0 if cfg.resume else 0
    if cfg.resume:
        run_folder.forget_after(run_dir, start_step)
    data, total_steps = prepare_rows(cfg, method, run_dir)
    record = run_folder.describe_run(cfg, method, data, start_step)
    record |= {"arguments": sys.argv[1:], "total_steps": total_steps}
    command = engine_process.build_command(method, argv, cfg)
    environment = engine_process.build_environment(cfg, start_step)
    with ExitStack() as services:
        if method == "ppo" and cfg.reward.hook == "server":
            log = run_dir / "reward_server.log"
            environment["MEDRLVR_REWARD_URL"] = services.enter_context(reward_service.serve(cfg, environment, log))
        run_folder.write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        run_folder.write_text(run_dir / "command.txt", engine_process.format_command(command, environment) + "\n")
        run_folder.write_text(run_dir / "run.json", json.dumps(record, indent=2) + "\n")
        started = time.monotonic()
        code = supervise_engine(command, environment, run_dir, method, start_step, total_steps)
        seconds = time.monotonic() - started
    record |= {"wall_seconds": round(seconds, 1), "exit": code}
    run_folder.write_text(run_dir / "run.json", json.dumps(record, indent=2) + "\n")
    report_end(cfg, method, code, total_steps, seconds)
    return 0 if code == 0 else code if code == 130 else 1


def supervise_engine(
    command: list[str], environment: dict[str, str], run_dir: Path, method: str, start_step: int, total_steps: int
) -> int:
    """Run the engine, show its steps, and leave none of its processes behind; returns its exit code, 130 on Ctrl-C."""
    reader = terminal.MetricsReader(run_dir / "metrics.jsonl")
    live = LiveView(count_question_words(run_dir / "train.jsonl")) if method == "ppo" else None
    if live:
        for row in reader.read_before():
            if row["kind"] == "train":
                live.take(row)
    engine = engine_process.start_engine(command, environment, run_dir / "engine.log")
    family: list[Any] = []

    def is_running() -> bool:
        family[:] = engine_process.find_family(engine) or family
        return engine.poll() is None

    try:
        terminal.watch(reader, method, start_step, total_steps, is_running, time.sleep, live)
        return engine.returncode
    except KeyboardInterrupt:
        return 130
    finally:
        engine_process.stop_engine(engine, family)


def prepare_rows(cfg: DictConfig, method: str, run_dir: Path) -> tuple[dict[str, Any], int]:
    """Put the rows of this run in place; returns what run.json says of them, and the number of steps."""
    source = Path(cfg.data_dir) / cfg.data.name
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    rows = manifest["files"]["train.jsonl"]["rows"]
    train, flags = cfg.openrlhf.train, cfg.openrlhf
    if method == "sft":
        left_out, total = 0, min(rows, flags.data.max_samples) // train.micro_batch_size * train.micro_batch_size
        steps = total * train.max_epochs // train.batch_size
    else:
        kept, left_out = run_folder.trim_rows(
            source / "train.jsonl", run_dir / "train.jsonl", flags.rollout.batch_size, flags.data.max_samples
        )
        steps = kept // flags.rollout.batch_size * train.num_episodes
    if left_out:
        print(
            f"{left_out} of {rows} training rows are left out: rollouts are whole batches of {flags.rollout.batch_size}"
        )
    files = {name: file["sha256"] for name, file in manifest["files"].items()}
    return {"name": cfg.data.name, "files": files, "train_rows": rows - left_out, "left_out": left_out}, steps


def report_end(cfg: DictConfig, method: str, code: int, total_steps: int, seconds: float) -> None:
    """A summary where the run ended well; the cause and the next command where it did not."""
    run_dir = Path(cfg.run_dir)
    again = f"python -m recipes.{'rlvr' if method == 'ppo' else 'sft'} {shlex.join([*sys.argv[1:], 'resume=true'])}"
    if code == 0:
        path = run_dir / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        terminal.summarise(rows, method, run_dir, seconds)
        return
    if code == 130:
        print(
            f"\nstopped; every process of the run is ended. To go on from its last checkpoint: {again}", file=sys.stderr
        )
        return
    print(f"\nthe engine failed (exit {code}): {engine_process.find_cause(run_dir / 'engine.log')}", file=sys.stderr)
    print(f"  whole log: {run_dir / 'engine.log'}", file=sys.stderr)
    if run_folder.read_start_step(run_dir / "checkpoints") is not None:
        print(f"  from the last checkpoint: {again}", file=sys.stderr)
