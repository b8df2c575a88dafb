"""The study's driver: what is done stays, what fails is left out with what needs it; and its numbers on known answers."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.files import write_json, write_jsonl
from dev import results
from dev.study import CONTROLS, STUDY, Runner, Settings, Unit, list_units, read_settings
from dev.study_report import LOSSES, MEASURES, write_report

ROOT = Path(__file__).resolve().parents[1]


def copy_unit(folder: Path, name: str, *needs: str, good: bool = True) -> Unit:
    """A child process that writes NAME.json, or fails."""
    (folder / "in.json").write_text("[]")
    source = folder / ("in.json" if good else "absent.json")
    target = folder / f"{name}.json"
    return Unit(name, "prepare", "json.tool", [str(source), str(target)], target.exists, [*needs])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings(jobs=2)


@pytest.mark.process
def test_units_run_in_the_order_of_their_needs_and_done_ones_stay(
    settings, tmp_path, capsys
) -> None:
    units = [copy_unit(tmp_path, "b", "a"), copy_unit(tmp_path, "a"), copy_unit(tmp_path, "c")]
    (tmp_path / "c.json").write_text("kept")
    runner = Runner(settings, units)
    runner.run()
    assert not runner.failed and (tmp_path / "c.json").read_text() == "kept"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 units, 1 done before") and "left" in lines[0]
    assert lines[1].startswith("unit 2 of 3: a done") and lines[2].startswith("unit 3 of 3: b done")
    assert set(json.loads((settings.folder / "units.json").read_text())) == {"a", "b"}


@pytest.mark.process
def test_a_unit_that_fails_is_named_with_its_log_and_the_others_go_on(
    settings, tmp_path, capsys
) -> None:
    units = [
        copy_unit(tmp_path, "bad", good=False),
        copy_unit(tmp_path, "after", "bad"),
        copy_unit(tmp_path, "last", "after"),
        copy_unit(tmp_path, "other"),
    ]
    runner = Runner(settings, units)
    runner.run()
    assert set(runner.failed) == {"bad", "after", "last"} and (tmp_path / "other.json").exists()
    log = settings.folder / "logs" / "bad.log"
    assert str(log) in runner.failed["bad"] and "absent.json" in log.read_text()
    assert "bad failed" in runner.failed["after"] and "FAILED" in capsys.readouterr().out
    # what was missing is there now: the same command does the rest
    (tmp_path / "absent.json").write_text("[]")
    again = Runner(settings, units)
    assert len(again.todo) == 3
    again.run()
    assert not again.failed


@pytest.mark.process
def test_a_killed_study_takes_its_children_with_it(tmp_path) -> None:
    script = (
        "import sys; from dev.study import *; "
        "unit = Unit('u', 'prepare', 'http.server', ['0', '--bind', '127.0.0.1'], lambda: False, []); "
        "runner = Runner(Settings(name=sys.argv[1]), [unit]); "
        "print = lambda *a, **k: None; start = runner.start; "
        "runner.start = lambda *a: (lambda c: (sys.stdout.write(f'{c.pid}\\n'), sys.stdout.flush(), c)[2])(start(*a)); "
        "runner.run()"
    )
    study = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    lines = [study.stdout.readline(), study.stdout.readline()]
    child = Path("/proc") / lines[1].strip()
    assert child.exists()
    study.kill()
    study.wait()
    deadline = time.monotonic() + 20
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not child.exists()


@pytest.mark.process
def test_a_study_waits_for_the_unit_of_a_killed_one_to_end(settings, tmp_path) -> None:
    """As a run does, whose engine takes seconds to end: two of them must not meet in one folder."""
    busy, ended = tmp_path / "busy", tmp_path / "ended"
    slow = (
        "import pathlib, signal, sys, time; busy, ended = map(pathlib.Path, sys.argv[1:]); "
        "stop = lambda *_: (time.sleep(3), ended.touch(), sys.exit()); "
        "signal.signal(signal.SIGTERM, stop); busy.touch(); time.sleep(60)"
    )
    (tmp_path / "slow.py").write_text(slow)
    script = (
        "from dev.study import *; "
        f"unit = Unit('u', 'prepare', 'slow', [{str(busy)!r}, {str(ended)!r}], lambda: False, []); "
        "Runner(Settings(), [unit]).run()"
    )
    place = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    study = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=os.environ | place)
    while not busy.exists():
        assert study.poll() is None
        time.sleep(0.1)
    study.kill()
    study.wait()
    after = Unit("v", "prepare", "json.tool", ["--help"], ended.exists, [])
    runner = Runner(settings, [after])
    runner.todo = [after]
    runner.run()
    assert not runner.failed  # done, since the other had ended by then


def test_overrides_reach_the_command_they_name() -> None:
    words = ["seeds=[1,2]", "conditions=[true,sft_named]", "rlvr.a.b=1", "sft.c=2", "eval.chunk=3"]
    settings = read_settings(words)
    assert settings.seeds == [1, 2] and settings.conditions == ["true", "sft_named"]
    assert settings.words == {"rlvr": ["a.b=1"], "sft": ["c=2"], "eval": ["chunk=3"]}
    assert read_settings([]).conditions == STUDY and len(read_settings([]).seeds) == 5
    assert read_settings(["preset=controls", "jobs=2"]).conditions == CONTROLS
    for wrong in (
        "conditions=[none]",
        "seeds=[x]",
        "jobs=two",
        "eval.limit=3",
        "openrlhf.train.max_epochs=1",
    ):
        with pytest.raises(UserError):
            read_settings([wrong])


def test_units_of_the_whole_study() -> None:
    settings = read_settings([])
    units = {unit.name: unit for unit in list_units(settings)}
    # 5 data sets, base twice, and a seed: 8 runs with 2 evaluations each, and 1 sampling
    assert len(units) == 5 + 2 + 5 * (8 * 3 + 1)
    assert all(set(unit.needs) <= set(units) for unit in units.values())
    grpo = dict(word.split("=", 1) for word in units["grpo-42"].words)
    samples = int(grpo["openrlhf.rollout.batch_size"]) * int(
        grpo["openrlhf.rollout.n_samples_per_prompt"]
    )
    assert samples == 64
    assert "reward.control=coin" in units["coin-43"].words
    assert "data.name=bank_own_44" in units["rejection-44"].words
    assert "own-44" in units["rejection-44"].needs


def write_samples(folder: Path, unit: str, mode: str, rate: float, seed: int) -> None:
    """The samples of a model that is right on a fraction of the questions, the first ones."""
    for kind, benchmark, _ in set(MEASURES.values()):
        rows = []
        for number in range(40):
            turns = range(4) if "rotated" in benchmark else [None]
            for turn in turns:
                gold = "ABCD"[(number - (turn or 0)) % 4]
                right = number < 40 * rate + seed
                row = {
                    "id": f"{benchmark}/{number}" + ("" if turn is None else f"/{turn}"),
                    "sample": 0,
                    "choice": gold if right else "A",
                    "answer": gold,
                    "num_options": 4,
                    "correct": right or gold == "A",
                    "format_ok": True,
                    "cluster": f"c{number}",
                }
                rows.append(row)
        name = f"model.{benchmark.replace('/', '-')}.{mode}.jsonl"
        path = folder / "evaluations" / f"{unit}-{kind}" / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, rows)


def test_report_of_known_answers(tmp_path) -> None:
    tmp_path.mkdir(parents=True, exist_ok=True)
    write_json(tmp_path / "units.json", {"a": 1.0})
    write_samples(tmp_path, "base", "think", 0.2, 0)
    for seed in (0, 1, 2):
        write_samples(tmp_path, f"true-{seed}", "think", 0.8, seed)
        write_samples(tmp_path, f"format_only-{seed}", "think", 0.4, seed)
        write_samples(tmp_path, f"sft_named-{seed}", "direct", 0.8, seed)
        rows = [{"kind": "train", "step": s, "accuracy": s / 10 + seed / 100} for s in range(1, 6)]
        (tmp_path / "runs" / f"true-{seed}").mkdir(parents=True)
        write_jsonl(tmp_path / "runs" / f"true-{seed}" / "metrics.jsonl", rows)
    seeds = {name: [0, 1, 2] for name in ("true", "format_only", "sft_named")}
    modes = {"base": "think", "true": "think", "format_only": "think", "sft_named": "direct"}
    text = write_report(tmp_path, tmp_path / "runs", seeds, modes)
    record = json.loads((tmp_path / "study.json").read_text())
    true, only = record["rows"]["true"], record["rows"]["format_only"]
    # 33 of 40 are known in the mean over seeds; of the others those whose gold is A are right too
    assert true["rotated"]["value"] == pytest.approx((33 + 7 / 4) / 40, abs=1e-6)
    assert only["flips"]["value"] == pytest.approx(23 / 40, abs=1e-6)
    assert (
        true["test, greedy"]["low"] < true["test, greedy"]["value"] < true["test, greedy"]["high"]
    )
    found = {(one["a"], one["b"], one["measure"]): one for one in record["differences"]}
    assert found["true", "sft_named", "test, greedy"]["value"] == 0
    assert found["true", "format_only", "test, T = 1"]["low"] > 0
    assert set(LOSSES) <= {one["measure"] for one in record["differences"]}
    claims = {verdict["claim"]: verdict["verdict"] for verdict in record["verdicts"]}
    assert claims["level"] == "shown" and claims["ahead"] == "refuted"
    assert claims["true − format_only"] == "more"
    assert text == (tmp_path / "table.md").read_text() and "PPO, true reward" in text
    assert (tmp_path / "study.png").stat().st_size > 10_000
    assert record["curves"]["true"]["step"] == [1, 2, 3, 4, 5]
    assert write_report(tmp_path, tmp_path / "runs", seeds, modes) == text


def test_ledger_says_inside_or_outside_the_band(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "name=short", "jobs=2"])
    test_report_of_known_answers(tmp_path / "results" / "short")
    for name, place in (("LEDGER", "results.yaml"), ("PAGE", "RESULTS.md")):
        monkeypatch.setattr(results, name, tmp_path / place)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "read_commit", lambda: "abc+")
    results.add_result("short", "A short study.")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "## short" in page and "A short study." in page and "PPO, true reward: rotated" in page
    entry = results.read_ledger()["short"]
    low, high = entry["numbers"]["PPO, true reward: test, T = 1"]["band"]
    assert low < entry["numbers"]["PPO, true reward: test, T = 1"]["value"] < high
    # all digits: a page made of rounded ones would say 48.9 where the table says 48.8
    found = json.loads((tmp_path / "results" / "short" / "study.json").read_text())["rows"]
    for measure in MEASURES:
        one, known = found["format_only"][measure], entry["numbers"][f"PPO, format only: {measure}"]
        assert [known["value"], *known["interval"]] == [one["value"], one["low"], one["high"]]

    def run_again(settings: Settings) -> int:
        record = json.loads((tmp_path / "results" / "short" / "study.json").read_text())
        record["rows"]["true"]["test, T = 1"]["value"] += moved
        (tmp_path / settings.folder).mkdir(exist_ok=True)
        write_json(tmp_path / settings.folder / "study.json", record)
        return 0

    monkeypatch.setattr(results, "run_study", run_again)
    moved = 0.0
    assert results.check_result("short", ["jobs=2"]) == 0
    moved = 0.3
    assert results.check_result("short", []) == 1
    out = capsys.readouterr().out
    assert out.count("OUTSIDE") == 1 and "OUTSIDE: PPO, true reward: test, T = 1" in out
    with pytest.raises(UserError, match=r"has short"):
        results.check_result("other", [])


@pytest.mark.e2e
def test_a_killed_study_continues_and_ends_with_the_same_table() -> None:
    """Killed in each kind of unit, 8 minutes. PPO itself does not repeat to the last bit, so it is trained once."""
    words = [
        "name=e2e",
        "seeds=[42]",
        "conditions=[sft_letter,true]",
        "questions=8",
        "rlvr.openrlhf.data.max_samples=128",
        "rlvr.openrlhf.train.num_episodes=1",
        "sft.openrlhf.data.max_samples=128",
        "sft.openrlhf.train.max_epochs=1",
    ]
    command = [sys.executable, "-m", "dev.study", *words]
    folder, runs = ROOT / "results" / "e2e", ROOT / "runs" / "e2e"
    for place in (folder, runs):
        shutil.rmtree(place, ignore_errors=True)

    def run_and_kill(unit: str) -> None:
        study = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while not (folder / "logs" / f"{unit}.log").exists():
            assert study.poll() is None
            time.sleep(0.2)
        time.sleep(8)  # until it is in the middle of its work
        study.kill()
        study.wait()

    def run() -> tuple[str, str]:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, (folder / "table.md").read_text()

    run_and_kill("sft_letter-42")
    run_and_kill("true-42")
    out, table = run()
    assert "units, 0 done" not in out and "PPO, true reward" in table
    # what was evaluated or trained by SFT once more, and killed in it, is the same
    for place in (folder / "evaluations", folder / "logs", runs / "sft_letter-42"):
        shutil.rmtree(place)
    run_and_kill("true-42-greedy")
    out, again = run()
    assert "units, 0 done" not in out and "true-42 done" not in out
    assert again == table
    # and where all is done nothing is begun
    assert run()[0].startswith("13 units, 13 done before")
