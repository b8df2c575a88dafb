"""The run folder: whole files or none, trimmed rows, and what resume forgets."""

import json

import pytest

from recipes.run_folder import forget_after, read_start_step, trim_rows, write_text


def test_rows_are_trimmed_to_whole_batches(tmp_path):
    source = tmp_path / "source.jsonl"
    source.write_text("".join(f"{number}\n" for number in range(23)))
    assert trim_rows(source, tmp_path / "train.jsonl", 8, most=10**8) == (16, 7)
    assert (tmp_path / "train.jsonl").read_text().split() == [str(number) for number in range(16)]
    assert trim_rows(source, tmp_path / "train.jsonl", 8, most=10) == (8, 15)


@pytest.mark.parametrize(("tag", "step"), [("global_step16", 16), ("best_global_step32\n", 32), (None, None)])
def test_the_step_of_the_last_checkpoint(tmp_path, tag, step):
    if tag:
        (tmp_path / "_actor").mkdir()
        (tmp_path / "_actor" / "latest").write_text(tag)
    assert read_start_step(tmp_path) == step


def test_resume_forgets_what_will_be_run_again(tmp_path):
    (tmp_path / "rollouts").mkdir()
    rows = "".join(json.dumps({"step": step, "kind": "train"}) + "\n" for step in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(rows)
    (tmp_path / "rollouts" / "a.jsonl").write_text(rows + '{"step": 2, "resp')  # cut by a kill
    forget_after(tmp_path, 2)
    for path in (tmp_path / "metrics.jsonl", tmp_path / "rollouts" / "a.jsonl"):
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_text(tmp_path / "run.json", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"
