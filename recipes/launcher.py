"""Run a recipe: check it, run OpenRLHF, report. Common to `recipes.rlvr` and `recipes.sft`."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import read_jsonl, write_json, write_text
from data_prep.prepared import Prepared
from recipes import plan, process, run_folder, terminal
from recipes.engine import checkpoints
from recipes.flags import FlagError, build_parser, to_argv, validate
from recipes.model import fetch_model, find_folder
from recipes.preflight import find_doubts, find_problems
from recipes.reward import HOOK_FILE
from recipes.rules import find_broken_rules, find_wrong_settings, list_values

PATHS = (
    "data.prompt_dataset",
    "data.dataset",
    "eval.dataset",
    "train.agent_func_path",
    "ckpt.path",
    "ckpt.output_dir",
    "logger.tensorboard_dir",
)
TITLES = {"ppo": ("RLVR (PPO)", "rlvr"), "sft": ("SFT", "sft")}
FULL = 1_000_000  # bytes that are free on a disk that is called full
INTERRUPTED = 130
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_recipe(cfg: DictConfig, method: str) -> None:
    """Run one recipe from its composed configuration; method: ppo or sft.

    Exits with 1 where the engine failed, 130 on Ctrl-C. Raises UserError before it writes.
    """
    run_dir, (title, recipe) = Path(cfg.run_dir), TITLES[method]
    argv, problems = check_recipe(cfg, method)
    if not problems and not cfg.dry_run and not Path(cfg.model.path).is_dir():
        print(f"model: {cfg.model.path} at {cfg.model.revision}, from the hub or its cache")
        fetch_model(cfg)
        argv, problems = check_recipe(cfg, method)  # again, now that there are files to look at
    # a dry run shows the command although something is wrong, and then what
    listed = [f"{len(problems)} to fix before this can run:", *(f"  {line}" for line in problems)]
    if cfg.dry_run and argv:
        command = process.build_command(method, argv, cfg.hardware.gpus_per_node)
        environment = process.build_environment(cfg, 0, wandb_id="new")
        print(process.format_command(command, environment))
        if problems:
            print(*listed, sep="\n", file=sys.stderr)
        return
    if problems:
        raise UserError(*listed)
    # a requeued Slurm job starts again after its run has ended
    if cfg.resume == "auto" and run_folder.read_record(run_dir).get("exit") == 0:
        print(f"{run_dir} is finished: nothing to continue")
        return

    print(f"{title}: {cfg.name} on {cfg.data.name}, hardware={cfg.hardware.name} → {run_dir}")
    for doubt in find_doubts(cfg, method):
        print(f"warning: {doubt}")
    if not cfg.hardware.cuda:
        paper = f"make {recipe} experiment=paper hardware=8x80gb"
        print(f"No CUDA GPU: OpenRLHF runs on CPU, with a tiny model. The paper's run: {paper}")
    # Slurm's scancel and a closed terminal end a run as Ctrl-C does; nohup's SIGHUP stays ignored
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt_once)
    # one launcher for each folder: the lock is held until the engine has ended
    run_dir.mkdir(parents=True, exist_ok=True)
    with run_folder.lock_run(run_dir) as lock:
        sys.exit(run_locked(cfg, method, argv, lock))


def interrupt_once(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt at the first signal; a second must not interrupt the engine's end."""
    for one in STOPS:  # Linux itself sends SIGTERM once for each thread of a parent that was killed
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


def check_recipe(cfg: DictConfig, method: str) -> tuple[list[str], list[str]]:
    """Build the engine's argv (empty where a flag is wrong), and find everything to fix first."""
    argv, problems = [], find_wrong_settings(cfg, method)
    try:
        argv = build_argv(cfg, method)
    except FlagError as error:
        # where the engine refuses what is of the right kind, our own rules name the keys
        asserted = isinstance(error.__cause__, AssertionError) and not problems
        broken = find_broken_rules(cfg, method) if asserted else []
        flag = re.split("[:=]", str(error))[0]  # which may be among the problems by its kind
        named = any(line.startswith(f"{flag}=") for line in problems)
        problems = broken or [*([] if named else [str(error)]), *problems]
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError):
        if not problems:  # of a path or a section that is none, which is among them
            raise
    return argv, problems or find_problems(cfg, method)


