"""The run folder: whole files or none, trimmed rows, what resume forgets, and what it refuses."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_prep.errors import UserError
from data_prep.files import hash_file, read_mapping, write_text
from recipes.engine.checkpoints import list_complete
from recipes.run_folder import (
    check_run_folder,
    clear_scratch,
    decide_resume,
    describe_run,
    forget_after,
    lock_run,
    render_config,
    trim_rows,
)
from tests.test_eval_hostile import mutate


def test_rows_are_trimmed_to_whole_batches(tmp_path):
    source = tmp_path / "source.jsonl"
    source.write_text("".join(f"{number}\n" for number in range(23)))
    known = hash_file(source)
    assert trim_rows(source, tmp_path / "train.jsonl", 8, 10**8, known) == 16
    assert (tmp_path / "train.jsonl").read_text().split() == [str(number) for number in range(16)]
    assert trim_rows(source, tmp_path / "train.jsonl", 8, 10, known) == 8
    source.write_text("exchanged\n")
    with pytest.raises(UserError, match="was exchanged since it was checked"):
        trim_rows(source, tmp_path / "train.jsonl", 8, 10, known)
    assert len((tmp_path / "train.jsonl").read_text().split()) == 8


def test_resume_forgets_what_will_be_run_again(tmp_path):
    (tmp_path / "rollouts").mkdir()
    metrics = [{"step": step, "kind": "train"} for step in (1, 2, 3)] + [
        {"step": 1, "kind": "eval"}
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    rollouts = [{"step": step, "split": "train", "response": "a\u2028b\x85c"} for step in (1, 2, 3)]
    rollouts += [
        {"step": step, "split": "dev"} for step in (1, 2)
    ]  # the evaluation at step 2 was cut short
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rollouts)
    (tmp_path / "rollouts" / "a.jsonl").write_bytes(
        text.encode() + '{"step": 2, "é'.encode()[:-1]
    )  # cut by a kill
    forget_after(tmp_path, 2)
    kept = [
        json.loads(line) for line in (tmp_path / "rollouts" / "a.jsonl").read_bytes().splitlines()
    ]
    assert [(row["step"], row["split"]) for row in kept] == [(1, "train"), (2, "train"), (1, "dev")]
    assert kept[0]["response"] == "a\u2028b\x85c"
    assert [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 1]


def test_a_folder_of_other_files_is_no_run_to_delete(compose_config, tmp_path):
    (tmp_path / "thesis.pdf").write_text("")
    (line,) = check_run_folder(compose_config("rlvr", f"run_dir={tmp_path}"), {})
    assert line == f"{tmp_path} is not empty: run_dir=FOLDER elsewhere"
    (tmp_path / "config.yaml").write_text("")  # of a start that failed
    (line,) = check_run_folder(compose_config("rlvr", f"run_dir={tmp_path}"), {})
    assert "holds a run" in line and "or delete it" in line


def test_a_mapping_is_read_from_a_regular_file_alone(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path / "fifo.json", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match="is no regular file: fix it"):
            read_mapping(path, "fix it")


def test_one_launcher_at_a_time_and_none_while_its_engine_lives(tmp_path):
    with lock_run(tmp_path) as lock:
        with pytest.raises(UserError, match="still runs"), lock_run(tmp_path):
            pass
        engine = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    with (
        pytest.raises(UserError),
        lock_run(tmp_path),
    ):  # the launcher is gone, its engine is not
        pass
    engine.kill()
    engine.wait()
    with lock_run(tmp_path):
        pass


def test_what_a_killed_launcher_left_in_tmp_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    run = tmp_path / "run"
    names = ["tmp/rl-abcd1234/ray", "tmp/rl-other567/ray", "tmp/mine", "home/rl-abcd1234"]
    for name in [*names, "run"]:
        (tmp_path / name).mkdir(parents=True)
    # no record, and records that a stranger's run folder may bring
    for record in (
        None,
        "",
        "../home/rl-abcd1234",
        "mine",
        ".",
        "rl-../../home",
        "rl-*",
        "rl-abcd123",
    ):
        if record is not None:
            (run / ".scratch").write_text(record)
        clear_scratch(run)
        assert all((tmp_path / name).is_dir() for name in names), record
    (run / ".scratch").write_text("rl-abcd1234")
    clear_scratch(run)
    assert [name for name in names if (tmp_path / name).is_dir()] == names[1:]


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_text(tmp_path / "run.json", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"


@pytest.fixture
def begun(compose_config, tmp_path):
    """begun(*overrides) → the configuration of a run whose folder tells of a first life with the laptop's settings."""
    folder = tmp_path / "run"
    folder.mkdir()
    first = compose_config("rlvr", f"run_dir={folder}")
    (folder / "config.yaml").write_text(render_config(first))
    record = describe_run(first, "ppo", {"files": FILES}, 0, None)
    (folder / "run.json").write_text(json.dumps(record))
    return lambda *words: compose_config("rlvr", f"run_dir={folder}", *words)


