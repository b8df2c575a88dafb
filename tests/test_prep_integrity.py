"""Other rows than those that are meant stop preparation: against the pinned hashes and against the last run."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from data_prep.errors import BadRow, UserError
from data_prep.prepared import FORMAT, check_row
from data_prep.rows import Question
from data_prep.splits import check_rows, hash_rows
from reward_server.scoring import parse_label
from tests.conftest import compose_words

ROOT = Path(__file__).resolve().parents[1]


def make_rows(count: int = 3) -> list[Question | BadRow]:
    return [
        Question(f"medqa/test/{n}", f"Stem {n}?", ["yes", "no"], "A", {"step": str(n)})
        for n in range(count)
    ]


def test_the_hash_sees_content_and_order_and_not_white_space_ids_or_meta() -> None:
    rows = make_rows()
    same = [Question("other/1", f" Stem\u00a0{n}?\n", ["yes ", "no"], "A") for n in range(3)]
    assert hash_rows(same) == hash_rows(rows)
    others = [
        rows[::-1],
        rows[:2],
        [*rows[:2], Question("x", "Stem 2?", ["yes", "no"], "B")],
        [*rows[:2], Question("x", "Stem 2?", ["no", "yes"], "A")],
        [*rows[:2], Question("x", "stem 2?", ["yes", "no"], "A")],
        [*rows[:2], BadRow("not_json", "detail")],
    ]
    assert len({hash_rows(other) for other in [rows, *others]}) == 1 + len(others)
    assert hash_rows([Question("x", "\ud800", ["a", "b"], "A")])


@pytest.fixture
def data() -> DictConfig:
    return compose_words("prep", ["data=medqa"]).data


def describe(rows: list[Question | BadRow]) -> dict:
    return {"rows": len(rows), "sha256": hash_rows(rows)}


def write_manifest(
    folder: Path, rows: dict, revision: str | None = "a" * 40, form: int = FORMAT
) -> Path:
    folder.mkdir()
    origin = {"rows": rows, "revision": revision}
    files = {f"{split}.jsonl": facts for split, facts in rows.items()}
    (folder / "manifest.json").write_text(
        json.dumps({"format": form, "origin": origin, "files": files})
    )
    return folder


def test_a_split_that_is_not_the_official_one_stops_with_both_hashes(
    data: DictConfig, tmp_path: Path
) -> None:
    data.official = {"test": {"rows": 3, "sha256": "0" * 64}}
    with pytest.raises(UserError) as error:
        check_rows(data, tmp_path / "none", {"test": describe(make_rows())}, None)
    assert "0" * 64 in error.value.problems[0] and hash_rows(make_rows()) in error.value.problems[0]
    assert "data.accept=true" in error.value.problems[-1]


def test_the_official_split_passes_and_another_number_of_rows_is_told(
    data: DictConfig, tmp_path: Path
) -> None:
    rows = describe(make_rows())
    data.official = {"train": {"rows": 5, "sha256": None}, "test": OmegaConf.create(rows)}
    remarks = check_rows(data, tmp_path / "none", {"train": rows, "test": rows}, None)
    assert remarks == ["train: 3 rows read, officially 5; scores are not comparable"]


def test_a_split_left_out_on_purpose_is_no_difference(data: DictConfig, tmp_path: Path) -> None:
    rows = describe(make_rows())
    data.official = {
        "train": {"rows": 5, "sha256": None},
        "dev": {"rows": 9, "sha256": "0" * 64},
        "test": rows,
    }
    assert check_rows(data, tmp_path / "none", {"test": rows}, None) == []


def test_other_rows_than_last_time_stop_and_every_change_is_told(
    data: DictConfig, tmp_path: Path
) -> None:
    data.official = {}
    same, before, now = describe(make_rows(2)), describe(make_rows(3)), describe(make_rows(4))
    folder = write_manifest(tmp_path / "medqa", {"train": same, "dev": before, "test": before})
    with pytest.raises(UserError) as error:
        check_rows(data, folder, {"train": same, "test": now}, "b" * 40)
    assert [problem.split(":")[0] for problem in error.value.problems[:2]] == [
        "medqa/dev",
        "medqa/test",
    ]
    assert "no such split now" in error.value.problems[0]
    assert "3 rows" in error.value.problems[1] and "4 rows" in error.value.problems[1]
    assert "a" * 40 in error.value.problems[2] and "b" * 40 in error.value.problems[2]


def test_accepting_takes_them_and_leaves_a_remark(data: DictConfig, tmp_path: Path) -> None:
    data.official, data.accept = {"test": {"rows": 3, "sha256": "0" * 64}}, True
    folder = write_manifest(tmp_path / "medqa", {"test": describe(make_rows(3))})
    remarks = check_rows(data, folder, {"test": describe(make_rows(4))}, "a" * 40)
    assert len(remarks) == 2 and all(
        remark.startswith("accepted: medqa/test") for remark in remarks
    )


@pytest.mark.parametrize("revision", ["a" * 40, "b" * 40, None])
def test_the_same_rows_pass_wherever_they_come_from(
    data: DictConfig, tmp_path: Path, revision: str | None
) -> None:
    data.official = {}
    rows = {"test": describe(make_rows())}
    assert check_rows(data, write_manifest(tmp_path / "medqa", rows), rows, revision) == []


def test_a_manifest_of_an_older_format_is_replaced(data: DictConfig, tmp_path: Path) -> None:
    data.official = {}
    folder = write_manifest(tmp_path / "medqa", {}, form=1)
    assert check_rows(data, folder, {"test": describe(make_rows())}, None) == []


LABEL = {"id": "x/train/1", "split": "train", "answer": "B", "options": ["a", "b"]}


@pytest.mark.parametrize(
    ("changes", "is_good"),
    [
        ({}, True),
        ({"answer": "A", "options": ["é", "b", "c"]}, True),
        ({"answer": "Z", "options": [f"o{n}" for n in range(26)]}, True),
        ({"answer": "C"}, False),
        ({"answer": "b"}, False),
        ({"answer": ""}, False),
        ({"answer": "AB"}, False),
        ({"answer": 1}, False),
        ({"answer": None}, False),
        ({"options": ["a"], "answer": "A"}, False),
        ({"options": [f"o{n}" for n in range(27)]}, False),
        ({"options": []}, False),
        ({"options": "ab"}, False),
        ({"options": {"A": "a", "B": "b"}}, False),
        ({"options": ["a", 1]}, False),
        ({"options": None}, False),
        ({"id": ""}, False),
        ({"id": 7}, False),
        ({"id": None}, False),
    ],
)
def test_a_stage_that_reads_rows_and_the_reward_refuse_the_same_labels(changes, is_good) -> None:
    """Else a label that preparation and preflight let through would stop the run at its first step."""
    fields = LABEL | changes
    text = json.dumps(fields)
    for read in (
        lambda: check_row({**fields, "label": text}, "train"),
        lambda: parse_label(text, "prompt"),
    ):
        if is_good:
            read()
        else:
            with pytest.raises((ValueError, TypeError, KeyError)):
                read()


@pytest.mark.parametrize("text", ["{", "[]", "7", "null", "", '{"id": "x/train/1"}', "[" * 100_000])
def test_a_label_that_is_no_whole_object_is_refused_by_both(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError, RecursionError)):
        check_row({**LABEL, "label": text}, "train")
    with pytest.raises(ValueError, match="Prepare the data again"):
        parse_label(text, "prompt")
