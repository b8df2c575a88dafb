"""Features of a rollout, runs that are not whole, what is drawn for the page, the report's numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import UserError
from dev.simulate_run import simulate_rollouts, write_run
from eval.dynamics.analysis import Analysis, analyse, bootstrap_phases, measure_evals
from eval.dynamics.features import UNKNOWN, extract_features, find_terms, join_parts, label_pieces
from eval.dynamics.report import draw_evenly, list_runs, render_page
from eval.dynamics.run_files import read_run
from reward_server.scoring import Settings, parse_label, score_response
from reward_server.signals import measure_repetition

OPTIONS = ["iron", "aspirin", "zinc", "folate"]
REASONED = "<think> Fever is a sign. The drug lowers fever. So aspirin B. </think>\n<answer> B </answer><|endoftext|>"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (
            REASONED,
            ("", " Fever is a sign. The drug lowers fever. So aspirin B. ", " B ", "\n", ""),
        ),
        ("B<|endoftext|>", ("", "", "", "", "B")),
        ("Let me see.\n<think> x", ("Let me see.\n", " x", "", "", "")),
        ("<answer> B </answer>", ("", "", " B ", "", "")),
        ("<think> a <answer> B </answer> c", ("", " a ", " B ", " c", "")),
    ],
)
def test_a_response_is_cut_at_its_tags(response, expected):
    pieces = label_pieces(response)
    assert tuple(join_parts(pieces).values()) == expected
    assert "".join(text for _, text in pieces) == response


def test_features_of_a_reasoned_answer():
    features = extract_features(
        REASONED, "B", OPTIONS, frozenset({"fever", "drug", "asthma", "cough"})
    )
    expected = {
        "format": 1.0,
        "pre_think": 0.0,
        "leak": 0.0,
        "think_words": 11,
        "words_think": 11,
        "words_answer": 1,
        "steps": 3,
        "overlap": 0.5,
        "agrees": 1.0,
        "first_statement": 8,
        "leak_position": pytest.approx(8 / 11),
        "characters": len(REASONED) - len("<|endoftext|>"),
    }
    assert {key: features[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("response", "name", "expected"),
    [
        (
            "<think> The answer is C. Zinc heals wounds. </think><answer>C</answer>",
            "leak_position",
            0.0,
        ),
        ("<think> Zinc heals wounds. </think><answer>C</answer>", "leak_position", UNKNOWN),
        (
            "<think> Zinc heals wounds. </think><answer>C</answer>",
            "agrees",
            1.0,
        ),  # by the option's text
        ("<think> Iron is lost, so A. </think><answer>C</answer>", "agrees", 0.0),
        ("<think> Nothing is known. </think><answer>C</answer>", "agrees", UNKNOWN),
        (
            "It lowers fever. So B.\n<think> It is B. </think>\n<answer> B </answer>",
            "pre_think_words",
            5.0,
        ),
        (
            "It lowers fever. So B.\n<think> It is B. </think>\n<answer> B </answer>",
            "first_statement",
            3.0,
        ),
        ("So it goes on. " * 20, "repetition", 73 / 77),
        ("", "steps", 0.0),
    ],
)
def test_one_feature(response, name, expected):
    found = extract_features(response, "B", OPTIONS)[name]
    assert found == pytest.approx(expected, nan_ok=True)


def test_what_the_hook_logs_is_what_the_report_computes():
    rows, questions = simulate_rollouts([1, 2, 4, 5, 6], per_step=16)
    gold = {question.id: question.answer for question in questions}
    for row in rows:
        label = json.dumps(
            {"id": row["id"], "split": "train", "answer": gold[row["id"]], "options": OPTIONS}
        )
        logs = score_response(row["response"], parse_label(label, ""), Settings())[1]["extra_logs"]
        features = extract_features(row["response"], gold[row["id"]], OPTIONS)
        for key in set(logs) - {"accuracy"}:
            assert features[key] == logs[key], (key, row["response"])


@given(st.text(max_size=300), st.sampled_from("ABCD"))
@settings(max_examples=100, deadline=None)
def test_features_are_total_and_within_bounds(text, answer):
    features = extract_features(
        f"{text} <think> {text[::-1]} </think>", answer, OPTIONS, frozenset({"fever"})
    )
    unknown = {key for key, value in features.items() if math.isnan(value)}
    assert unknown <= {"first_statement", "leak_position", "agrees"}
    assert 0 <= features["repetition"] <= 1 and features["overlap"] in (0.0, 1.0)
    assert "leak_position" in unknown or 0 <= features["leak_position"] < 1


def test_repetition_counts_runs_of_four_words():
    assert measure_repetition("one two three four five six seven") == 0.0
    assert measure_repetition("a b c d a b c d") == pytest.approx(1 / 5)


def test_terms_are_what_few_questions_have():
    questions = {str(n): f"A patient has sign{n}. Which drug?" for n in range(40)}
    terms = find_terms(questions)
    assert terms["3"] == {"sign3"}


def test_rollouts_are_drawn_evenly_over_steps_and_by_whole_questions():
    ids = [f"q{number}" for number in range(40)]
    rows = [{"id": id, "step": step, "split": "train"} for step in range(1, 11) for id in ids]
    rows += rows[:20]  # a step twice as large, such as one with samples of a question twice
    drawn = draw_evenly(pd.DataFrame(rows), 100)
    assert drawn["step"].tolist() == [step for step in range(1, 11) for _ in range(10)]
    assert drawn[drawn["step"] > 1].groupby("id").size().eq(9).all()
    assert len(draw_evenly(pd.DataFrame(rows), 10**6)) == len(rows)


def make_page(folder: Path, shown: int = 20000) -> tuple[Analysis, str]:
    analysis = analyse(read_run(folder), "run", "run")
    return analysis, render_page([analysis], "made", shown, overlay=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of phases 1 and 3, 6 steps each, 16 rollouts a step."""
    write_run(tmp_path / "run", *simulate_rollouts([1] * 6 + [3] * 6, per_step=16, seed=1))
    return tmp_path / "run"


