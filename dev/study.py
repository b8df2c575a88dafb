"""Study what the reward taught: controls, baselines and several seeds, from training to one table.

make study                         5 seeds of every recipe below; the same command continues
make controls                      1 seed of the true reward and its four controls
python -m dev.study seeds=[42] conditions=[true,format_only] jobs=2 \
    rlvr.openrlhf.data.max_samples=128                 any key of a run, by its command's name

Keys: name, seeds, conditions, jobs (2: two units at a time, a core each; 0: only the report), base
(a model folder), samples (answers to each training question for rejection sampling), questions
(of each stress view). rlvr.KEY, sft.KEY and eval.KEY go to these commands.

Each unit (prepare, sample, train, evaluate) is a child process with a folder; what marks it as done
is the product's own last file, so a killed study continues where it was. A unit that fails is
reported with its log, what needs it is left out, the others continue; at the end it is tried once
more, and the exit code is 1 if it fails again.
Written to results/NAME/: table.md, study.json, study.png, data/, evaluations/, logs/, units.json.
"""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import hash_file, lock_file, write_json, write_text
from dev.study_report import write_report

ROOT = Path(__file__).resolve().parents[1]
BANK = ROOT / "data_prep" / "bank"
SFT = ["openrlhf.adam.lr=1e-3", "openrlhf.train.max_epochs=6"]
LETTER = ["data.name=bank_letter", "data.direct_response=letter"]
OWN = ["data.name=bank_own_{seed}", "data.direct_response=accepted"]
# recipe → command, words, mode of evaluation
RECIPES: dict[str, tuple[str, list[str], str]] = {
    "true": ("rlvr", [], "think"),
    "format_only": ("rlvr", ["reward.control=format_only"], "think"),
    "coin": ("rlvr", ["reward.control=coin"], "think"),
    "shuffled_labels": ("rlvr", ["reward.control=shuffled_labels"], "think"),
    "wrong_penalty": ("rlvr", ["reward.control=wrong_penalty"], "think"),
    "grpo": ("rlvr", [], "think"),  # its words depend on the configuration: `size_grpo`
    "sft_letter": ("sft", [*SFT, *LETTER], "direct"),
    "sft_named": ("sft", [*SFT, "data.direct_response=named"], "direct"),
    "rejection": ("sft", [*SFT, *OWN], "think"),
}
STUDY = [name for name in RECIPES if name != "wrong_penalty"]
CONTROLS = ["true", "format_only", "coin", "shuffled_labels", "wrong_penalty"]
VIEWS = {
    "bank_rotated": "data.options.rotate=all",
    "bank_replaced": "data.options.none_of_the_above=replace_gold",
    "bank_stemless": "data.stem=none",
}
GUESSES = {"prepare": 10.0, "sample": 240.0, "rlvr": 400.0, "sft": 150.0, "evaluate": 60.0}
"""Seconds of a unit of each kind, until one was measured."""
LOCK_SECONDS = 60.0


@dataclass
class Settings:
    """The study's own keys. words: of rlvr, sft and eval, by command."""

    name: str = "study"
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44, 45, 46])
    conditions: list[str] = field(default_factory=lambda: list(STUDY))
    jobs: int = 1
    base: str = "recipes/laptop_model"
    samples: int = 3  # as many as PPO draws in three passes
    questions: int = 500
    words: dict[str, list[str]] = field(default_factory=lambda: {"rlvr": [], "sft": [], "eval": []})

    @property
    def folder(self) -> Path:
        """Where everything but the runs is written."""
        return Path("results") / self.name

    @property
    def data_dir(self) -> Path:
        """Where its data sets are: another study may have another base and other questions."""
        return self.folder / "data"


@dataclass
class Unit:
    """One child process. is_done: looks for its last file; needs: names of units before it."""

    name: str
    kind: str
    module: str
    words: list[str]
    is_done: Callable[[], bool]
    needs: list[str]


def read_settings(words: list[str]) -> Settings:
    """Read the command line. Raises UserError for a key or value that is none."""
    settings = Settings()
    if "preset=controls" in words:
        settings = Settings("controls", [42], list(CONTROLS))
        words = [word for word in words if word != "preset=controls"]
    for word in words:
        key, _, value = word.partition("=")
        command, _, rest = word.partition(".")
        if command in settings.words and rest:
            settings.words[command].append(rest)
        elif key in ("seeds", "conditions"):
            parts = [part.strip() for part in value.strip("[]").split(",") if part.strip()]
            numbers = [read_number(word, part) for part in parts if key == "seeds"]
            setattr(settings, key, numbers or parts)
        elif key in ("jobs", "samples", "questions"):
            setattr(settings, key, read_number(word, value))
        elif key in ("name", "base"):
            setattr(settings, key, value)
        else:
            raise UserError(f"{word}: give rlvr.{word}, sft.{word} or eval.{word}, see the file")
    if any(word.startswith("limit=") for word in settings.words["eval"]):
        raise UserError("eval.limit draws other questions for each seed: give questions=…")
    if unknown := set(settings.conditions) - set(RECIPES):
        raise UserError(f"conditions: {', '.join(unknown)}: there are {', '.join(RECIPES)}")
    return settings