FILES = {"train.jsonl": "1" * 64, "dev.jsonl": "2" * 64, "test.jsonl": "3" * 64}


def test_the_same_run_may_be_resumed(begun):
    for words in (["resume=true"], ["resume=auto"]):
        assert list(check_run_folder(begun(*words), FILES)) == []
    free = ["openrlhf.train.num_episodes=9", "openrlhf.eval.steps=2", "openrlhf.ckpt.save_steps=4"]
    assert list(check_run_folder(begun("resume=true", *free), FILES)) == []
    assert "holds a run" in next(check_run_folder(begun(), FILES))


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "model.path=elsewhere",
        "data.name=other",
        "reward.mode=strict",
        "reward.options.leak_penalty=0.5",
        "reward.control=coin",
        "openrlhf.actor.adam.lr=1e-5",
        "openrlhf.critic.adam.lr=1e-5",
        "openrlhf.algo.kl.init_coef=0.1",
        "openrlhf.rollout.temperature=0.7",
        "openrlhf.rollout.max_new_tokens=64",
        "openrlhf.rollout.batch_size=128",
        "openrlhf.data.max_len=512",
        "openrlhf.data.max_samples=640",
        "openrlhf.train.batch_size=32",
        "openrlhf.ds.zero_stage=3",
        "openrlhf.ds.lora.rank=8",
    ],
)
@pytest.mark.parametrize("resume", ["true", "auto"])
def test_another_run_is_not_resumed_and_the_difference_is_named(begun, override, resume):
    (line,) = check_run_folder(begun(f"resume={resume}", override), FILES)
    key, value = override.split("=")
    assert (
        line.startswith(f"{key} was ") and f"is {float(value) if 'e-' in value else value}" in line
    )


def test_other_data_of_the_same_name_is_named(begun):
    changed = FILES | {"train.jsonl": "9" * 64, "test.jsonl": "9" * 64}
    (line,) = check_run_folder(begun("resume=true"), changed)
    assert line.startswith("train.jsonl of bank has changed")


def test_resume_auto_starts_where_there_is_nothing(compose_config, tmp_path):
    cfg = compose_config("rlvr", f"run_dir={tmp_path / 'run'}", "resume=auto")
    assert not decide_resume(cfg) and list(check_run_folder(cfg, FILES)) == []
    (tmp_path / "run").mkdir()
    for name in (".lock", "train.jsonl"):  # of a start that came no further
        (tmp_path / "run" / name).write_text("")
    assert not decide_resume(cfg) and list(check_run_folder(cfg, FILES)) == []
    cfg.resume = True
    assert "no run to resume" in next(check_run_folder(cfg, FILES))
    cfg.resume = "auto"
    (tmp_path / "run" / "run.json").write_text("{}")
    assert decide_resume(cfg)


