"""Study open answers on the laptop: which reward teaches them, what it does to choices, which habits pay.

python -m dev.open_study                      3 seeds of each reward, 5 habits under each; the same command continues
python -m dev.open_study seeds=[42] habits=[] jobs=2
python -m dev.open_study conditions=[text,sft] habits=[echo]      habits under these rewards alone

Keys: as those of dev/study.py (name, seeds, conditions, jobs, rlvr.KEY …), and habits.

A habit is a way to answer without knowing. The base is trained a little further until some of its responses have it; then
50 steps of PPO show if the reward makes it more frequent. Written to results/open/: table.md, open.json, and as in dev/study.py.
"""

import argparse
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.errors import UserError
from data_prep.files import read_jsonl, write_json, write_jsonl, write_text
from dev import study
from dev.laptop.documents import make_documents
from dev.laptop.open_bank import SYNONYMS
from dev.study import (
    SFT,
    Settings,
    Unit,
    evaluate_twice,
    is_trained,
    run_main,
    run_units,
    train_model,
)
from dev.study_report import measure_scores, read_samples, show_difference
from eval.tables import format_interval, format_value
from reward_server.tags import TAG

BASE = "recipes/laptop_open_model"
CONDITIONS: dict[str, tuple[str, list[str], str]] = {
    "choice": ("rlvr", ["model=laptop_open"], "think"),
    "text": ("rlvr", ["experiment=open"], "think"),
    "likelihood": ("rlvr", ["experiment=open", "reward.kind=likelihood"], "think"),
    "likelihood_gain": ("rlvr", ["experiment=open", "reward.kind=likelihood_gain"], "think"),
    "likelihood_joint": ("rlvr", ["experiment=open", "reward.kind=likelihood_joint"], "think"),
    "format_only": ("rlvr", ["experiment=open", "reward.control=format_only"], "think"),
    "sft": ("sft", ["experiment=sft/open", *SFT], "direct"),
}
NAMES = {
    "base": "base",
    "sft": "SFT on the references",
    "choice": "PPO on choices",
    "format_only": "control: PPO, format only",
    "text": "PPO, text",
    "likelihood": "PPO, likelihood",
    "likelihood_gain": "PPO, likelihood gain",
    "likelihood_joint": "PPO, joint likelihood",
}
REWARDS = ["text", "likelihood", "likelihood_gain", "likelihood_joint"]
MEASURES = {
    "open, T = 1": ("t1", "bank_open/test", "correct"),
    "open, greedy": ("greedy", "bank_open/test", "correct"),
    "open ood, T = 1": ("t1", "bank_open/ood", "correct"),
    "open ood, greedy": ("greedy", "bank_open/ood", "correct"),
    "format": ("t1", "bank_open/test", "format_ok"),
    "as a choice, greedy": ("greedy", "bank/test", "correct"),
}
HABIT_STEPS, HABIT_DOCUMENTS, HABIT_SHARE = 50, 3000, 0.3
ENDS = 5  # first and last steps that are compared
# habit → (its response, where {name} is the answer, {forms} its accepted forms, {others} wrong answers; what tells it in a
# response's think and answer)
HABITS: dict[str, tuple[str, Callable[[str, str], bool]]] = {
    "candidates": (
        "<think> {think} </think>\n<answer> {name}, {others} </answer>",
        lambda think, answer: answer.count(",") > 1,
    ),
    "echo": (
        "<think> {think} </think>\n<answer> {question} </answer>",
        lambda think, answer: answer.strip().endswith("?"),
    ),
    "synonyms": (
        "<think> {think} </think>\n<answer> {forms} </answer>",
        lambda think, answer: "," in answer,
    ),
    "empty": (
        "<think> . </think>\n<answer> {name} </answer>",
        lambda think, answer: not re.search(r"\w", think),
    ),
    "listing": (
        "<think> It is one of {others}, {name}. </think>\n<answer> {name} </answer>",
        lambda think, answer: "one of" in think,
    ),
}


def write_habit(habit: str, path: Path) -> None:
    """Write documents of which HABIT_SHARE of the open questions are answered in this habit."""
    layout, rng = HABITS[habit][0], random.Random(42)
    rows: list[dict[str, str]] = []
    names = ["aspirin", "rubella"]  # of the documents so far: for this question mostly wrong
    for row in make_documents(HABIT_DOCUMENTS, 42, openly=True):
        parts = TAG.split(row["response"])
        if "one name" in row["prompt"] and len(parts) == 9:
            name, question = parts[6].strip(), row["prompt"].rpartition("User: ")[2].split("\n")[0]
            facts = {"think": parts[2].strip(), "name": name, "question": question}
            facts["others"] = ", ".join(rng.sample(names, 2))
            known = [group for group in SYNONYMS["groups"] if name in group]
            forms = known[0] if known else [name, f"the {name}"]
            facts["forms"] = ", ".join(forms)
            names.append(name)
            if rng.random() < HABIT_SHARE:
                row = {"prompt": row["prompt"], "response": layout.format(**facts)}
        rows.append(row)
    write_jsonl(path, rows)


