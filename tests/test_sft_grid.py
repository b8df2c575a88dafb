"""The SFT grid: what it starts, that it continues, and which model it keeps. The parts are real in docs/LOG.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.errors import UserError
from recipes import sft_grid
from recipes.sft_grid import choose, draw_grid, link, render_table, run_child, train_rate

SCORES = {"1e-05": [0.2, 0.5, 0.4], "5e-06": [0.3, 0.5, 0.45]}


def test_best_is_over_all_epochs_and_last_over_the_last_ones() -> None:
    assert choose(SCORES, "best") == ("1e-05", 2)  # of equals the first
    assert choose(SCORES, "last") == ("5e-06", 3)


def test_the_table_and_the_plot_mark_the_kept_model(tmp_path: Path) -> None:
    kept = {"rate": "5e-06", "epoch": 3, "accuracy": 0.45}
    record = {"title": "t", "select": "last", "kept": kept, "scores": SCORES}
    assert "| 5e-06 | 30.0 | 50.0 | **45.0** |" in render_table(record)
    assert "| 1e-05 | 20.0 | 50.0 | 40.0 |" in render_table(record)
    draw_grid(tmp_path / "grid.png", record)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_rate_is_kept_and_an_unfinished_one_resumed(tmp_path: Path, monkeypatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(sft_grid, "run_child", lambda *words: asked.append(words))
    run_dir = tmp_path / "grid-1e-05"
    train_rate(["experiment=sft/paper"], "1e-05", run_dir, 79)
    run_dir.mkdir()
    (run_dir / "run.json").write_text(json.dumps({"exit": None}))
    train_rate(["experiment=sft/paper"], "1e-05", run_dir, 79)
    (run_dir / "run.json").write_text(json.dumps({"exit": 0}))
    train_rate(["experiment=sft/paper"], "1e-05", run_dir, 79)
    assert [words[-1] for words in asked] == ["resume=false", "resume=true"]
    assert asked[0][:4] == (
        "recipes.sft",
        "experiment=sft/paper",
        "name=grid-1e-05",
        f"run_dir={run_dir}",
    )
    assert {"openrlhf.adam.lr=1e-05", "openrlhf.ckpt.save_steps=79"} <= set(asked[0])


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("grid.rates=[]", "grid.rates=[] is no list of rates"),
        ("grid.rates=[x]", "grid.rates=['x'] is no list of rates"),
        ("grid.rates=[nan]", "grid.rates=[nan] must be above 0"),
        ("grid.rates=[1e-5,-1]", "grid.rates=[1e-05, -1] must be above 0"),
        ("grid.select=worst", "grid.select=worst is best or last"),
        ("openrlhf.train.batch_size=0", "batch_size=0 must be 1 or more"),
        ("openrlhf.train.batch_size=999999", "lower openrlhf.train.batch_size=999999"),
        ("openrlhf.train.max_epochs=1.5", "max_epochs=1.5 must be a whole number"),
        ("name=../x", "name=../x is no name"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused_before_its_first_run(
    compose_config, bank, word, part
) -> None:
    cfg = compose_config("sft", "hardware=cpu", f"data_dir={bank}", "dry_run=true", word)
    with pytest.raises(UserError) as error:
        sft_grid.run_grid(cfg)
    assert any(part in line for line in error.value.problems), error.value.problems


@pytest.mark.process
def test_a_part_that_fails_stops_the_grid() -> None:
    with pytest.raises(UserError, match=r"eval.run failed .*the same command continues"):
        run_child("eval.run", "experiment=no_such_experiment")


def test_the_link_follows_the_last_choice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        link(tmp_path / "model", tmp_path / name)
        assert (tmp_path / "model").resolve() == tmp_path / name
    assert not (tmp_path / "model").readlink().is_absolute()


@pytest.mark.parametrize("experiment", ["paper", "tuned", "paper_laptop", "laptop"])
def test_every_sft_experiment_has_a_grid(compose_config, experiment: str) -> None:
    cfg = compose_config("sft", f"experiment=sft/{experiment}")
    assert len(cfg.grid.rates) == 3 and cfg.grid.select == "best"
    if experiment == "paper":
        assert list(cfg.grid.rates) == [1e-5, 5e-6, 1e-6] and cfg.openrlhf.train.max_epochs == 10


@pytest.mark.process
def test_the_command_says_what_it_would_do(bank: Path, root: Path) -> None:
    command = [sys.executable, "-m", "recipes.sft_grid", f"data_dir={bank}", "dry_run=true"]
    words = ["experiment=laptop", "hardware=cpu"]
    done = subprocess.run([*command, *words], cwd=root, capture_output=True, text=True)
    assert "3 rates × 3 epochs of 31 steps → runs/sft/laptop" in done.stdout, done.stderr
    done = subprocess.run(
        [*command, *words, "grid.select=first"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 2 and "best or last" in done.stderr