def test_a_whole_run_misses_only_what_the_simulation_does_not_write(run):
    assert read_run(run).missing == ["config.yaml is not there"]


def test_a_cut_last_line_two_files_and_a_broken_line(run):
    path = run / "rollouts" / "simulated-1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:100]) + lines[100][:40])
    (run / "rollouts" / "other-2.jsonl").write_text("".join(lines[101:]) + "nonsense\n" + lines[3])
    record = read_run(run)
    assert len(record.rollouts) == 12 * 16 - 1
    said = "\n".join(record.missing)
    assert "the last line of simulated-1.jsonl (line 101) is cut" in said
    assert (
        "1 of 93 lines of other-2.jsonl are not rows" in said
        and "1 rollouts are there twice" in said
    )


def test_a_resumed_run_with_a_gap_and_no_end(run):
    path = run / "rollouts" / "simulated-1.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] not in (4, 5)))
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(metrics[:4] + metrics[5:11]))
    (run / "run.json").write_text(json.dumps({"exit": None, "total_steps": 20}))
    said = "\n".join(read_run(run).missing)
    assert "steps 4 have metrics and no rollouts" in said
    assert "steps 5 have neither" in said and "steps 12 have rollouts and no metrics" in said
    assert "the run has not ended; it was to have 20 steps" in said
    analysis, page = make_page(run)
    assert analysis.steps["step"].tolist() == [1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    assert "have neither" in page


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "train.jsonl"])
def test_a_missing_file_is_said_and_the_rest_is_shown(run, name):
    (run / name).unlink()
    analysis, page = make_page(run)
    assert f"{name} is not there" in page and len(analysis.steps) == 12
    assert [span["phase"] for span in analysis.phases if span["phase"]] == [1, 3]


def test_no_rollouts_at_all_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"reward\.hook"):
        read_run(tmp_path)


def test_confidence_is_low_where_a_step_is_undecided():
    clear = np.tile([1, 0, 0, 12, 0, 0], (64, 1)).astype(np.float32)
    undecided = clear.copy()
    undecided[:32, 0] = 0  # half follow the format: at the boundary of phase 1
    samples = [clear] * 4 + [undecided] * 4
    shares = bootstrap_phases(samples, [3, 3, 3, 3, 0, 0, 0, 0], 20)
    assert shares[:3] == [1.0] * 3 and max(shares[5:]) < 0.95


def test_dev_accuracy_has_intervals():
    rows = [
        {"id": f"bank/dev/{n}", "split": "dev", "step": 6, "correct": n < 150} for n in range(200)
    ]
    (found,) = measure_evals(pd.DataFrame(rows))
    assert found["name"] == "bank/dev" and found["n"] == 200 and found["value"] == 0.75
    assert 0.68 < found["low"] < 0.75 < found["high"] < 0.81


def test_runs_may_be_a_folder_a_list_or_groups(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/rlvr/a", "x/a", "x/b", "x/c"):
        Path(name).mkdir(parents=True)
    assert list_runs("runs/rlvr/a") == [("a", Path("runs/rlvr/a"))]
    assert [group for group, _ in list_runs(["x/a", "x/b"])] == ["a", "b"]
    grouped = list_runs({"paper": ["x/a", "x/b"], "strict": "x/c"})
    assert [group for group, _ in grouped] == ["paper", "paper", "strict"]