def test_the_configuration_that_is_kept_names_the_hub_model_and_no_others_facts(compose_config):
    hub = OmegaConf.create(render_config(compose_config("rlvr", "experiment=paper")))
    assert hub.model.path == hub.model.id == "Qwen/Qwen2.5-3B"
    assert hub.model.licence.name == "qwen-research"
    own = OmegaConf.create(
        render_config(compose_config("rlvr", "experiment=paper", "model.path=mine"))
    )
    assert (own.model.path, own.model.id, own.model.licence) == ("mine", None, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[1]"),
        ("run.json", "{"),
        ("run.json", "[" * 100_000),
        ("config.yaml", "a: [b"),
        ("config.yaml", "[1]"),
        ("config.yaml", "reward: &a {x: *a}"),
        ("config.yaml", "!!python/object/apply:os.system [id]"),
        ("checkpoints/complete/global_step3.json", "[]"),
        ("checkpoints/complete/global_step3.json", '{"step": 3, "roles": 7}'),
    ],
)
def test_a_damaged_run_is_resumed_or_named_in_one_line(compose_config, tmp_path, name, content):
    files = {"run.json": "{}", "config.yaml": "seed: 42", name: content}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    cfg = compose_config("rlvr", f"run_dir={tmp_path}", "resume=true")
    with pytest.raises(UserError) as error:
        list(check_run_folder(cfg, {"train.jsonl": "x"}))
        list_complete(tmp_path / "checkpoints")
    (line,) = error.value.problems
    assert str(tmp_path / name) in line and "\n" not in line


@pytest.mark.parametrize("record", ['{"data": null}', '{"data": {"files": 3}}', '{"data": [1]}'])
def test_a_record_without_data_says_nothing_of_data(compose_config, tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    (tmp_path / "config.yaml").write_text("seed: 42")
    cfg = compose_config("rlvr", f"run_dir={tmp_path}", "resume=true")
    assert list(check_run_folder(cfg, {"train.jsonl": "x"})) == []


def test_a_run_whose_settings_are_lost_is_not_resumed(compose_config, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    cfg = compose_config("rlvr", f"run_dir={tmp_path}", "resume=true")
    with pytest.raises(UserError, match=r"config\.yaml is no regular file: start anew"):
        list(check_run_folder(cfg, {}))


def test_damaged_rows_are_forgotten_on_resume(tmp_path):
    lines = ["[" * 100_000, "7", "{}", '{"step": "x"}', '{"step": null, "kind": "eval"}', "x"]
    good = '{"step": 1, "kind": "train"}'
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, good, ""]))
    forget_after(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == good + "\n"


@pytest.mark.slow
def test_2000_damaged_runs_are_resumed_or_named(compose_config, tmp_path):
    draw, run, refused = random.Random(4), tmp_path / "run", 0
    cfg = compose_config("rlvr", f"run_dir={run}", "resume=true")
    record = {"exit": 1, "wandb_id": "a", "data": {"files": {"train.jsonl": "x", "dev.jsonl": "y"}}}
    config = OmegaConf.to_container(OmegaConf.create(render_config(cfg)))
    mark = {"step": 3, "roles": ["_actor", "_critic"]}
    rows = [{"step": step, "kind": "train", "split": "train"} for step in range(4)]
    (run / "checkpoints/complete").mkdir(parents=True)
    for _ in range(2000):
        contents = {"run.json": record, "config.yaml": config, "checkpoints/complete/t.json": mark}
        for path, value in contents.items():
            text = json.dumps(mutate(value, draw) if draw.random() < 0.5 else value)
            cut = draw.randrange(len(text)) if draw.random() < 0.1 else len(text)
            (run / path).write_text(text[:cut])
        lines = [json.dumps(mutate(row, draw) if draw.random() < 0.5 else row) for row in rows]
        (run / "metrics.jsonl").write_text("\n".join([*lines, ""]))
        try:
            assert all("\n" not in line for line in check_run_folder(cfg, {"train.jsonl": "x"}))
            list_complete(run / "checkpoints")
        except UserError as error:
            refused += 1
            assert str(run) in str(error) and "\n" not in str(error)
        forget_after(run, 2)
        assert all(
            json.loads(line)["step"] <= 2
            for line in (run / "metrics.jsonl").read_text().splitlines()
        )
    assert 200 < refused < 1800 and [path.name for path in tmp_path.iterdir()] == ["run"]
