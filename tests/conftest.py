"""Shared fixtures: composed configurations, a prepared data folder of the bank, short runs of the real engine."""

import fcntl
import functools
import gc
import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

import omegaconf.base
import psutil
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from tests import browser

# a shell's background job ignores Ctrl-C, and so would all programs that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)
# Hydra reads its files with it: a third less for each composed configuration
yaml.SafeLoader = yaml.CSafeLoader
# OmegaConf parses `${…}` anew at each access: three quarters of the time of a check
omegaconf.base.parse = omegaconf._utils.parse = functools.cache(omegaconf.base.parse)
ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "recipes" / "configs"
read_config = FileConfigSource.load_config


@functools.cache
def pickle_config(folder: str, name: str, time_ns: int) -> bytes:
    """Read one of Hydra's files as it does, pickled."""
    return pickle.dumps(read_config(FileConfigSource("test", f"file://{folder}"), name))


def load_config(source: FileConfigSource, config_path: str) -> ConfigResult:
    """Read one of Hydra's files once: a command reads a hundred, many of them twice."""
    path = Path(source.path, source._normalize_file_name(config_path))
    time_ns = path.stat().st_mtime_ns if path.exists() else 0
    result = pickle.loads(pickle_config(source.path, config_path, time_ns))
    result.provider = source.provider
    return result


FileConfigSource.load_config = load_config


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Keep unit tests quick: one that starts a Python of its own is marked `process`."""
    start = subprocess.Popen.__init__

    def start_quickly(self: subprocess.Popen, args: Sequence[str] | str, *rest, **options) -> None:
        assert sys.executable not in list(args), "mark this test `process`: it starts a program"
        start(self, args, *rest, **options)

    gc.freeze()  # a collection of what imports made costs 0.2 s, and statsmodels asks for some
    is_unit = not {"process", "e2e", "slow"} & {mark.name for mark in item.iter_markers()}
    with pytest.MonkeyPatch.context() as patch:
        if is_unit:
            patch.setattr(subprocess.Popen, "__init__", start_quickly)
        return (yield)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@functools.cache
def compose_groups(name: str, groups: tuple[str, ...]) -> bytes:
    """Compose a root with its choices of files, pickled: 1 ms to read, where Hydra takes 80."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return pickle.dumps(compose(name, list(groups)))


def compose_words(name: str, words: Sequence[str]) -> DictConfig:
    """Compose as `python -m recipes.…` does; a copy of the caller's own. Raises Hydra's exceptions.

    The steps are Hydra's own: the files that are chosen, which are kept, then the values.
    """
    overrides = OverridesParser.create().parse_overrides(list(words))
    assert not any(one.is_sweep_override() for one in overrides), words
    groups = tuple(one.input_line for one in overrides if is_group(one.key_or_group))
    cfg = pickle.loads(compose_groups(name, groups))
    values = [one for one in overrides if not is_group(one.key_or_group)]
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    return cfg


def is_group(key: str) -> bool:
    """Say if a key chooses one of the files of a folder."""
    return (CONFIGS / key).is_dir()


@pytest.fixture(scope="session")
def compose_config() -> Callable[..., DictConfig]:
    """compose_config(root_name, *overrides): as `python -m recipes.…` composes it."""
    return lambda name, *words: compose_words(name, words)


@pytest.fixture(scope="session", autouse=True)
def render_templates_here() -> Iterator[None]:
    """Render chat templates by the child's own function, without a process that imports transformers.

    The process itself, with its limits, is what test_prep_inputs.py and test_hub_model.py ask for.
    """
    from data_prep import tokenizer

    @functools.wraps(tokenizer.render_template)
    def render_here(template: str, names: dict[str, str]) -> list[str]:
        said = io.StringIO()
        asked = json.dumps({"template": template, "names": names})
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            patch.setattr("sys.stdin", io.StringIO(asked))
            patch.setattr("resource.setrlimit", lambda *_: None)
            try:
                tokenizer.render_in_child()
            except SystemExit as error:
                raise ValueError(f"cannot be rendered ({str(error)[-300:]})") from None
        return json.loads(said.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "render_template", render_here)
        yield


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A data folder that holds the prepared bank (`data_dir=` of a test's configuration).

    The first worker that asks prepares it by the real command; tests that change it copy it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "prepared"
    with (folder.with_suffix(".lock")).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bank" / "manifest.json").exists():
            words = ["data=bank", "experiment=laptop", f"data_dir={folder}"]
            command = [sys.executable, "-m", "data_prep.run", *words]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def train(bank: Path, tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess, Path]]:
    """train(*overrides, name="run", cwd=ROOT): a laptop run of 3 steps of 64 on the real engine, about 90 s.

    Returns its end and its run folder, which is the test's own.
    """

    def run(
        *overrides: str, name: str = "run", cwd: Path = ROOT
    ) -> tuple[subprocess.CompletedProcess, Path]:
        short = [
            *(f"data_dir={bank}", f"run_dir={tmp_path / name}", "openrlhf.data.max_samples=192"),
            *(
                "openrlhf.train.num_episodes=1",
                "openrlhf.eval.steps=-1",
                "openrlhf.ckpt.save_steps=-1",
            ),
        ]
        command = [sys.executable, "-m", "recipes.rlvr", *short, *overrides]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1500)
        return done, tmp_path / name

    return run


@pytest.fixture(scope="session")
def list_processes() -> Callable[[Path], list[psutil.Process]]:
    """list_processes(run folder): all that belong to the run, by the environment that the launcher gave them."""

    def find(folder: Path) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("MEDRLVR_RUN") == str(folder):
                    found.append(process)
        return found

    return find


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of our packages, for a test that changes the engine's hooks."""
    for package in ("recipes", "reward_server", "data_prep", "eval", "requirements"):
        shutil.copytree(ROOT / package, tmp_path / "project" / package)
    return tmp_path / "project"


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], list[dict]]:
    """read_metrics(run folder): the rows of its metrics.jsonl."""
    return lambda folder: read_rows(folder / "metrics.jsonl")


@pytest.fixture(scope="session")
def read_rollouts() -> Callable[[Path], list[dict]]:
    """read_rollouts(run folder): the rows of all its rollout files."""
    return lambda folder: [
        row for path in (folder / "rollouts").glob("*.jsonl") for row in read_rows(path)
    ]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def chromium() -> Iterator[str]:
    """A headless Chromium's address, for browser.drive."""
    with browser.open_chromium() as address:
        yield address