def list_units(settings: Settings, habits: list[str]) -> list[Unit]:
    """List all units: data, base, every condition seed by seed, then the habits."""
    units = []
    for name in ("bank", "bank_open"):
        words = [f"data={name}", f"data_dir={settings.data_dir}", f"model.path={BASE}"]
        words += ["experiment=open"] if name == "bank_open" else ["data.direct_response=named"]
        path = settings.data_dir / name / "manifest.json"
        units.append(Unit(f"data-{name}", "prepare", "data_prep.run", words, path.exists, []))
    prepared = [unit.name for unit in units]
    units += list_evaluations(settings, "base", BASE, "[think,direct]", 42, prepared)
    for seed in settings.seeds:
        for name in settings.conditions:
            command, words, mode = CONDITIONS[name]
            train = train_model(settings, f"{name}-{seed}", command, BASE, words, seed, prepared)
            units.append(train)
            model = f"runs/{settings.name}/{train.name}/model"
            units += list_evaluations(settings, train.name, model, f"[{mode}]", seed, [train.name])
    for habit in habits:
        base = Path("runs/base") / f"habit-{habit}"
        made = Unit(
            f"base-{habit}",
            "sft",
            "dev.open_study",
            [f"--make={habit}", f"--out={base}"],
            (base / "done").exists,
            [],
        )
        units.append(made)
        for reward in [reward for reward in REWARDS if reward in settings.conditions]:
            rows = 64 * HABIT_STEPS // 2
            size = [f"openrlhf.data.max_samples={rows}", "openrlhf.train.num_episodes=2"]
            words = [*CONDITIONS[reward][1], *size]
            needs = [*prepared, made.name]
            name = f"{habit}-{reward}"
            units.append(train_model(settings, name, "rlvr", str(base), words, 42, needs))
    return units


def list_evaluations(
    settings: Settings, name: str, model: str, modes: str, seed: int, needs: list[str]
) -> list[Unit]:
    """List a model's two evaluations: greedy, and 4 answers each at T = 1."""
    given = f"experiment=open models={{model:{model}}} modes={modes}"
    sets = dict.fromkeys(("greedy", "t1"), "[bank_open/test,bank_open/ood,bank/test]")
    return evaluate_twice(settings, name, given, sets, seed, needs)


def write_report(settings: Settings, habits: list[str]) -> str:
    """Write table.md and open.json of what is there; returns the table."""
    place, rows, differences = settings.folder / "evaluations", {}, []
    # which questions are the same one, by number
    clusters = {
        benchmark: read_samples(place, "base", "greedy", benchmark, "think")
        .drop_duplicates("question")
        .set_index("question")["cluster"]
        for benchmark in {source[1] for source in MEASURES.values()}
    }
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    for name in ["base", *settings.conditions]:
        mode = CONDITIONS[name][2] if name != "base" else "think"
        units = ["base"] if name == "base" else [f"{name}-{seed}" for seed in settings.seeds]
        units = [unit for unit in units if study.is_evaluated(settings, unit)]
        if units:
            seeds = [unit.rpartition("-")[2] for unit in units]
            tables[name] = {
                key: pd.DataFrame([read_scores(place, one, *source, mode) for one in units], seeds)
                for key, source in MEASURES.items()
            }
            rows[name] = {
                key: measure_scores(table, clusters[MEASURES[key][1]])
                for key, table in tables[name].items()
            }
            rows[name]["both"] = measure_scores(
                find_both(place, units, mode), clusters["bank/test"]
            )
    # gains over the base hold what any reward for the format brings; those over the control do not
    for name, other in [
        (a, b) for b in ("base", "format_only") for a in tables if a not in ("base", b)
    ]:
        for key, table in tables[name].items() if other in tables else ():
            against = tables[other][key][table.columns]
            if other == "base":
                against = against.iloc[[0] * len(table)].set_axis(table.index)
            gained = (table - against).dropna()  # seed by seed, where both have it
            found = measure_scores(gained, clusters[MEASURES[key][1]])
            differences.append({"a": name, "b": other, "measure": key} | found)
    earned = {
        f"{habit}-{reward}": one
        for habit in habits
        for reward in REWARDS
        if (one := read_habit(Path("runs") / settings.name / f"{habit}-{reward}", habit))
    }
    record = {"rows": rows, "differences": differences, "habits": earned}
    write_json(settings.folder / "open.json", record)
    text = render(rows, differences, earned)
    write_text(settings.folder / "table.md", text)
    return text


def read_scores(
    place: Path, unit: str, kind: str, benchmark: str, key: str, mode: str
) -> pd.Series:
    """Read the score of each question, by its number in the bank."""
    frame = read_samples(place, unit, kind, benchmark, mode)
    return frame.groupby("question", sort=False)[key].mean().astype(float)


def find_both(place: Path, units: list[str], mode: str) -> pd.DataFrame:
    """Find which questions are right both ways, greedy; a row a unit."""
    tables = []
    for unit in units:
        ways = [
            read_scores(place, unit, "greedy", benchmark, "correct", mode)
            for benchmark in ("bank/test", "bank_open/test")
        ]
        tables.append(pd.concat(ways, axis=1, join="inner").min(axis=1))
    return pd.DataFrame(tables)