def read_number(word: str, value: str) -> int:
    """Read a whole number. Raises UserError that names the word."""
    if not value.isdigit():
        raise UserError(f"{word}: {value!r} is no whole number")
    return int(value)


def list_units(settings: Settings) -> list[Unit]:
    """List all units in the order in which they are begun: seed by seed, so that each is whole."""
    units = list_preparations(settings)
    prepared = [unit.name for unit in units]
    base = Unit("base", "", "", [], lambda: True, prepared)
    units += list_evaluations(settings, base, settings.base, "[think,direct]", 42)
    grpo = size_grpo(settings) if "grpo" in settings.conditions else []
    for seed in settings.seeds:
        if "rejection" in settings.conditions:
            units.append(sample_own(settings, seed, prepared))
        for name in settings.conditions:
            command, words, mode = RECIPES[name]
            own = [word.format(seed=seed) for word in words]
            needs = [*prepared, f"own-{seed}"] if name == "rejection" else prepared
            unit = f"{name}-{seed}"
            train = train_model(settings, unit, command, settings.base, own, seed, needs)
            train.words += grpo if name == "grpo" else []  # last: computed from the words before
            units.append(train)
            model = f"runs/{settings.name}/{unit}/model"
            units += list_evaluations(settings, train, model, f"[{mode}]", seed)
    return units


def train_model(
    settings: Settings,
    name: str,
    command: str,
    base: str,
    words: list[str],
    seed: int,
    needs: list[str],
) -> Unit:
    """Build the unit of one training run, of the model folder `base`."""
    run_dir = Path("runs") / settings.name / name
    common = [
        "hardware=auto",
        f"name={settings.name}-{name}",
        f"run_dir={run_dir}",
        f"data_dir={settings.data_dir}",
        f"model.path={base}",
        f"seed={seed}",
        "resume=auto",
        "openrlhf.eval.steps=-1",
    ]
    given = [*common, *words, *settings.words[command]]
    return Unit(name, command, f"recipes.{command}", given, partial(is_trained, run_dir), needs)


def list_preparations(settings: Settings) -> list[Unit]:
    """List the data sets: the bank, SFT's named targets, and the stress views of some questions."""
    source = settings.folder / "source"
    some = [f"data.source={source}", "data.accept=true"]
    some += [f"data.files.{split}=null" for split in ("train", "dev", "ood")]
    sets = {"bank": ["data.direct_response=named"], "bank_letter": LETTER[1:]}
    sets |= {name: [word, *some] for name, word in VIEWS.items()}
    tokenizer = hash_file(ROOT / settings.base / "tokenizer.json")
    units = []
    for name, words in sets.items():
        path = settings.data_dir / name / "manifest.json"
        place = ["data=bank", f"data.name={name}", f"data_dir={settings.data_dir}"]

        # another base may have another tokenizer, and another study other questions
        def is_done(path: Path = path, is_view: bool = name in VIEWS) -> bool:
            known = read_json(path)
            rows = known.get("origin", {}).get("rows", {}).get("test", {}).get("rows")
            fits = rows == settings.questions or not is_view
            return fits and known.get("tokenizer", {}).get("sha256") == tokenizer

        words = [*place, f"model.path={settings.base}", *words]
        units.append(Unit(f"data-{name}", "prepare", "data_prep.run", words, is_done, []))
    return units


def sample_own(settings: Settings, seed: int, needs: list[str]) -> Unit:
    """Build the unit that samples the base's own answers and keeps the right ones for SFT."""
    words = [
        f"temperature=1 samples={settings.samples} modes=[think] accepted=bank_own_{seed}",
        f"models={{model:{settings.base}}} benchmarks=[bank/train,bank/dev]",
    ]
    return evaluate(settings, f"own-{seed}", "sample", " ".join(words), seed, needs)


def list_evaluations(
    settings: Settings, train: Unit, model: str, modes: str, seed: int
) -> list[Unit]:
    """List a model's two evaluations: greedy with the stress views, and at T = 1.

    500 questions of test and of ood each, all of test in each view and four times in the rotated
    one, 4 answers each at T = 1: 8,000 answers, about a minute with the starts of two engines.
    """
    needs = [train.name] if train.module else train.needs
    greedy = ",".join(["bank/test", "bank/ood", *(f"{view}/test" for view in VIEWS)])
    given = f"models={{model:{model}}} modes={modes}"
    sets = {"greedy": f"[{greedy}]", "t1": "[bank/test,bank/ood]"}
    return evaluate_twice(settings, train.name, given, sets, seed, needs)