def build_argv(cfg: DictConfig, method: str) -> list[str]:
    """Build the engine's argv with absolute paths, for Ray's workers. Raises FlagError."""
    parser = build_parser(method)
    flags = list_values(cfg.openrlhf)
    if method == "ppo":
        flags["train.agent_func_path"] = flags["train.agent_func_path"] or None
        # through the engine's own reward call, which writes no rollouts; the user's own path stays
        if cfg.reward.hook == "function" and flags["train.agent_func_path"] == HOOK_FILE:
            flags["train.agent_func_path"] = None
            flags["reward.remote_url"] = str(Path(HOOK_FILE).resolve())
        # train.jsonl is trimmed already, and the engine would cut the evaluation set too
        flags["data.max_samples"] = parser.get_default("data.max_samples")
    for key in PATHS:
        if flags.get(key):
            try:
                flags[key] = str(Path(flags[key]).resolve())
            except (OSError, ValueError, TypeError, RuntimeError) as error:  # of a loop of links
                raise FlagError(f"openrlhf.{key}={flags[key]!r:.80} is no path: {error}") from error
    # of a hub id the snapshot: the engine knows no revisions
    if folder := find_folder(cfg):
        model = "actor" if method == "ppo" else "model"
        flags[f"{model}.model_name_or_path"] = str(folder.resolve())
    # without a checkpoint the run starts again from its beginning
    if run_folder.decide_resume(cfg):
        found = checkpoints.find_last(Path(cfg.run_dir) / "checkpoints")
        flags["ckpt.load_enable"] = found is not None
    argv = to_argv(flags, parser)
    validate(argv, method)
    return argv


def run_locked(cfg: DictConfig, method: str, argv: list[str], lock: int) -> int:
    """Run the engine to its end in its folder, which is locked, and report; returns the exit code.

    Raises UserError where the folder is no longer as preflight saw it.
    """
    run_dir = Path(cfg.run_dir)
    # another start of this name may have come first, and the data may have been prepared again
    data = run_folder.open_data(cfg)
    files = {name: file["sha256"] for name, file in data.manifest["files"].items()}
    if problems := list(run_folder.check_run_folder(cfg, files)):
        raise UserError(*problems)
    for split in run_folder.list_splits(cfg):
        data.find_file(split)

    # steps after the last whole checkpoint are run again: their records would be there twice
    start_step = 0
    if run_folder.decide_resume(cfg):
        start_step = checkpoints.clear_unfinished(run_dir / "checkpoints")
        run_folder.forget_after(run_dir, start_step)
        beginning = "no checkpoint was finished: from the beginning"
        print(f"continuing after step {start_step}" if start_step else beginning)
    # all is on disk before the engine starts, so that a run that fails at once can be understood
    rows, used = data.manifest["files"]["train.jsonl"]["rows"], prepare_rows(cfg, data)
    of_data = {"name": cfg.data.name, "files": files, "train_rows": used, "left_out": rows - used}
    record = run_folder.describe_run(cfg, method, of_data, start_step, find_folder(cfg))
    record |= {"arguments": sys.argv[1:], "total_steps": plan.count_steps(cfg.openrlhf, used)}
    command = process.build_command(method, argv, cfg.hardware.gpus_per_node)
    environment = process.build_environment(cfg, start_step, record["wandb_id"])
    write_text(run_dir / "config.yaml", run_folder.render_config(cfg))
    write_text(run_dir / "command.txt", process.format_command(command, environment) + "\n")
    write_json(run_dir / "run.json", record)

    # engine.log may begin with earlier parts of this run, before a resume
    log = run_dir / "engine.log"
    begin = log.stat().st_size if log.exists() else 0
    started = time.monotonic()
    # for vLLM's sockets and a local Ray's sessions; removed at the end, so not in command.txt
    run_folder.clear_scratch(run_dir)
    with tempfile.TemporaryDirectory(prefix="rl-", ignore_cleanup_errors=True) as scratch:
        write_text(run_dir / run_folder.SCRATCH, Path(scratch).name)
        if not os.environ.get("RAY_ADDRESS"):
            environment |= {"TMPDIR": scratch, "RAY_TMPDIR": scratch}
        engine = process.start_engine(command, environment, log, lock)
        code = supervise_engine(engine, cfg, method, (start_step, record["total_steps"]))
    (run_dir / run_folder.SCRATCH).unlink(missing_ok=True)
    record |= {"wall_seconds": round(time.monotonic() - started, 1), "exit": code}
    if code == 0:
        metrics = run_dir / "metrics.jsonl"
        written = read_jsonl(metrics) if metrics.exists() else []
        terminal.summarise_run(written, method, run_dir, record["wall_seconds"])
    else:
        print(*explain_end(run_dir, method, code, begin), sep="\n", file=sys.stderr)
    write_json(run_dir / "run.json", record)  # last: the disk may be full
    return code if code in (0, INTERRUPTED) else 1