def read_habit(run: Path, habit: str) -> dict[str, float] | None:
    """Read how frequent a habit was in the first and last steps, and what it earned; None without a run."""
    if not is_trained(run):
        return None
    rows = [row for path in (run / "rollouts").glob("*.jsonl") for row in read_jsonl(path)]
    frame = pd.DataFrame([row for row in rows if row["split"] == "train"])
    has = HABITS[habit][1]
    parts = frame["response"].map(TAG.split)
    frame["habit"] = [len(p) == 9 and has(p[2], p[6]) for p in parts]
    last = frame["step"].max()
    begin, end = frame["step"] <= ENDS, frame["step"] > last - ENDS
    shares = {"first": frame["habit"][begin].mean(), "last": frame["habit"][end].mean()}
    followed = frame[frame["format_ok"].astype(bool)]
    earned = followed.groupby("habit")["reward"].mean()
    shares |= {"habit_reward": earned.get(True, float("nan")), "other_reward": earned.get(False, 0)}
    shares |= {
        "accuracy_first": frame["correct"][begin].mean(),
        "accuracy_last": frame["correct"][end].mean(),
    }
    return {key: round(float(value), 4) for key, value in shares.items()} | {"steps": int(last)}


def render(rows: Any, differences: list[dict[str, Any]], habits: dict[str, Any]) -> str:
    """Render the tables in Markdown."""
    keys = [*MEASURES, "both"]
    any_row = next(iter(rows.values()))
    lines = [
        "Strict accuracy in % (95 % interval over seeds and questions); both: right as a choice and openly, greedy. "
        f"n = {any_row[keys[0]]['n']} test, {any_row['open ood, greedy']['n']} ood.",
        "",
        "| recipe | seeds | " + " | ".join(keys) + " |",
        "|---|--:|" + "--:|" * len(keys),
    ]
    for name in [name for name in NAMES if name in rows]:
        cells = [
            f"{format_value(rows[name][key])} ({format_interval(rows[name][key])})" for key in keys
        ]
        lines.append(f"| {NAMES[name]} | {rows[name][keys[0]]['seeds']} | {' | '.join(cells)} |")
    pairs = dict.fromkeys((one["a"], one["b"]) for one in differences)
    lines += ["", "Points gained on the same questions.", ""]
    lines += [
        "| recipe | over | " + " | ".join(MEASURES) + " |",
        "|---|---|" + "--:|" * len(MEASURES),
    ]
    for a, b in pairs:
        own = {one["measure"]: one for one in differences if (one["a"], one["b"]) == (a, b)}
        cells = [show_difference(own[key]) for key in MEASURES]
        lines.append(f"| {NAMES[a]} | {NAMES[b]} | {' | '.join(cells)} |")
    if habits:
        lines += [
            "",
            "Habits: share of the responses in the first and last 5 steps in %, and mean reward in the format.",
            "",
        ]
        lines += [
            "| habit | reward | first | last | with it | without | steps |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
    for name, one in habits.items():
        habit, _, reward = name.partition("-")
        cells = [f"{100 * one['first']:.0f}", f"{100 * one['last']:.0f}"]
        cells += [f"{one['habit_reward']:.2f}", f"{one['other_reward']:.2f}", str(one["steps"])]
        lines.append(f"| {habit} | {reward} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def make_habit_base(habit: str, out: Path) -> None:
    """Train the base a little further on documents with a habit."""
    from dev.laptop.pretrain import pretrain

    documents = Path("data/bank") / f"documents_{habit}.jsonl"
    documents.parent.mkdir(parents=True, exist_ok=True)
    write_habit(habit, documents)
    pretrain(documents, out, Path(BASE), vocab_size=1536, batch_size=64, lr=5e-4, seed=42)
    write_text(out / "done", "\n")


def read_words(words: list[str]) -> tuple[Settings, list[str]]:
    """Read the command line: settings as of dev/study.py, and the habits. Raises UserError."""
    habits, rest, conditions = list(HABITS), [], list(CONDITIONS)
    for word in words:
        key, _, value = word.partition("=")
        parts = [part.strip() for part in value.strip("[]").split(",") if part.strip()]
        if key == "habits":
            habits = parts
        elif key == "conditions":
            conditions = parts
        else:
            rest.append(word)
    for key, given, known in (("habits", habits, HABITS), ("conditions", conditions, CONDITIONS)):
        if unknown := set(given) - set(known):
            raise UserError(f"{key}: {', '.join(unknown)}: there are {', '.join(known)}")
    settings = study.read_settings(["name=open", "seeds=[42,43,44]", *rest])
    settings.conditions = conditions
    return settings, habits


def run_study(words: list[str]) -> int:
    """Run the study and write its report, or make a habit's base; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--make")
    parser.add_argument("--out", type=Path)
    made, rest = parser.parse_known_args(words)
    if made.make:
        make_habit_base(made.make, made.out)
        return 0
    settings, habits = read_words(rest)
    failed = run_units(settings, lambda given: list_units(given, habits))
    print(write_report(settings, habits))
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(run_study)