def evaluate_twice(
    settings: Settings, name: str, words: str, sets: dict[str, str], seed: int, needs: list[str]
) -> list[Unit]:
    """Build a model's two evaluations, each on its benchmarks in `sets`."""
    sampling = {"greedy": "", "t1": " temperature=1 samples=4"}
    return [
        evaluate(
            settings,
            f"{name}-{kind}",
            "evaluate",
            f"{words} benchmarks={benchmarks}{sampling[kind]}",
            seed,
            needs,
        )
        for kind, benchmarks in sets.items()
    ]


def evaluate(
    settings: Settings, name: str, kind: str, words: str, seed: int, needs: list[str]
) -> Unit:
    """Build a unit of evaluation."""
    place = settings.folder / "evaluations"
    common = [f"name={name}", f"results_dir={place}", f"data_dir={settings.data_dir}"]
    common += [f"seed={seed}", "compare=[]", "claims=null", *words.split()]
    return Unit(
        name,
        kind,
        "eval.run",
        [*common, *settings.words["eval"]],
        (place / name / "summary.json").exists,
        needs,
    )


def size_grpo(settings: Settings) -> list[str]:
    """Compute GRPO's words: groups of 4 in steps of as many samples, and as many steps, as PPO."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "recipes" / "configs"), version_base="1.3"):
        flags = compose("rlvr", [f"data_dir={settings.data_dir}", *settings.words["rlvr"]]).openrlhf
    size, rows = flags.rollout.batch_size, len(BANK.joinpath("train.jsonl").read_text().split("\n"))
    rows = min(rows - 1, flags.data.max_samples)
    needed = flags.train.num_episodes * (rows // size) * (size // 4)
    episodes = -(-needed // rows)
    return [
        "openrlhf.algo.advantage.estimator=group_norm",
        "openrlhf.algo.kl.use_loss=true",
        "openrlhf.algo.kl.estimator=k3",
        "openrlhf.rollout.n_samples_per_prompt=4",
        f"openrlhf.rollout.batch_size={size // 4}",
        f"openrlhf.train.num_episodes={episodes}",
        f"openrlhf.data.max_samples={needed // episodes}",
    ]


def is_trained(run_dir: Path) -> bool:
    """Find out if a run came to its end."""
    return read_json(run_dir / "run.json").get("exit") == 0


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a file; empty where there is none, or half of one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


class Runner:
    """Runs units, some at a time, and prints a line for each that ends."""

    def __init__(self, settings: Settings, units: list[Unit]) -> None:
        self.settings, self.units = settings, units
        self.todo = [unit for unit in units if not unit.is_done()]
        self.running: dict[int, tuple[Unit, subprocess.Popen, float]] = {}  # by place
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = read_json(settings.folder / "units.json")
        self.begun = time.monotonic()

    def run(self) -> None:
        """Run everything that is left; on Ctrl-C and SIGTERM end the children first."""
        with lock_study(self.settings.folder) as self.lock:
            self.run_locked()

    def run_locked(self) -> None:
        """Run everything that is left, in a folder that no other study writes to."""
        done = len(self.units) - len(self.todo)
        print(f"{len(self.units)} units, {done} done before; {self.describe_rest()}", flush=True)
        try:
            while self.todo or self.running:
                for place in range(self.settings.jobs):
                    if place not in self.running and (unit := self.choose()):
                        self.running[place] = unit, self.start(unit, place), time.monotonic()
                for place, (unit, child, since) in list(self.running.items()):
                    if (code := child.poll()) is not None:
                        del self.running[place]
                        self.finish(unit, code, time.monotonic() - since)
                time.sleep(0.2)
        finally:
            for _, child, _ in self.running.values():
                child.terminate()  # a run ends its engine's processes then
            for _, child, _ in self.running.values():
                child.wait()

    def choose(self) -> Unit | None:
        """Take the first unit whose needs are done; those whose needs failed are left out."""
        busy = {unit.name for unit, _, _ in self.running.values()}
        waiting = busy | {unit.name for unit in self.todo}
        for unit in list(self.todo):
            if lost := [name for name in unit.needs if name in self.failed]:
                self.todo.remove(unit)
                self.failed[unit.name] = f"left out: {lost[0]} failed"
            elif not waiting.intersection(unit.needs):
                self.todo.remove(unit)
                return unit
        return None

    def start(self, unit: Unit, place: int) -> subprocess.Popen:
        """Start a unit; of several at a time each gets cores of its own and one thread."""
        jobs, environment = self.settings.jobs, dict(os.environ)
        cores = sorted(os.sched_getaffinity(0))
        if jobs > 1:
            environment |= {"OMP_NUM_THREADS": "1"}
            cores = cores[place % len(cores) :: jobs] or cores
        libc = ctypes.CDLL(None)

        def prepare_child() -> None:
            os.sched_setaffinity(0, cores)
            libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: if the study is killed, so is this

        log = self.settings.folder / "logs" / f"{unit.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", unit.module, *unit.words]
        with log.open("a") as output:
            output.write(f"\n$ {shlex.join(command)}\n")
            output.flush()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(self.lock,),
                start_new_session=True,  # Ctrl-C reaches the study alone, which ends its children
                preexec_fn=prepare_child,
            )

    def finish(self, unit: Unit, code: int, seconds: float) -> None:
        """Note how a unit ended, and print it with what is left."""
        log = self.settings.folder / "logs" / f"{unit.name}.log"
        if code == 0 and unit.is_done():
            self.seconds[unit.name] = round(self.seconds.get(unit.name, 0) + seconds, 1)
            write_json(self.settings.folder / "units.json", self.seconds)
            end = f"{unit.name} done in {seconds:.0f} s"
        else:
            self.failed[unit.name] = f"exit {code}, log: {log}"
            end = f"{unit.name} FAILED, {self.failed[unit.name]}"
        left = len(self.todo) + len(self.running)
        print(f"unit {len(self.units) - left} of {len(self.units)}: {end}", end="; ")
        print(self.describe_rest(), flush=True)

    def describe_rest(self) -> str:
        """Describe how long it took and takes, from the units of each kind that were measured."""
        rest = 0.0
        for unit in [*self.todo, *(unit for unit, _, _ in self.running.values())]:
            alike = [
                self.seconds[u.name]
                for u in self.units
                if u.kind == unit.kind and u.name in self.seconds
            ]
            rest += sum(alike) / len(alike) if alike else GUESSES[unit.kind]
        elapsed = time.monotonic() - self.begun
        left = rest / max(1, self.settings.jobs)
        return f"{format_time(elapsed)} elapsed, about {format_time(left)} left"


@contextmanager
def lock_study(folder: Path) -> Iterator[int]:
    """Hold the study's lock; yields its descriptor, for the units to inherit.

    So those of a killed study have ended before this one begins: a run needs some seconds to end
    its engine. Raises UserError where the lock is not free after LOCK_SECONDS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(lock_file(folder / ".lock"))
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(f"{folder}: a study of this name still runs") from error
                time.sleep(0.5)
        yield lock