def prepare_rows(cfg: DictConfig, data: Prepared) -> int:
    """Put the rows of this run in place; returns how many are trained on."""
    flags, known = cfg.openrlhf, data.manifest["files"]["train.jsonl"]
    rows, most = known["rows"], flags.data.max_samples
    # SFT's engine reads the data set itself, and drops a last partial micro-batch
    if "rollout" not in flags:
        return min(rows, most) // flags.train.micro_batch_size * flags.train.micro_batch_size
    # PPO's engine hangs on a last, partial rollout: such rows are left out, and named
    size, target = flags.rollout.batch_size, Path(cfg.run_dir) / "train.jsonl"
    used = run_folder.trim_rows(data.folder / "train.jsonl", target, size, most, known["sha256"])
    if used < rows:
        limit = f"openrlhf.data.max_samples={most}, and " if most < rows else ""
        why = f"{limit}rollouts are whole batches of {size}"
        print(f"{rows - used} of {rows} training rows are left out: {why}")
    return used


def supervise_engine(
    engine: subprocess.Popen, cfg: DictConfig, method: str, steps: tuple[int, int]
) -> int:
    """Show the engine's steps and end all its processes; returns its exit code, 130 on Ctrl-C.

    steps: the first and the last. An engine that waits for a part that has died is stopped, with
    exit code 1.
    """
    run_dir, split = Path(cfg.run_dir), Path(cfg.openrlhf.eval.dataset or "dev").stem
    watch = process.EngineWatch(engine, run_dir)
    try:
        reader, live = terminal.MetricsReader(run_dir / "metrics.jsonl"), None
        # of the run that is resumed: not shown again, but its phase continues
        before = [row for row in reader.read_new() if row["kind"] == "train"]
        if method == "ppo":
            live = terminal.LiveView(terminal.count_question_words(run_dir / "train.jsonl"))
            for row in before:
                live.take(row)
        terminal.watch(reader, method, *steps, watch.is_running, time.sleep, live, split)
        return 1 if watch.dead else int(engine.returncode)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        process.stop_engine(engine, watch.family)


def explain_end(run_dir: Path, method: str, code: int, begin: int) -> list[str]:
    """Write why a run ended early, and the next command; begin: the byte of engine.log from which.

    A signal leaves no exception in the log, and a full disk no log.
    """
    log, last = run_dir / "engine.log", checkpoints.find_last(run_dir / "checkpoints")
    lines = ["\nstopped; every process of the run is ended"]
    if code != INTERRUPTED:
        if code < 0:
            cause = f"killed by {signal.Signals(-code).name}, by a person or because memory ran out"
        elif shutil.disk_usage(run_dir).free < FULL:
            cause = f"No space left on device: {run_dir}"
        else:
            cause = process.find_cause(log, begin)
        lines = [f"\nthe engine failed (exit {code}): {process.name_memory_holders(cause)}"]
        lines += [f"  {advice}"] if (advice := process.advise(cause)) else []
        lines.append(f"  whole log: {log}")
    if code == INTERRUPTED or last:
        # the command that the user gave, with resume=true once
        words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
        again = f"python -m recipes.{TITLES[method][1]} {shlex.join([*words, 'resume=true'])}"
        lines.append(f"  from the last checkpoint: {again}")
    return lines
