"""Compose → preflight → run OpenRLHF → summary: what `python -m recipes.rlvr` and `python -m recipes.sft` share."""

import errno
import json
import shlex
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes import hub_model, model, process, reward_service, run_folder, terminal
from recipes.fit import count_steps
from recipes.engine import checkpoints
from recipes.engine_parts import PartsWatch
from recipes.flags import FlagError, build_parser, to_argv, validate
from recipes.live import LiveView, count_question_words
from recipes.preflight import find_problems

PATH_FLAGS = {
    "ppo": [
        "data.prompt_dataset",
        "eval.dataset",
        "train.agent_func_path",
        "actor.model_name_or_path",
    ],
    "sft": ["data.dataset", "eval.dataset", "model.model_name_or_path"],
}
OUTPUT_FLAGS = ["ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir"]
FULL = 1_000_000  # bytes that are free on a disk that is called full


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
        environment = process.build_environment(cfg, 0)
        print(process.format_command(process.build_command(method, argv, cfg), environment))
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
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # Slurm's scancel ends a run as Ctrl-C does
    try:
        sys.exit(run_engine(cfg, method, argv))
    except (reward_service.RewardServerError, run_folder.RunLockedError) as error:
        sys.exit(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"cannot write {error.filename or cfg.run_dir}: {error.strerror}")


def check(cfg: DictConfig, method: str) -> tuple[list[str], list[str]]:
    """The engine's argv (empty where a flag is wrong), and everything to mend before it may run."""
    try:
        return build_argv(cfg, method), find_problems(cfg, method)
    except FlagError as error:
        return [], [str(error)]


def build_argv(cfg: DictConfig, method: str) -> list[str]:
    """The engine's argv, its paths absolute, since Ray's workers may run elsewhere. Raises FlagError."""
    if cfg.resume:  # without a checkpoint the run starts again from its beginning
        cfg.openrlhf.ckpt.load_enable = (
            checkpoints.find_last(Path(cfg.run_dir) / "checkpoints") is not None
        )
    if method == "ppo":
        reward_service.choose_hook(cfg)
    if folder := model.find_folder(cfg):  # of a hub id, the snapshot: the engine knows no revisions
        OmegaConf.update(cfg.openrlhf, PATH_FLAGS[method][-1], str(folder))
    for key in [*PATH_FLAGS[method], *OUTPUT_FLAGS]:
        value = OmegaConf.select(cfg.openrlhf, key)
        if value is not None and (
            key in OUTPUT_FLAGS or key.endswith("dataset") or Path(value).exists()
        ):
            OmegaConf.update(cfg.openrlhf, key, str(Path(value).resolve()))
    flags: Any = OmegaConf.to_container(cfg.openrlhf, resolve=True)
    parser = build_parser(method)
    if (
        method == "ppo"
    ):  # train.jsonl is trimmed already, and the engine would cut the evaluation set too
        flags["data"]["max_samples"] = parser.get_default("data.max_samples")
    argv = to_argv(flags, parser)
    validate(argv, method)
    return argv


def print_banner(cfg: DictConfig, method: str) -> None:
    """What is about to run, on what; and on a machine without a GPU, how the paper's run is started elsewhere."""
    title = "RLVR (PPO)" if method == "ppo" else "SFT"
    print(f"{title}: {cfg.name} on {cfg.data.name}, hardware={cfg.hardware.name} → {cfg.run_dir}")
    if not cfg.hardware.cuda:
        target = "make rlvr experiment=paper" if method == "ppo" else "make sft experiment=paper"
        print(
            f"No CUDA GPU: the real OpenRLHF runs on CPU, with a tiny model. The paper's run: {target} hardware=8x80gb"
        )


def run_engine(cfg: DictConfig, method: str, argv: list[str]) -> int:
    """Make the run folder, run the engine to its end, report; returns the exit code."""
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with run_folder.lock_run(run_dir) as lock:
        return run_locked(cfg, method, argv, run_dir, lock)


def run_locked(cfg: DictConfig, method: str, argv: list[str], run_dir: Path, lock: int) -> int:
    """run_engine, once the folder is ours."""
    start_step = 0
    if cfg.resume:
        start_step = checkpoints.clear_unfinished(run_dir / "checkpoints")
        run_folder.forget_after(run_dir, start_step)
        print(
            f"going on after step {start_step}"
            if start_step
            else "no checkpoint was finished: from the beginning"
        )
    data, total_steps = prepare_rows(cfg, method, run_dir)
    record = run_folder.describe_run(cfg, method, data, start_step)
    record |= {"arguments": sys.argv[1:], "total_steps": total_steps}
    command = process.build_command(method, argv, cfg)
    environment = process.build_environment(cfg, start_step)
    with ExitStack() as services:
        if method == "ppo" and cfg.reward.hook == "server":
            log = run_dir / "reward_server.log"
            environment["MEDRLVR_REWARD_URL"] = services.enter_context(
                reward_service.serve(cfg, environment, log)
            )
        run_folder.write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        run_folder.write_text(
            run_dir / "command.txt", process.format_command(command, environment) + "\n"
        )
        run_folder.write_text(run_dir / "run.json", json.dumps(record, indent=2) + "\n")
        earlier = run_dir / "engine.log"
        begin = (
            earlier.stat().st_size if earlier.exists() else 0
        )  # what stands there is of earlier lives of this run
        started = time.monotonic()
        code = supervise_engine(
            command, environment, run_dir, lock, method, start_step, total_steps
        )
        seconds = time.monotonic() - started
    report_end(cfg, method, code, seconds, begin)
    record |= {"wall_seconds": round(seconds, 1), "exit": code}
    run_folder.write_text(
        run_dir / "run.json", json.dumps(record, indent=2) + "\n"
    )  # last: the disk may be full
    return 0 if code == 0 else code if code == 130 else 1