def format_time(seconds: float) -> str:
    """Format seconds as hours and minutes: `2:05`."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d} h"


def run_study(settings: Settings) -> int:
    """Run the study and write its report; returns the exit code. Raises UserError."""
    # the questions of the stress views: the first ones, in the bank's own order, which is drawn
    source = settings.folder / "source" / "test.jsonl"
    source.parent.mkdir(parents=True, exist_ok=True)
    lines = (BANK / "test.jsonl").read_text(encoding="utf-8").split("\n")[: settings.questions]
    write_text(source, "\n".join(lines) + "\n")

    failed = run_units(settings, list_units)
    evaluated = {
        name: [seed for seed in settings.seeds if is_evaluated(settings, f"{name}-{seed}")]
        for name in settings.conditions
    }
    modes = {"base": "think", **{name: RECIPES[name][2] for name in settings.conditions}}
    found = {name: seeds for name, seeds in evaluated.items() if seeds}
    if not is_evaluated(settings, "base") or not found:
        raise UserError(f"nothing to report yet: {settings.folder}/logs/ says why")
    print(write_report(settings.folder, Path("runs") / settings.name, found, modes))
    return 1 if failed else 0


def run_units(settings: Settings, list_all: Callable[[Settings], list[Unit]]) -> dict[str, str]:
    """Run all units that are left; returns why some failed, by name."""
    runner = Runner(settings, list_all(settings))
    if settings.jobs:
        runner.run()
    if runner.failed:  # a busy machine may have been too slow to start Ray: once more
        print(f"{len(runner.failed)} failed or were left out: once more", flush=True)
        runner = Runner(settings, list_all(settings))
        runner.run()
    for name, why in runner.failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return runner.failed


def is_evaluated(settings: Settings, name: str) -> bool:
    """Find out if both evaluations of a model are finished."""
    place = settings.folder / "evaluations"
    return all((place / f"{name}-{kind}" / "summary.json").exists() for kind in ("greedy", "t1"))


def run_main(work: Callable[[list[str]], int]) -> None:
    """Run a study of the command line. Exits with 1 where a unit failed, 2 on a user's mistake."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.chdir(ROOT)
    try:
        sys.exit(work(sys.argv[1:]))
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run_main(lambda words: run_study(read_settings(words)))
