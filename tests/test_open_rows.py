"""Open rows from source to reward: the filter of stems, sources, labels, preparation, readings of an evaluation."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_prep.errors import BadRow, UserError
from data_prep.files import read_jsonl, write_jsonl
from data_prep.open_view import open_question
from data_prep.options import LETTERS
from data_prep.prepare import prepare
from data_prep.prepared import check_row
from data_prep.prompt import OPEN, PLAIN, TEMPLATES, render_prompt
from data_prep.rows import Question, build_row
from data_prep.sources import custom, native
from dev.laptop.open_bank import build_open_bank
from eval.compare import compare_open
from eval.dynamics.run_files import Question as FileQuestion
from eval.modes import judge_open
from eval.samples import Answer, Request, build_sample
from eval.summary import summarise_samples
from eval.tables import render_markdown, select
from reward_server.scoring import Settings, parse_label, score_response
from reward_server.signals import SIGNALS
from reward_server.text import list_forms, read_text

ROOT = Path(__file__).parents[1]
REWORDED = {
    "Which of the following is the most likely diagnosis?": "What is the most likely diagnosis?",
    "Which of the following drugs was given?": "Which drug was given?",
    "Which one of the following abnormalities is seen?": "Which abnormality is seen?",
    "Which of these additional findings is seen?": "Which additional finding is seen?",
    "Which of the following processes explains it?": "Which process explains it?",
    "Which of the following best explains it?": "What best explains it?",
    "Which of the following is this patient at risk of?": "What is this patient at risk of?",
    "The mass is not tender. Which of the following is it?": "The mass is not tender. What is it?",
    "The joint is red. What is the diagnosis?": "The joint is red. What is the diagnosis?",
    "The cause of a red joint is": "The cause of a red joint is",
}
DROPPED = {
    "Which of the following is not a sign of it?": "negated",
    "All of these are signs EXCEPT": "negated",
    "Which of the following is least likely?": "negated",
    "Which of the following statements is true?": "needs_options",
    "What is correct about the joint?": "needs_options",
    "Red joints may be due to the following:": "needs_options",
    "Which of the following defines a red joint? (Asked twice)": "needs_options",
    "What is the drug of option B?": "needs_options",
}


def ask(stem: str, gold: str = "gout") -> Question:
    return open_question(Question("a/test/1", stem, ["sepsis", gold], "B"))


@pytest.mark.parametrize("stem", REWORDED)
def test_a_stem_is_reworded(stem):
    question = ask(stem)
    assert question.question == REWORDED[stem]
    assert (question.options, question.gold) == ([], "gout")
    assert question.target == {"references": ["gout"], "kind": "text"}


@pytest.mark.parametrize("stem", DROPPED)
def test_a_stem_that_needs_its_options_is_dropped(stem):
    with pytest.raises(BadRow) as caught:
        ask(stem)
    assert caught.value.reason == DROPPED[stem]


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("All of the above", "collective"),
        ("A and C", "collective"),
        ("the joint is red because of crystals in it", "long_answer"),
    ],
)
def test_a_gold_option_that_nobody_would_say_is_dropped(gold, reason):
    with pytest.raises(BadRow) as caught:
        ask("What is it?", gold)
    assert caught.value.reason == reason


def test_what_is_asked_openly_already_keeps_its_answer():
    """data.openly=true on numbers or on names with synonyms: nothing becomes a text, no form is lost."""
    for target in (
        {"references": ["gout", "podagra"], "kind": "text"},
        {"value": 5, "kind": "number"},
    ):
        question = Question("a/test/1", "What is it?", [], "", target=target)
        assert open_question(question) == question


def test_the_open_bank_is_what_its_generator_writes(tmp_path):
    for split, rows in build_open_bank().items():
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
        committed = ROOT / "data_prep" / "bank_open" / f"{split}.jsonl"
        assert committed.read_bytes() == (tmp_path / f"{split}.jsonl").read_bytes()


@pytest.mark.parametrize("split", ["train", "dev", "test", "ood"])
def test_the_open_bank_asks_what_the_bank_asks(split):
    """Row by row; the gold option comes first, and no wrong option is an accepted form."""
    rows, opened = (
        read_jsonl(ROOT / "data_prep" / name / f"{split}.jsonl") for name in ("bank", "bank_open")
    )
    for row, other in zip(rows, opened, strict=True):
        assert other["id"] == row["id"].replace("bank/", "bank_open/")
        gold = row["options"][LETTERS.index(row["answer"])]
        assert other["references"][0] == gold
        assert read_text(gold, other["references"]).reason == "correct"
        accepted = frozenset().union(*map(list_forms, other["references"]))
        for option in row["options"]:
            assert option == gold or not accepted & list_forms(option), (row["id"], option)
        # the question itself, word by word or whole, is no answer
        assert read_text(other["question"], other["references"]).reason != "correct"
        assert not {"below", "these"} & set(other["question"].lower().split())
        assert "of the following" not in other["question"]


def configure(**changes):
    """The settings of data=custom for open answers."""
    data = OmegaConf.load(ROOT / "recipes" / "configs" / "data" / "custom.yaml")
    return OmegaConf.merge(data, {"answer_is": "references"}, changes)


@pytest.mark.parametrize(
    ("given", "references"),
    [
        ("gout|podagra", ["gout", "podagra"]),
        (["gout", " podagra "], ["gout", "podagra"]),
        ([["gout"]], ["gout"]),
        (
            [["hemolytic uremic syndrome (HUS)"]],
            ["hemolytic uremic syndrome (HUS)", "hemolytic uremic syndrome", "HUS"],
        ),
        (["gout", "a phrase that nobody would say like this"], ["gout"]),
    ],
)
def test_accepted_forms_are_read(given, references):
    question = custom.parse_row({"question": "What?", "answer": given}, "x/test/0", configure())
    assert question.target == {"references": references, "kind": "text"}
    assert question.gold == references[0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("a phrase that nobody would say like this", "long_answer"),
        (" | ", "empty_reference"),
        ([], "empty_reference"),
        ([["gout"], ["sepsis"]], "wrong_type"),
        (None, "wrong_type"),
        (7, "wrong_type"),
    ],
)
def test_forms_that_are_none_are_refused(given, reason):
    with pytest.raises(BadRow) as caught:
        custom.parse_row({"question": "What?", "answer": given}, "x/test/0", configure())
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("asked", "unit"),
    [
        ("What is the clearance in terms of mL/min?", "mL/min"),
        ("the GFR in terms of mL/min/1.73 m²?", "mL/min/1.73 m²"),
        ("What is the pressure in mm Hg?", "mm Hg"),
        ("What is the score?", ""),
    ],
)
def test_numbers_with_limits_and_units(asked, unit):
    medcalc = OmegaConf.load(ROOT / "recipes" / "configs" / "data" / "medcalc.yaml")
    record = {"Patient Note": "A note.", "Question": asked, "Calculator Name": "x"}
    record |= {"Ground Truth Answer": "25.2", "Lower Limit": "23.9", "Upper Limit": "26.5"}
    question = custom.parse_row(record, "medcalc/test/0", configure(**medcalc))
    target = {"value": 25.2, "tolerance": [23.9, 26.5], "unit": unit, "kind": "number"}
    assert question.target == target
    assert question.gold == "25.2"
    assert question.question == f"A note.\n\n{asked}"
    for answer in ("N/A", "nan", "inf", "08/31/2000", None, "99"):
        with pytest.raises(BadRow, match="no_number"):
            changed = record | {"Ground Truth Answer": answer}
            custom.parse_row(changed, "medcalc/test/0", configure(**medcalc))


def make_row(target: dict, split: str = "train") -> dict:
    question = Question(f"x/{split}/1", "What is it?", [], "", target=target)
    return build_row(question, split, "<eos>", template=OPEN)


TEXT = {"references": ["gout", "podagra"], "kind": "text"}
NUMBER = {"value": 25.2, "tolerance": [23.9, 26.5], "unit": "mL/min", "kind": "number"}


def test_a_row_is_asked_without_options():
    row = make_row(TEXT)
    check_row(row, "train")
    assert row["options"] == []
    assert row["response"] == "gout<eos>"
    assert row["prompt"] == render_prompt("What is it?", [], None, TEMPLATES["open"])
    assert "option" not in row["prompt"] + row["direct_prompt"]
    assert "letter" not in row["prompt"] + row["direct_prompt"]
    check_row(make_row(NUMBER), "train")
    with pytest.raises(ValueError, match="answer 'sepsis'"):
        check_row(row | {"answer": "sepsis"}, "train")


@pytest.mark.parametrize(
    ("target", "right", "wrong", "choice"),
    [(TEXT, "Podagra", "sepsis", "gout"), (NUMBER, "25 mL/min", "30", "25.2")],
)
def test_a_row_is_rewarded_by_its_label(target, right, wrong, choice):
    row = make_row(target)
    label = parse_label(row["label"], row["prompt"])
    for answer, reward in ((right, 1.0), (wrong, 0.0), (f"{right} or {wrong}", 0.0)):
        response = f"<think> The joint is red. </think>\n<answer> {answer} </answer>"
        verdict, reply = score_response(response, label, Settings())
        assert reply["rewards"] == reply["scores"] == reward
        assert list(reply["extra_logs"]) == [signal.name for signal in SIGNALS]
        assert verdict.choice == (choice if reward else verdict.choice)
    assert score_response(right, label, Settings())[1]["rewards"] == -1.0


def test_leak_of_an_open_answer():
    label = parse_label(make_row(TEXT)["label"], "")
    for think, leak in (("The answer is gout. So it is.", 1.0), ("A red joint is seen.", 0.0)):
        response = f"<think>{think}</think><answer>gout</answer>"
        assert score_response(response, label, Settings())[1]["extra_logs"]["leak"] == leak


def test_a_control_that_needs_options_is_refused_by_name():
    label = parse_label(make_row(TEXT)["label"], "")
    with pytest.raises(ValueError, match="shuffled_labels needs options"):
        score_response(
            "<think>a</think><answer>gout</answer>", label, Settings(control="shuffled_labels")
        )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"references": [], "kind": "text"}, "must have references"),
        ({"references": ["gout", ""], "kind": "text"}, "label.references.1"),
        ({"kind": "text"}, "must have references"),
        (NUMBER | {"value": "25.2"}, "label.value"),
        (NUMBER | {"tolerance": [1.0]}, "two limits"),
        (NUMBER | {"value": float("nan")}, "label.value"),
        ({"kind": "essay"}, "label.kind"),
    ],
)
def test_a_bad_label_is_named(target, message):
    label = {"id": "x/train/1", "split": "train"} | target
    with pytest.raises(ValueError, match=message):
        parse_label(json.dumps(label), "")


@pytest.mark.parametrize(
    ("response", "strict", "lenient"),
    [
        ("<think>a</think><answer>gout</answer>", "gout", "gout"),
        ("<think>a</think><answer>gout", None, "gout"),
        ("It may be sepsis.\nThe answer is podagra.", None, "gout"),
        ("<think>a</think><answer>gout or sepsis</answer>", None, None),
        ("<think>a</think><answer>sepsis</answer>", "sepsis", "sepsis"),
        ("", None, None),
    ],
)
def test_an_evaluation_reads_strictly_and_leniently(response, strict, lenient):
    label = json.loads(make_row(TEXT, split="test")["label"])
    read = judge_open(response, label, "think")
    assert (read.choice, read.choice_lenient) == (strict, lenient)


def test_a_direct_answer():
    label = json.loads(make_row(TEXT, split="test")["label"])
    assert judge_open("Gout.", label, "direct").choice == "gout"
    assert judge_open("Gout.\n\nUser: Which drug?", label, "direct").choice == "gout"
    assert judge_open("I think of gout.", label, "direct").reason == "wrong"


def make_samples(name: str, right: list[bool]) -> list[dict]:
    return [
        {"id": f"{name}/test/{number}", "correct": found, "choice": "x", "cluster": str(number)}
        for number, found in enumerate(right)
    ]


def test_choice_and_open_side_by_side():
    systems = {
        "bank/test": {"rlvr.think": make_samples("bank", [True, True, False, False, True])},
        "bank_open/test": {"rlvr.think": make_samples("bank_open", [True, False, True, False])},
    }
    [pair] = compare_open(systems)
    assert pair == {
        "benchmark": "bank_open/test",
        "system": "rlvr.think",
        "n": 4,
        "choice": 0.5,
        "open": 0.5,
        "both": 0.25,
    }


def test_mixtures_side_by_side():
    """Rows of two parts have the same numbers: each meets the one that it was, and no other."""
    choice = make_samples("bank", [True, False]) + make_samples("mine", [False, False])
    opened = make_samples("bank_open", [True, True]) + make_samples("mine_open", [False, True])
    systems = {"both/test": {"x.think": choice}, "both_open/test": {"x.think": opened[::-1]}}
    [pair] = compare_open(systems)
    assert (pair["n"], pair["choice"], pair["open"], pair["both"]) == (4, 0.25, 0.75, 0.25)
    systems["both/test"] = {"x.think": make_samples("other", [True])}
    assert compare_open(systems) == []


def test_custom_open_rows(tmp_path, compose_config):
    rows = [{"question": f"What is it, case {n}?", "answer": "gout|podagra"} for n in range(3)]
    write_jsonl(tmp_path / "mine.jsonl", [*rows, {"question": "And?", "answer": " | "}])
    words = ["data=custom", "data.name=mine", f"data.source={tmp_path}/mine.jsonl"]
    words += ["data.split=test", "data.answer_is=references", f"data_dir={tmp_path}"]
    with pytest.raises(UserError, match=r"data\.prompt\.name=open"):
        prepare(compose_config("prep", *words))
    manifest = prepare(compose_config("prep", *words, "data.prompt.name=open"))
    assert manifest["splits"]["test"]["dropped"] == {"empty_reference": ["mine/test/3"]}
    written = read_jsonl(tmp_path / "mine" / "test.jsonl")
    assert [json.loads(row["label"])["references"] for row in written] == [["gout", "podagra"]] * 3


def test_a_number_within_a_tolerance():
    data = configure(answer_is="number", tolerance=0.1, unit="mg")
    question = custom.parse_row({"question": "How much?", "answer": "-20"}, "x/test/0", data)
    target = {"value": -20.0, "tolerance": [-22.0, -18.0], "unit": "mg", "kind": "number"}
    assert question.target == target


def test_an_evaluation_of_open_rows_has_its_statistics():
    """Chance is 0, a text is no letter and no rotation, and the report has its table."""
    samples = {}
    for name in ("bank", "bank_open"):
        source = read_jsonl(ROOT / "data_prep" / name / "test.jsonl")[:40]
        questions = [native.parse_row(row, "", OmegaConf.create({})) for row in source]
        template = OPEN if name == "bank_open" else PLAIN
        rows = [build_row(question, "test", "<e>", template=template) for question in questions]
        for row in rows:
            check_row(row, "test")
        answers = [row["answer"] if place % 2 else "?" for place, row in enumerate(rows)]
        samples[f"{name}/test"] = [
            build_sample(Request(row, 0, 0, row["direct_prompt"]), Answer(answer), "direct")
            for row, answer in zip(rows, answers, strict=True)
        ]
    result = summarise_samples(samples["bank_open/test"])
    assert (result["accuracy"]["value"], result["chance"]) == (0.5, 0.0)
    assert (result["letters"], result["flips"]) == ({}, None)
    pairs = compare_open({name: {"x.direct": found} for name, found in samples.items()})
    table = render_markdown(select("open", pairs))
    assert "| x.direct | bank_open/test | 40 | 50.0 | 50.0 | 50.0 | 0.0 |" in table


def test_the_report_of_a_run_reads_open_rows():
    row = make_row(TEXT)
    found = FileQuestion.model_validate(row)
    assert (found.options, found.answer) == ([], None)