def supervise_engine(
    command: list[str],
    environment: dict[str, str],
    run_dir: Path,
    lock: int,
    method: str,
    start_step: int,
    total_steps: int,
) -> int:
    """Run the engine, show its steps, and leave none of its processes behind; returns its exit code, 130 on Ctrl-C.

    An engine that waits for a part that has died is stopped, with exit code 1.
    """
    reader = terminal.MetricsReader(run_dir / "metrics.jsonl")
    live = LiveView(count_question_words(run_dir / "train.jsonl")) if method == "ppo" else None
    if live:
        for row in reader.read_before():
            if row["kind"] == "train":
                live.take(row)
    engine = process.start_engine(command, environment, run_dir / "engine.log", lock)
    family: list[Any] = []
    parts = PartsWatch()
    dead: list[str] = []

    def is_running() -> bool:
        family[:] = process.find_family(engine, family)
        if engine.poll() is None and (part := parts.look(family)):
            dead.append(part)
        return engine.poll() is None and not dead

    try:
        terminal.watch(reader, method, start_step, total_steps, is_running, time.sleep, live)
        if dead:
            print(
                f"\n{dead[0]} died, killed or out of memory, and the engine waited for it: it is stopped",
                file=sys.stderr,
            )
            return 1
        return int(engine.returncode)
    except KeyboardInterrupt:
        return 130
    finally:
        process.stop_engine(engine, family)


def prepare_rows(cfg: DictConfig, method: str, run_dir: Path) -> tuple[dict[str, Any], int]:
    """Put the rows of this run in place; returns what run.json says of them, and the number of steps."""
    source = Path(cfg.data_dir) / cfg.data.name
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    rows = manifest["files"]["train.jsonl"]["rows"]
    flags = cfg.openrlhf
    if method == "sft":
        left_out, total = 0, min(rows, flags.data.max_samples)
        total -= total % flags.train.micro_batch_size
    else:
        total, left_out = run_folder.trim_rows(
            source / "train.jsonl",
            run_dir / "train.jsonl",
            flags.rollout.batch_size,
            flags.data.max_samples,
        )
    if left_out:
        most = (
            f"data.max_samples={flags.data.max_samples}, and "
            if flags.data.max_samples < rows
            else ""
        )
        size = flags.rollout.batch_size
        print(
            f"{left_out} of {rows} training rows are left out: {most}rollouts are whole batches of {size}"
        )
    files = {name: file["sha256"] for name, file in manifest["files"].items()}
    record = {
        "name": cfg.data.name,
        "files": files,
        "train_rows": rows - left_out,
        "left_out": left_out,
    }
    return record, count_steps(flags, method, total)


def report_end(cfg: DictConfig, method: str, code: int, seconds: float, begin: int) -> None:
    """A summary where the run ended well; the cause and the next command where it did not.

    begin: the byte of engine.log at which this life of the run begins.
    """
    run_dir = Path(cfg.run_dir)
    words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
    again = f"python -m recipes.{'rlvr' if method == 'ppo' else 'sft'} {shlex.join([*words, 'resume=true'])}"
    if code == 0:
        path = run_dir / "metrics.jsonl"
        rows = (
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if path.exists()
            else []
        )
        terminal.summarise(rows, method, run_dir, seconds)
        return
    if code == 130:
        print(
            f"\nstopped; every process of the run is ended. To go on from its last checkpoint: {again}",
            file=sys.stderr,
        )
        return
    if code < 0:
        cause = f"killed by {signal.Signals(-code).name}, by somebody or by a system that was out of memory"
    elif shutil.disk_usage(run_dir).free < FULL:  # engine.log, on the same disk, could not say so
        cause = f"No space left on device: {run_dir}"
    else:
        cause = process.find_cause(run_dir / "engine.log", begin)
    print(f"\nthe engine failed (exit {code}): {cause}", file=sys.stderr)
    if advice := process.advise(cause):
        print(f"  {advice}", file=sys.stderr)
    print(f"  whole log: {run_dir / 'engine.log'}", file=sys.stderr)
    if checkpoints.find_last(run_dir / "checkpoints"):
        print(f"  from the last checkpoint: {again}", file=sys.stderr)
