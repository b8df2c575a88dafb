"""The run folder: whole files or none, trimmed rows, and what resume forgets."""

import json
import subprocess

import pytest

from data_prep.errors import UserError
from data_prep.files import hash_file, write_text
from recipes.run_folder import forget_after, lock_run, trim_rows


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


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_text(tmp_path / "run.json", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"
