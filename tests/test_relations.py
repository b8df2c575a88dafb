"""Fact tables and questions about one pair, on small tables: what is refused, and that the filled text is English."""

import copy
import random
from pathlib import Path

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.prompt import LETTERS
from dev.laptop import bank as bank_module
from dev.laptop.bank import SIZES, build_bank, make_question
from dev.laptop.relations import Relation, fill, iter_pairs, load_relations

WORDING = {
    "phrasings": ["What {p}?", "Which one {p}?", "Name it: {p}", "Say which {p}"],
    "ood_phrasings": ["As to {p}:", "{p} is"],
}
TABLE = {
    "relation": "toy",
    "statements": ["{subject} is a {object}.", "a {object} is {subject}.", "{object}: {subject}."],
    "ask_object": {
        kind: [text.replace("{p}", "{subject}") for text in texts]
        for kind, texts in WORDING.items()
    },
    "ask_subject": {
        kind: [text.replace("{p}", "{object}") for text in texts] for kind, texts in WORDING.items()
    },
    "similar": [["object 1", "object 2"]],
    "facts": [["subject 0", "object 0", ["object 5"]]]
    + [[f"subject {n}", f"object {n % 12}"] for n in range(1, 14)],
}


def load_table(folder: Path, table: object, name: str = "toy") -> list[Relation]:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    return load_relations(folder)


def gold(row: dict) -> str:
    return row["options"][LETTERS.index(row["answer"])]


def test_a_sound_table_loads(tmp_path):
    (relation,) = load_table(tmp_path, TABLE)
    assert [fact.also for fact in relation.facts][:2] == [("object 5",), ()]
    assert len(list(iter_pairs([relation]))) == 28


def set_facts(table, facts):
    table["facts"] = facts


@pytest.mark.parametrize(
    ("break_table", "said"),
    [
        (lambda t: t.update(author="me"), "unknown key 'author'"),
        (lambda t: t.update(relation="other"), "must be the file's name 'toy', got 'other'"),
        (lambda t: t.pop("statements"), "statements: needs a list of 3 or more texts, got None"),
        (lambda t: t["statements"].pop(), "statements: needs a list of 3 or more texts"),
        (
            lambda t: t.pop("ask_object"),
            "ask_object: needs the keys phrasings and ood_phrasings, got None",
        ),
        (lambda t: t["ask_subject"].pop("ood_phrasings"), "ask_subject: needs the keys"),
        (lambda t: t["ask_object"].update(extra=[]), "ask_object: needs the keys"),
        (
            lambda t: t["ask_object"]["phrasings"].pop(),
            "ask_object.phrasings: needs a list of 4 or more",
        ),
        (
            lambda t: t["ask_object"]["ood_phrasings"].pop(),
            "ask_object.ood_phrasings: needs a list of 2 or more",
        ),
        (lambda t: t["statements"].append(7), "statements: needs a list"),
        (
            lambda t: t["statements"].append("no placeholder"),
            "'no placeholder': needs {object} and {subject} once",
        ),
        (
            lambda t: t["statements"].append("{subject} {object} {drug}"),
            "{drug}': needs {object} and {subject} once",
        ),
        (
            lambda t: t["statements"].append("{subject} {object} }"),
            "needs {object} and {subject} once",
        ),
        (
            lambda t: t["ask_object"]["phrasings"].append("{object}?"),
            "'{object}?': needs {subject} once",
        ),
        (lambda t: t["ask_object"]["ood_phrasings"].append(""), "'': needs {subject} once"),
        (
            lambda t: t["ask_subject"]["phrasings"].append("What  {object}?"),
            "'What  {object}?': empty, or with blanks",
        ),
        (
            lambda t: t["ask_object"]["phrasings"].append("As to {subject}:"),
            "'as to {subject}:': sentence given 2",
        ),
        (
            lambda t: t["facts"].append(["subject 1", "object 3"]),
            "'subject 1': subject given 2 times",
        ),
        (
            lambda t: t["facts"].append(["Subject 1", "object 3"]),
            "'subject 1': subject given 2 times",
        ),
        (
            lambda t: t["facts"].append(["new", "Object 3"]),
            "'object 3': object in another spelling given 2 times",
        ),
        (lambda t: t["facts"].append(["new", ""]), "'': empty, or with blanks"),
        (lambda t: t["facts"].append(["new ", "object 3"]), "'new ': empty, or with blanks"),
        (
            lambda t: t["facts"].append(["a {subject}", "object 3"]),
            "'a {subject}': a brace in a fact",
        ),
        (lambda t: t["facts"].append(["new"]), "facts: needs [subject, object]"),
        (lambda t: t["facts"].append(["new", 5]), "facts: needs [subject, object]"),
        (
            lambda t: t["facts"].append(["new", "object 3", "object 4"]),
            "facts: new: needs a list of 1 or more texts",
        ),
        (
            lambda t: t["facts"].append(["new", "object 3", ["object 3"]]),
            "as its object and again as also right",
        ),
        (
            lambda t: t["facts"].append(["new", "object 3", ["object x"]]),
            "also 'object x', but no fact has this",
        ),
        (lambda t: t.pop("facts"), "facts: needs [subject, object]"),
        (lambda t: t.update(similar=[["object 1"]]), "similar: needs a list of 2 or more texts"),
        (
            lambda t: t.update(similar=[["object 1", "object x"]]),
            "'object x': similar, but no fact has this object",
        ),
        (
            lambda t: set_facts(t, t["facts"][1:5]),
            "'subject 1' - 'object 1', asked for the object: only 3 options",
        ),
    ],
)
def test_a_bad_table_is_refused(tmp_path, break_table, said):
    table = copy.deepcopy(TABLE)
    break_table(table)
    with pytest.raises(ValueError) as refused:
        load_table(tmp_path, table)
    assert said in str(refused.value)
    assert "toy.yaml: " in str(refused.value)


def test_all_problems_of_all_files_come_at_once(tmp_path):
    (tmp_path / "broken.yaml").write_text("facts: [", encoding="utf-8")
    load_first = TABLE | {
        "relation": "first",
        "facts": [*TABLE["facts"], ["subject 1", "object 1"], ["new", ""]],
    }
    with pytest.raises(UserError):
        load_table(tmp_path, load_first, "first")
    with pytest.raises(UserError) as refused:
        load_table(tmp_path, ["no table"], "second")
    text = "\n".join(refused.value.problems)
    for part in (
        "broken.yaml: no YAML",
        "first.yaml: 'subject 1'",
        "first.yaml: ''",
        "second.yaml: needs a mapping",
    ):
        assert part in text
    with pytest.raises(UserError, match="no fact table"):
        load_relations(tmp_path / "missing")


def test_an_option_is_hardly_more_often_right_for_being_common(tmp_path):
    """Half of the facts share 3 of 21 objects: drawn evenly, these would be right in 57 % of their appearances."""
    common = [f"object {n}" for n in range(3)]
    facts = [[f"subject {n}", common[n % 3] if n < 18 else f"object {n}"] for n in range(36)]
    pairs = list(iter_pairs(load_table(tmp_path, TABLE | {"facts": facts, "similar": []})))
    rng = random.Random(3)
    rows = [make_question(pair, 0, 4, rng) for pair in pairs * 30 if pair.asks == "object"]
    right = [gold(row) == option for row in rows for option in row["options"] if option in common]
    assert 0.2 < sum(right) / len(right) < 0.35


@pytest.mark.parametrize(
    ("sentence", "value", "filled"),
    [
        ("{subject} is a {object}.", "ACE inhibitor", "Subject is an ACE inhibitor."),
        ("{subject} is an {object}.", "beta blocker", "Subject is a beta blocker."),
        ("{subject} is a {object}.", "SSRI", "Subject is an SSRI."),
        ("{subject} is a {object}.", "H2 blocker", "Subject is an H2 blocker."),
        ("{subject} is a {object}.", "HER2 blocker", "Subject is a HER2 blocker."),
        ("{subject} is a {object}.", "mTOR inhibitor", "Subject is an mTOR inhibitor."),
        ("{subject} is a {object}.", "uric acid crystal", "Subject is a uric acid crystal."),
        ("{subject} is a {object}.", "umbilical hernia", "Subject is an umbilical hernia."),
        ("{subject} is a {object}.", "5-HT3 blocker", "Subject is a 5-HT3 blocker."),
        ("A {object} is {subject}.", "opioid", "An opioid is subject."),
        ("{object} is {subject}.", "alpha-galactosidase A", "Alpha-galactosidase A is subject."),
        ("{object} is {subject}.", "mTOR", "mTOR is subject."),
        ("{object} is {subject}.", "p53", "p53 is subject."),
        ("{object} is {subject}.", "α1-antitrypsin", "α1-antitrypsin is subject."),
        ("vitamin {object} is {subject}.", "A", "Vitamin A is subject."),
    ],
)
def test_fill_writes_english(sentence, value, filled):
    assert fill(sentence, "subject", value) == filled


def test_further_questions_about_a_pair(tmp_path):
    pairs = list(iter_pairs(load_table(tmp_path, TABLE)))
    rng = random.Random(1)
    for pair in pairs:
        assert len(set(pair.train_phrasings) | {pair.dev_phrasing, pair.test_phrasing}) == 4
        row = make_question(pair, rng.randrange(4), 4, rng)
        assert set(row) == {"question", "options", "answer", "meta"}
        assert gold(row) == row["meta"][pair.asks]
    first = pairs[0]
    assert first.key == ("toy", "subject 0", "object")
    assert not set(first.distractors) & {"object 0", "object 5"}
    assert len({tuple(sorted(make_question(first, 0, 4, rng)["options"])) for _ in range(50)}) > 20
    with pytest.raises(ValueError, match="13 options asked for"):
        make_question(first, 0, 13, rng)
    with pytest.raises(IndexError):
        make_question(first, 6, 4, rng)


def test_small_tables_give_small_splits(tmp_path, monkeypatch):
    """With 8 objects, ood asks with as many options as there are; pairs that allow fewer than 5 stay out of it."""
    table = TABLE | {"facts": [[f"subject {n}", f"object {n}"] for n in range(8)]}
    relations = load_table(tmp_path, table)
    monkeypatch.setattr(bank_module, "load_relations", lambda: relations)
    rows = build_bank(1)
    assert {split: len(rows[split]) for split in ("dev", "test", "ood")} == {
        "dev": 16,
        "test": 16,
        "ood": 16,
    }
    assert {len(row["options"]) for row in rows["ood"]} <= {5, 6, 7, 8}
    assert 200 < len(rows["train"]) < SIZES["train"]
    relations[:] = load_table(tmp_path, TABLE | {"facts": table["facts"][:4], "similar": []})
    assert build_bank(1)["ood"] == []
