"""The study of open answers: its units, its habits, and its table from samples on disk."""

import json

import pytest

from data_prep.errors import UserError
from data_prep.files import read_jsonl
from dev import open_study
from dev.open_study import HABITS, REWARDS, list_units, read_habit, read_words, write_habit
from reward_server.tags import TAG
from reward_server.text import read_text


def test_each_unit_comes_after_what_it_needs_and_keys_are_checked():
    settings, habits = read_words(["seeds=[42]", "habits=[echo]", "rlvr.openrlhf.train.seed=1"])
    units = list_units(settings, habits)
    seen: set[str] = set()
    for unit in units:
        assert set(unit.needs) <= seen, unit.name
        seen.add(unit.name)
    assert {f"echo-{reward}" for reward in REWARDS} | {"sft-42-t1", "choice-42-greedy"} <= seen
    assert "openrlhf.train.seed=1" in next(unit.words for unit in units if unit.name == "text-42")
    for words in (["habits=[nodding]"], ["conditions=[luck]"], ["seed=1"]):
        with pytest.raises(UserError):
            read_words(words)


@pytest.mark.parametrize("habit", HABITS)
def test_a_habit_is_in_its_documents_and_told_from_other_answers(habit, tmp_path, monkeypatch):
    monkeypatch.setattr(open_study, "HABIT_DOCUMENTS", 600)
    write_habit(habit, tmp_path / "documents.jsonl")
    rows = read_jsonl(tmp_path / "documents.jsonl")
    parts = [TAG.split(row["response"]) for row in rows if "one name" in row["prompt"]]
    found = [HABITS[habit][1](part[2], part[6]) for part in parts if len(part) == 9]
    assert len(found) > 100
    assert 0.2 < sum(found) / len(found) < 0.45


def test_what_a_habit_earned_is_read_from_the_rollouts(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "run.json").write_text('{"exit": 0}')
    row = {"split": "train", "format_ok": True, "correct": False}
    texts = {"What is it?": 0.0, "Measles": 0.5}
    rows = [
        row
        | {"step": step, "reward": reward, "response": f"<think>x</think><answer>{text}</answer>"}
        for step in range(1, 21)
        for text, reward in texts.items()
        if text == "Measles" or step <= 10
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rollouts" / "a.jsonl").write_text(lines)
    found = read_habit(tmp_path, "echo")
    assert (found["first"], found["last"], found["steps"]) == (0.5, 0.0, 20)
    assert (found["habit_reward"], found["other_reward"]) == (0.0, 0.5)
    assert read_habit(tmp_path / "none", "echo") is None


def test_the_habits_answers_are_no_right_answers_by_text():
    """What the two that change the answer write is refused by the verdict itself."""
    assert read_text("measles, rubella, mumps", ["measles"])[1] != "correct"
    assert read_text("What causes Koplik spots?", ["measles"])[1] != "correct"
