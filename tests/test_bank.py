"""The question bank: fact tables are sound, no distractor is right, splits are apart, the same bytes everywhere."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
import yaml
from scipy import stats

from data_prep.files import write_jsonl
from data_prep.prompt import LETTERS
from dev.laptop import bank as bank_module
from dev.laptop.bank import SIZES, build_bank, choose_held_out, state_fact
from dev.laptop.relations import FACTS, Relation, iter_pairs, load_relations

IN_DISTRIBUTION = ("train", "dev", "test")


@pytest.fixture(scope="module")
def relations() -> list[Relation]:
    return load_relations()


@pytest.fixture(scope="module")
def bank() -> dict[str, list[dict]]:
    return build_bank(42)


@pytest.fixture(scope="module")
def tables() -> dict[str, dict]:
    """The shipped tables as plain YAML, for checks that do not go through the generator."""
    return {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FACTS.glob("*.yaml")
    }


def gold(row: dict) -> str:
    return row["options"][LETTERS.index(row["answer"])]


def key(row: dict) -> tuple[str, str, str]:
    return row["meta"]["relation"], row["meta"]["subject"], row["meta"]["asks"]


def test_shipped_tables_are_sound_and_large(relations):
    assert len(relations) >= 10
    assert sum(len(relation.facts) for relation in relations) >= 400
    assert len({relation.name for relation in relations}) == len(relations)
    for pair in iter_pairs(relations):
        assert pair.max_options >= 10, pair.key


def test_rows_have_the_raw_format(bank):
    assert list(bank) == list(SIZES)
    for split, rows in bank.items():
        assert [row["id"] for row in rows] == [
            f"bank/{split}/{number}" for number in range(len(rows))
        ]
        for row in rows:
            assert list(row) == ["id", "question", "options", "answer", "meta"]
            assert {name: type(value) for name, value in row["meta"].items()} == {
                "relation": str, "subject": str, "object": str, "asks": str, "phrasing": int, "pair_in_train": bool
            }  # fmt: skip
            assert row["answer"] in LETTERS[: len(row["options"])]
            assert gold(row) == row["meta"][row["meta"]["asks"]]


def test_counts(bank):
    assert {split: len(rows) for split, rows in bank.items()} == SIZES
    for split in IN_DISTRIBUTION:
        assert {len(row["options"]) for row in bank[split]} == {4}
    options = Counter(len(row["options"]) for row in bank["ood"])
    assert options[10] == 250
    assert set(options) == set(range(5, 11))
    for split in ("dev", "test", "ood"):
        assert len({key(row) for row in bank[split]}) == len(bank[split]), (
            f"{split}: a pair comes twice"
        )


def test_no_distractor_is_right_by_the_tables(bank, tables):
    checked = 0
    for row in (row for rows in bank.values() for row in rows):
        table = tables[row["meta"]["relation"]]
        right_objects = {
            subject: {main, *(also[0] if also else [])} for subject, main, *also in table["facts"]
        }
        close = {
            frozenset((a, b)) for group in table.get("similar", []) for a in group for b in group
        }
        assert len({option.casefold() for option in row["options"]}) == len(row["options"])
        for option in row["options"]:
            if option == gold(row):
                assert row["meta"]["object"] in right_objects[row["meta"]["subject"]]
                continue
            subject, objects = (
                (row["meta"]["subject"], {option})
                if row["meta"]["asks"] == "object"
                else (option, {row["meta"]["object"]})
            )
            assert not objects & right_objects[subject], (row, option)
            assert not any(
                frozenset((a, b)) in close for a in objects for b in right_objects[subject]
            ), (row, option)
            checked += 1
    assert checked > 9000


def test_splits_are_apart(bank):
    asked = {
        split: {(*key(row), row["meta"]["phrasing"]) for row in rows}
        for split, rows in bank.items()
    }
    content = {
        split: {(row["question"], frozenset(row["options"])) for row in bank[split]}
        for split in bank
    }
    for one in bank:
        assert len(content[one]) == len(bank[one]), f"{one}: the same question twice"
        for other in set(bank) - {one}:
            assert not asked[one] & asked[other]
            assert not content[one] & content[other]


def test_every_phrasing_is_in_train_and_no_ood_phrasing_is(bank, relations):
    asked = {
        (row["meta"]["relation"], row["meta"]["asks"], row["meta"]["phrasing"])
        for row in bank["train"]
    }
    ood = {
        (row["meta"]["relation"], row["meta"]["asks"], row["meta"]["phrasing"])
        for row in bank["ood"]
    }
    in_distribution, others = set(), set()
    for pair in iter_pairs(relations):
        known, new = len(pair.wording.phrasings), len(pair.wording.ood_phrasings)
        in_distribution |= {(pair.relation.name, pair.asks, number) for number in range(known)}
        others |= {(pair.relation.name, pair.asks, number) for number in range(known, known + new)}
    assert asked == in_distribution
    assert ood == others
    trained = {row["question"] for row in bank["train"]}
    assert not any(row["question"] in trained for row in bank["ood"])


@pytest.mark.parametrize("split", SIZES)
def test_the_committed_bank_is_what_the_generator_writes(bank, split, tmp_path):
    """`python -m dev.laptop.bank --write data_prep/bank` after a change of tables or generator."""
    write_jsonl(tmp_path / "rows.jsonl", bank[split])
    committed = FACTS.parents[2] / "data_prep/bank" / f"{split}.jsonl"
    assert committed.read_bytes() == (tmp_path / "rows.jsonl").read_bytes()


@pytest.mark.parametrize("split", SIZES)
def test_the_committed_bank_of_five_options_is_what_the_generator_writes(split, tmp_path):
    """`python -m dev.laptop.bank --options 5 --write data_prep/bank_5` after a change."""
    rows = build_bank(42, 5)[split]
    assert len(rows) == SIZES[split]
    assert split == "ood" or {len(row["options"]) for row in rows} == {5}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    committed = FACTS.parents[2] / "data_prep/bank_5" / f"{split}.jsonl"
    assert committed.read_bytes() == (tmp_path / "rows.jsonl").read_bytes()


def test_held_out_pairs_are_not_in_train(bank, relations):
    pairs = list(iter_pairs(relations))
    held_out = choose_held_out(pairs, 42)
    assert 0.13 < len(held_out) / len(pairs) < 0.17
    trained = {key(row) for row in bank["train"]}
    assert trained == {pair.key for pair in pairs} - held_out
    for rows in bank.values():
        assert all(row["meta"]["pair_in_train"] == (key(row) in trained) for row in rows)
    for split in ("dev", "test", "ood"):
        assert (
            0.08
            < sum(not row["meta"]["pair_in_train"] for row in bank[split]) / len(bank[split])
            < 0.22
        )


@pytest.mark.parametrize("split", SIZES)
def test_gold_letters_are_balanced(bank, split):
    rows = bank[split]
    for number in {len(row["options"]) for row in rows}:
        answers = Counter(row["answer"] for row in rows if len(row["options"]) == number)
        observed = [answers[letter] for letter in LETTERS[:number]]
        assert sum(observed) == sum(answers.values())
        assert stats.chisquare(observed).pvalue > 0.9


def test_text_is_clean(bank, relations):
    rng = random.Random(0)
    texts = [row["question"] for rows in bank.values() for row in rows]
    texts += [option for rows in bank.values() for row in rows for option in row["options"]]
    texts += [state_fact(pair, rng) for pair in iter_pairs(relations) for _ in range(6)]
    assert len(texts) > 15_000
    sounds_like_consonant = re.compile(r"\b[Aa] (?:uni|use|uri|ute|one|eu)")
    no_article = re.compile(
        r"\b(vitamin|chromogranin|hexosaminidase|galactosidase|arylsulfatase) A\b", re.IGNORECASE
    )
    for text in texts:
        assert not re.search(r"[{}]|  |^ | $|\n|\b(\w+) \1\b", text), text
        text = no_article.sub(r"\1", text)
        assert not re.search(r"\b[Aa] [aeiou]", text) or sounds_like_consonant.search(text), text
        assert not re.search(r"\b[Aa]n [^aeiouAEFHILMNORSX8]", text), text
    for text in texts[: sum(SIZES.values())]:
        assert re.match(r"[A-Z0-9]|mTOR", text), text


def digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.mark.process
def test_same_bytes_everywhere_and_other_bytes_for_another_seed(bank):
    code = (
        "import hashlib, json, locale; locale.setlocale(locale.LC_ALL, ''); from dev.laptop.bank import build_bank;"
        "print(hashlib.sha256(json.dumps(build_bank(42)).encode()).hexdigest())"
    )
    settings = {"PYTHONHASHSEED": "77", "LC_ALL": "C", "TZ": "Pacific/Auckland", "PYTHONUTF8": "0"}
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FACTS.parents[2],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert child.stdout.strip() == digest(bank), child.stderr
    assert digest(build_bank(43)) != digest(bank)


def test_command_prints_the_table(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bank", "--sample"])
    monkeypatch.setenv("COLUMNS", "200")
    bank_module.main()
    out = capsys.readouterr().out
    assert re.search(r"train .* 4: 2000 .* A 500 B 500 C 500 D 500", out)
    assert out.count("\nAnswer: ") == 2 * len(load_relations())
