"""Shared fixtures: composed configurations, and a prepared data folder of the bank."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture
def compose_config() -> Callable[..., DictConfig]:
    """compose_config(root_name, *overrides): as `python -m recipes.…` composes it."""

    def compose_one(name: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(ROOT / "recipes" / "configs"), version_base="1.3"):
            cfg = compose(name, list(overrides))
        with open_dict(cfg):
            cfg.pop("hydra", None)
        return cfg

    return compose_one


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the prepared bank (`data_dir=` of a test's configuration)."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "data_prep.run", "data=bank", "experiment=laptop", f"data_dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder
