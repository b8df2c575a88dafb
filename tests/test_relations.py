"""Our fact tables are sound, questions about one pair are right, and the filled text is English."""

import copy
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data_prep.prompt import LETTERS
from dev.laptop import bank as bank_module
from dev.laptop.bank import SIZES, build_bank, make_question
from dev.laptop.relations import (
    FACTS,
    MIN_OPTIONS,
    Relation,
    fill,
    iter_pairs,
    load_relations,
    parse_relation,
)

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


def list_texts(value: object, where: str, least: int, problems: list[str]) -> None:
    if (
        not isinstance(value, list)
        or not all(isinstance(text, str) for text in value)
        or len(value) < least
    ):
        problems.append(f"{where}: needs a list of {least} or more texts, got {value!r}")


def find_shape_problems(table: object, name: str) -> list[str]:
    """Find unknown or missing keys and values of the wrong type."""
    if not isinstance(table, dict):
        return [f"needs a mapping, got {table!r}"]
    problems = [
        f"unknown key {key!r}"
        for key in table
        if key not in ("relation", "statements", "ask_object", "ask_subject", "similar", "facts")
    ]
    if table.get("relation") != name:
        problems.append(
            f"relation: must be the file's name {name!r}, got {table.get('relation')!r}"
        )
    list_texts(table.get("statements"), "statements", 3, problems)
    for key in ("ask_object", *(["ask_subject"] if "ask_subject" in table else [])):
        value = table.get(key)
        if not isinstance(value, dict) or set(value) != {"phrasings", "ood_phrasings"}:
            problems.append(f"{key}: needs the keys phrasings and ood_phrasings, got {value!r}")
            continue
        for kind, least in (("phrasings", 4), ("ood_phrasings", 2)):
            list_texts(value[kind], f"{key}.{kind}", least, problems)
    for group in table.get("similar", []):
        list_texts(group, "similar", 2, problems)
    for row in table.get("facts") or [None]:
        if (
            not isinstance(row, list)
            or not 2 <= len(row) <= 3
            or not all(isinstance(text, str) for text in row[:2])
        ):
            problems.append(
                f"facts: needs [subject, object] or [subject, object, [also, ...]], got {row!r}"
            )
        elif len(row) == 3:
            list_texts(row[2], f"facts: {row[0]}", 1, problems)
    return problems


def find_problems(relation: Relation) -> Iterator[str]:
    """Find what is wrong in the texts of one table, one line each with the value."""
    both = {"subject", "object"}
    sentences = [(text, both) for text in relation.statements]
    for wording, placeholder in (
        (relation.ask_object, "subject"),
        (relation.ask_subject, "object"),
    ):
        stems = [] if wording is None else [*wording.phrasings, *wording.ood_phrasings]
        sentences += [(text, {placeholder}) for text in stems]
    for text, placeholders in sentences:
        if sorted(re.findall(r"\{(.*?)\}", text)) != sorted(placeholders) or re.search(
            r"[{}]", fill(text, "x", "x")
        ):
            yield f"{text!r}: needs {' and '.join(f'{{{name}}}' for name in sorted(placeholders))} once, nothing else"
    values = [text for fact in relation.facts for text in (fact.subject, fact.object, *fact.also)]
    for text in [sentence for sentence, _ in sentences] + sorted(set(values)):
        if not text or text != " ".join(text.split()):
            yield f"{text!r}: empty, or with blanks at its ends or in a row"
    yield from (
        f"{text!r}: a brace in a fact" for text in sorted(set(values)) if re.search(r"[{}]", text)
    )
    for kind, texts in (
        ("sentence", [text for text, _ in sentences]),
        ("subject", [fact.subject for fact in relation.facts]),
        ("object in another spelling", sorted({fact.object for fact in relation.facts})),
    ):
        counts = Counter(text.casefold() for text in texts)
        yield from (
            f"{text!r}: {kind} given {count} times" for text, count in counts.items() if count > 1
        )
    objects = {fact.object for fact in relation.facts}
    for text in sorted({text for two in relation.similar for text in two} - objects):
        yield f"{text!r}: similar, but no fact has this object"
    for fact in relation.facts:
        if fact.object in fact.also:
            yield f"{fact.subject!r}: {fact.object!r} is given as its object and again as also right"
        for text in sorted(set(fact.also) - objects):
            yield f"{fact.subject!r}: also {text!r}, but no fact has this object"
    for pair in iter_pairs([relation]):
        if pair.max_options < MIN_OPTIONS:
            yield (
                f"{pair.fact.subject!r} - {pair.fact.object!r}, asked for the {pair.asks}: only "
                f"{pair.max_options} options are possible, {MIN_OPTIONS} are needed"
            )


def check_table(table: object, name: str = "toy") -> list[str]:
    problems = find_shape_problems(table, name)
    return problems or list(find_problems(parse_relation(table)))


@pytest.mark.parametrize("path", sorted(FACTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_tables_are_sound(path: Path):
    assert check_table(yaml.safe_load(path.read_text(encoding="utf-8")), path.stem) == []


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
def test_the_check_of_our_tables_finds_what_is_wrong(break_table, said):
    table = copy.deepcopy(TABLE)
    break_table(table)
    assert any(said in problem for problem in check_table(table))


def test_a_table_must_be_a_mapping():
    assert check_table(["no table"]) == ["needs a mapping, got ['no table']"]


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
